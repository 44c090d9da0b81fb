//! Shaping answers: one JSON object, or server-sent events.
//!
//! Streamed chat, as OpenAI sends it: an event with the role, one a piece of text, one with
//! `finish_reason`, one with the usage if asked for, `[DONE]`.
//!
//! What always holds: the status is sent after the first piece, so whatever fails before it (a prompt
//! that is too long, say) is an HTTP error and not a broken stream; a stream that fails later ends with
//! an event `{"error": …}`; an answer that was cut off never looks finished.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cloister_wire::admin::{ApiError, ErrorCode};
use cloister_wire::engine::FinishReason;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use warp::http::{HeaderValue, header};
use warp::reply::{Reply, Response};

use super::error::Failure;
use super::request::{Kind, StreamOptions, random};
use super::{Completion, ModelCard};
use crate::api::metrics::Metrics;
use crate::pipeline::serve::Piece;

/// A model card in OpenAI's shape, with vLLM's additions for adapters.
pub(super) fn model(card: &ModelCard) -> Value {
    json!({
        "id": card.id, "object": "model", "created": card.created, "owned_by": card.owned_by,
        "root": card.id, "parent": card.parent, "max_model_len": card.max_model_len,
    })
}

/// What all objects of one answer share.
pub(super) struct Head {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    metrics: Arc<Metrics>,
}

/// How an answer ended.
struct End {
    reason: &'static str,
    usage: Value,
}

impl Head {
    /// A new answer's.
    pub(super) fn new(
        kind: Kind,
        model: String,
        completion: &Completion,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Failure> {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Text => "cmpl",
        };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let id = format!("{prefix}-{:016x}{:016x}", random()?, random()?);
        Ok(Self { kind, id, created, model, fingerprint: completion.fingerprint.clone(), metrics })
    }

    fn object(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices,
        })
    }

    fn whole(&self, text: &str, end: End) -> Value {
        let mut choice = json!({ "index": 0, "logprobs": null, "finish_reason": end.reason });
        let object = match self.kind {
            Kind::Chat => {
                choice["message"] = json!({ "role": "assistant", "content": text, "refusal": null });
                "chat.completion"
            }
            Kind::Text => {
                choice["text"] = text.into();
                "text_completion"
            }
        };
        let mut whole = self.object(object, json!([choice]));
        whole["usage"] = end.usage;
        whole
    }

    fn chunk(&self, choices: Value) -> Value {
        let object = match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Text => "text_completion",
        };
        self.object(object, choices)
    }

    fn role_chunk(&self) -> Value {
        let delta = json!({ "role": "assistant", "content": "" });
        self.chunk(json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": null }]))
    }

    fn text_chunk(&self, text: &str) -> Value {
        let mut choice = json!({ "index": 0, "logprobs": null, "finish_reason": null });
        match self.kind {
            Kind::Chat => choice["delta"] = json!({ "content": text }),
            Kind::Text => choice["text"] = text.into(),
        }
        self.chunk(json!([choice]))
    }

    fn end_chunk(&self, reason: &str) -> Value {
        let mut choice = json!({ "index": 0, "logprobs": null, "finish_reason": reason });
        match self.kind {
            Kind::Chat => choice["delta"] = json!({}),
            Kind::Text => choice["text"] = "".into(),
        }
        self.chunk(json!([choice]))
    }
}

/// What a piece means to both ways of answering.
enum Step {
    Text(String),
    End(End),
}

impl Head {
    /// `None` stands for a channel that closed without an end.
    fn step(&self, piece: Option<Piece>) -> Result<Step, Failure> {
        let (reason, prompt_tokens, completion_tokens) = match piece {
            Some(Piece::Text(text)) => return Ok(Step::Text(text)),
            Some(Piece::Failed(error)) => return Err(error.into()),
            Some(Piece::Finished { reason, prompt_tokens, completion_tokens }) => {
                (reason, prompt_tokens, completion_tokens)
            }
            None => {
                let message = "the engine ended before its answer did; it is being restarted, ask again";
                return Err(ApiError::new(ErrorCode::Failed, message).into());
            }
        };
        let reason = match reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => {
                let message = "the answer was cancelled: the adapter was undeployed, or the daemon is stopping";
                return Err(ApiError::new(ErrorCode::Unavailable, message).into());
            }
        };
        self.metrics.generated(prompt_tokens, completion_tokens);
        let usage = json!({
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        });
        Ok(Step::End(End { reason, usage }))
    }
}

/// Waits for the end, then answers with one object. Dropping the future drops the completion.
pub(super) async fn whole(head: Head, mut completion: Completion) -> Result<Response, Failure> {
    let mut answer = String::new();
    loop {
        match head.step(completion.pieces.recv().await)? {
            Step::Text(text) => answer.push_str(&text),
            Step::End(end) => return Ok(warp::reply::json(&head.whole(&answer, end)).into_response()),
        }
    }
}

/// Waits for the first piece, then answers with a stream.
pub(super) async fn streamed(
    head: Head,
    mut completion: Completion,
    options: StreamOptions,
) -> Result<Response, Failure> {
    let first = head.step(completion.pieces.recv().await)?;
    let mut events = Events {
        head,
        include_usage: options.include_usage,
        pieces: completion.pieces,
        _guard: Mutex::new(completion.guard),
        ready: VecDeque::new(),
        ended: false,
    };
    if events.head.kind == Kind::Chat {
        let role = events.head.role_chunk();
        events.send(role);
    }
    events.take(Ok(first));
    let mut response = warp::reply::stream(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A streamed answer; dropped with its connection.
struct Events {
    head: Head,
    include_usage: bool,
    pieces: mpsc::Receiver<Piece>,
    /// Cancels when dropped. Never locked: the mutex makes it `Sync`, as warp's bodies must be.
    _guard: Mutex<Box<dyn Send>>,
    /// Events to be sent before the next piece is looked at.
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Events {
    fn take(&mut self, step: Result<Step, Failure>) {
        match step {
            Ok(Step::Text(text)) => {
                let chunk = self.head.text_chunk(&text);
                self.send(chunk);
            }
            Ok(Step::End(end)) => {
                let chunk = self.head.end_chunk(end.reason);
                self.send(chunk);
                if self.include_usage {
                    let mut last = self.head.chunk(json!([]));
                    last["usage"] = end.usage;
                    self.ready.push_back(event(&last.to_string()));
                }
                self.finish();
            }
            Err(failure) => {
                self.ready.push_back(event(&failure.body().to_string()));
                self.finish();
            }
        }
    }

    fn send(&mut self, mut chunk: Value) {
        if self.include_usage {
            chunk["usage"] = Value::Null; // as OpenAI does in all events but the last
        }
        self.ready.push_back(event(&chunk.to_string()));
    }

    fn finish(&mut self) {
        self.ready.push_back(event("[DONE]"));
        self.ended = true;
    }
}

/// With the space after the colon: the standard does without, many a hand-written client does not.
fn event(data: &str) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let piece = ready!(self.pieces.poll_recv(context));
            let step = self.head.step(piece);
            self.take(step);
        }
    }
}
