//! OpenAI's API under `/v1`, so that every client that speaks it works unmodified: models, chat
//! completions and completions, whole or streamed as server-sent events.
//!
//! | | |
//! |---|---|
//! | GET `/v1/models`, `/v1/models/ID` | what the caller may use |
//! | POST `/v1/chat/completions` | `request.rs` reads it, [`Inference`] answers, `answer.rs` shapes the answer |
//! | POST `/v1/completions` | the same, without the chat template |
//!
//! What always holds: a parameter that would change the answer and is not supported is refused by name,
//! never ignored; every failure has OpenAI's shape; no message repeats a prompt's text; a client that
//! goes away drops its [`Completion`], and with it the work. Reference:
//! <https://platform.openai.com/docs/api-reference/chat>.

mod answer;
mod error;
mod request;

use std::future::Future;
use std::sync::Arc;

use bytes::Buf;
use cloister_wire::admin::{ApiError, ErrorCode};
use cloister_wire::engine::{Prompt, Sampling};
use futures_util::Stream;
use serde::Serialize;
use tokio::sync::mpsc;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::path::FullPath;
use warp::reply::{Reply, Response};

use self::error::Failure;
use self::request::Kind;
use super::body;
use super::metrics::Metrics;
use crate::access::Principal;
use crate::pipeline::serve::Piece;

/// What gives answers: the rest of the daemon, seen from here.
pub trait Inference: Send + Sync + 'static {
    /// The deployed models that the caller may use.
    fn models(&self, who: &Principal) -> impl Future<Output = Result<Vec<ModelCard>, ApiError>> + Send;

    /// Begins an answer: checks that the model is deployed and that policy lets the caller use it.
    fn generate(
        &self,
        who: &Principal,
        model: &str,
        prompt: Prompt,
        sampling: Sampling,
    ) -> impl Future<Output = Result<Completion, InferenceError>> + Send;
}

/// Why no answer was begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// As many requests as may are waiting already (HTTP 429).
    #[error("{waiting} requests are waiting already; try again in a moment")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// Anything else.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// One entry of `/v1/models`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelCard {
    /// The adapter's name.
    pub id: String,
    /// When it was deployed, in seconds since 1970.
    pub created: i64,
    /// Who trained or imported it.
    pub owned_by: String,
    /// The base model's name; vLLM's field for an adapter.
    pub parent: Option<String>,
    /// Longest sequence, prompt and answer; vLLM's field.
    pub max_model_len: Option<u32>,
}

/// An answer being given.
pub struct Completion {
    /// Its text as it comes, then one `Finished` or `Failed`.
    pub pieces: mpsc::Receiver<Piece>,
    /// Dropping it cancels the work.
    pub guard: Box<dyn Send>,
    /// What answers, such as the adapter's digest: the same prompt, seed and fingerprint give the same answer.
    pub fingerprint: String,
}

/// What a request may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest body.
    pub max_request_bytes: u64,
    /// Longest answer of a request that names none.
    pub default_max_tokens: u32,
    /// Longest answer that a request may name.
    pub most_max_tokens: u32,
}

impl Limits {
    /// Those of the configuration.
    pub fn of(config: &crate::config::Config) -> Self {
        Self {
            max_request_bytes: config.door.max_request_bytes,
            default_max_tokens: config.serving.default_max_tokens,
            most_max_tokens: config.serving.most_max_tokens,
        }
    }
}

/// Everything under `/v1`; rejects only paths that are elsewhere. Needs a [`Principal`] in the extensions.
pub fn routes<I: Inference>(inference: Arc<I>, limits: Limits, metrics: Arc<Metrics>) -> BoxedFilter<(Response,)> {
    let v1 = warp::path("v1");
    let who = warp::ext::get::<Principal>();
    let api = Api { inference, limits, metrics };
    let api = warp::any().map(move || api.clone());

    let models = v1
        .and(warp::path!("models"))
        .and(warp::get())
        .and(who)
        .and(api.clone())
        .then(async |who, api: Api<I>| api.answer("models", api.models(who).await));
    let model = v1
        .and(warp::path!("models" / String))
        .and(warp::get())
        .and(who)
        .and(api.clone())
        .then(async |id, who, api: Api<I>| api.answer("models", api.model(id, who).await));
    let chat = v1
        .and(warp::path!("chat" / "completions"))
        .and(warp::post())
        .and(who)
        .and(warp::body::stream())
        .and(api.clone())
        .then(async |who, body, api: Api<I>| api.answer("chat", api.complete(Kind::Chat, who, body).await));
    let text = v1
        .and(warp::path!("completions"))
        .and(warp::post())
        .and(who)
        .and(warp::body::stream())
        .and(api)
        .then(async |who, body, api: Api<I>| api.answer("completions", api.complete(Kind::Text, who, body).await));
    let unknown = v1
        .and(warp::method())
        .and(warp::path::full())
        .map(|method, path: FullPath| Failure::unknown_url(&method, path.as_str()).into_response());

    models.or(model).unify().or(chat).unify().or(text).unify().or(unknown).unify().boxed()
}

struct Api<I> {
    inference: Arc<I>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

// Not derived: `I` itself need not be `Clone`.
impl<I> Clone for Api<I> {
    fn clone(&self) -> Self {
        Self { inference: Arc::clone(&self.inference), limits: self.limits, metrics: Arc::clone(&self.metrics) }
    }
}

impl<I: Inference> Api<I> {
    fn answer(&self, api: &'static str, outcome: Result<Response, Failure>) -> Response {
        let response = outcome.unwrap_or_else(Reply::into_response);
        self.metrics.answered(api, response.status().as_u16());
        response
    }

    async fn models(&self, who: Principal) -> Result<Response, Failure> {
        let cards = self.inference.models(&who).await?;
        let data: Vec<_> = cards.iter().map(answer::model).collect();
        Ok(warp::reply::json(&serde_json::json!({ "object": "list", "data": data })).into_response())
    }

    async fn model(&self, id: String, who: Principal) -> Result<Response, Failure> {
        let cards = self.inference.models(&who).await?;
        match cards.iter().find(|card| card.id == id) {
            Some(card) => Ok(warp::reply::json(&answer::model(card)).into_response()),
            None => {
                let message = format!("the model `{id}` is not deployed, or not for you; `GET /v1/models` lists yours");
                Err(ApiError::new(ErrorCode::NotFound, message).into())
            }
        }
    }

    async fn complete<B: Buf>(
        &self,
        kind: Kind,
        who: Principal,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Response, Failure> {
        let body = body::read(body, self.limits.max_request_bytes).await?;
        let request = request::parse(kind, &body, &self.limits)?;
        let begun = self.inference.generate(&who, &request.model, request.prompt, request.sampling);
        let completion = begun.await?;
        let head = answer::Head::new(kind, request.model, &completion, Arc::clone(&self.metrics))?;
        match request.stream {
            Some(options) => answer::streamed(head, completion, options).await,
            None => answer::whole(head, completion).await,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
