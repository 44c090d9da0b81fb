//! The API against a scripted [`Inference`]: in process, through the door, and with OpenAI's own client.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use cloister_wire::engine::FinishReason;
use http_body_util::{BodyExt, Full};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::api::testing::{House, ada, get, own_uid, post};

/// Answers by the model's name; counts answers whose guard was dropped.
struct Fake {
    dropped: watch::Sender<u64>,
}

struct Guard(watch::Sender<u64>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count += 1);
    }
}

impl Inference for Fake {
    async fn models(&self, who: &Principal) -> Result<Vec<ModelCard>, ApiError> {
        let parent = Some("demo".to_owned());
        let owned_by = who.name.clone();
        Ok(vec![ModelCard { id: "notes".into(), created: 1_795_000_000, owned_by, parent, max_model_len: Some(2048) }])
    }

    async fn generate(
        &self,
        _: &Principal,
        model: &str,
        prompt: Prompt,
        sampling: Sampling,
    ) -> Result<Completion, InferenceError> {
        let asked = match prompt {
            Prompt::Chat(messages) => messages.iter().map(|m| format!("{}={}", m.role, m.content)).collect::<String>(),
            Prompt::Text(text) => text,
        };
        let text = |text: String| Piece::Text(text);
        let end = |reason| Piece::Finished { reason, prompt_tokens: 5, completion_tokens: 2 };
        let failed = |code, message: &str| Piece::Failed(ApiError::new(code, message));
        let script = match model {
            "notes" => {
                vec![text(format!("<{asked}>")), text(format!(" t={}", sampling.temperature)), end(FinishReason::Stop)]
            }
            "long" => vec![text("a".into()), end(FinishReason::Length)],
            "early" => vec![failed(ErrorCode::Invalid, "the prompt has 9000 tokens and the model takes 2048")],
            "late" => vec![text("a".into()), failed(ErrorCode::Failed, "the engine lost its GPU")],
            "cut" => vec![text("a".into())],
            "stopped" => vec![text("a".into()), end(FinishReason::Cancelled)],
            "endless" => vec![text("a".into()); 1_000_000],
            "silent" => vec![],
            "full" => return Err(InferenceError::QueueFull { waiting: 32 }),
            "sealed" => {
                return Err(ApiError::new(ErrorCode::Unavailable, "the vault is sealed").remedy("unseal it").into());
            }
            "denied" => {
                let mut error = ApiError::new(ErrorCode::Denied, "one approval is missing").remedy("have bo approve");
                error.rule = Some("hipaa-two-people".into());
                return Err(error.into());
            }
            _ => return Err(ApiError::new(ErrorCode::NotFound, format!("no model `{model}`")).into()),
        };
        let (send, pieces) = mpsc::channel(4);
        let hang = model == "silent";
        tokio::spawn(async move {
            for piece in script {
                if send.send(piece).await.is_err() {
                    return;
                }
            }
            if hang {
                send.closed().await;
            }
        });
        Ok(Completion { pieces, guard: Box::new(Guard(self.dropped.clone())), fingerprint: "fp_0123abcd".into() })
    }
}

const LIMITS: Limits = Limits { max_request_bytes: 4096, default_max_tokens: 64, most_max_tokens: 128 };

fn api() -> (BoxedFilter<(Response,)>, watch::Receiver<u64>) {
    let (dropped, count) = watch::channel(0);
    (routes(Arc::new(Fake { dropped }), LIMITS, Arc::default()), count)
}

async fn call(mut request: hyper::Request<Full<Bytes>>) -> (u16, Bytes) {
    request.extensions_mut().insert(ada());
    let service = TowerToHyperService::new(warp::service(api().0));
    let response = service.call(request).await.unwrap();
    (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes())
}

async fn json_of(request: hyper::Request<Full<Bytes>>) -> (u16, Value) {
    let (status, body) = call(request).await;
    (status, serde_json::from_slice(&body).unwrap())
}

fn chat(model: &str, more: Value) -> hyper::Request<Full<Bytes>> {
    let mut body = json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    post("/v1/chat/completions", body.to_string())
}

/// The events' data, each checked to be framed as OpenAI frames it.
async fn events(request: hyper::Request<Full<Bytes>>) -> Vec<String> {
    let (status, body) = call(request).await;
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(status, 200, "{body}");
    let events = body.strip_suffix("\n\n").unwrap().split("\n\n");
    events.map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
}

fn parsed(event: &str) -> Value {
    serde_json::from_str(event).unwrap()
}

#[tokio::test]
async fn models_are_listed_and_found_by_name() {
    let (status, list) = json_of(get("/v1/models")).await;
    assert_eq!((status, &list["object"], &list["data"][0]["id"]), (200, &json!("list"), &json!("notes")));
    let (status, model) = json_of(get("/v1/models/notes")).await;
    assert_eq!((status, &model["object"], &model["parent"]), (200, &json!("model"), &json!("demo")));
    let (status, error) = json_of(get("/v1/models/other")).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_chat_is_answered_whole() {
    let (status, answer) = json_of(chat("notes", json!({ "temperature": 0 }))).await;
    assert_eq!((status, &answer["object"]), (200, &json!("chat.completion")));
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({ "role": "assistant", "content": "<user=hi> t=0", "refusal": null }));
    assert_eq!((&choice["finish_reason"], &answer["system_fingerprint"]), (&json!("stop"), &json!("fp_0123abcd")));
    assert_eq!(answer["usage"], json!({ "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7 }));
    let (_, cut) = json_of(chat("long", json!({}))).await;
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_chat_is_streamed_with_its_role_first_and_its_usage_last() {
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let events = events(chat("notes", options)).await;
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> = events[..events.len() - 1].iter().map(|event| parsed(event)).collect();
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(*deltas[0], json!({ "role": "assistant", "content": "" }));
    assert_eq!((deltas[1], deltas[2]), (&json!({ "content": "<user=hi>" }), &json!({ "content": " t=1" })));
    assert_eq!((deltas[3], &chunks[3]["choices"][0]["finish_reason"]), (&json!({}), &json!("stop")));
    assert_eq!((&chunks[4]["choices"], &chunks[4]["usage"]["total_tokens"]), (&json!([]), &json!(7)));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk"));
    assert!(chunks[..4].iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
}

#[tokio::test]
async fn answers_and_tokens_are_counted() {
    let metrics = Arc::new(Metrics::default());
    let routes = routes(Arc::new(Fake { dropped: watch::channel(0).0 }), LIMITS, Arc::clone(&metrics));
    for (model, stream) in [("notes", false), ("notes", true), ("denied", false)] {
        let mut request = chat(model, json!({ "stream": stream }));
        request.extensions_mut().insert(ada());
        let service = TowerToHyperService::new(warp::service(routes.clone()));
        service.call(request).await.unwrap().into_body().collect().await.unwrap();
    }
    let text = metrics.render();
    assert!(text.contains("{api=\"chat\",status=\"200\"} 2") && text.contains("status=\"403\"} 1"), "{text}");
    assert!(text.contains("cloister_completion_tokens_total 4"), "{text}");
}

#[tokio::test]
async fn usage_is_streamed_only_when_asked_for() {
    let events = events(chat("notes", json!({ "stream": true }))).await;
    assert!(events.len() == 5 && events.iter().all(|event| !event.contains("usage")), "{events:?}");
}

#[tokio::test]
async fn a_text_is_continued_whole_and_streamed() {
    let body = |stream: bool| json!({ "model": "notes", "prompt": "once", "stream": stream }).to_string();
    let (_, answer) = json_of(post("/v1/completions", body(false))).await;
    assert_eq!((&answer["object"], &answer["choices"][0]["text"]), (&json!("text_completion"), &json!("<once> t=1")));
    let events = events(post("/v1/completions", body(true))).await;
    let texts: Vec<Value> =
        events[..events.len() - 1].iter().map(|e| parsed(e)["choices"][0]["text"].clone()).collect();
    assert_eq!(texts, [json!("<once>"), json!(" t=1"), json!("")]);
}

#[tokio::test]
async fn failures_have_their_status_and_openais_shape() {
    for (model, status, code) in [
        ("nothing", 404, json!("model_not_found")),
        ("denied", 403, json!("policy_denied")),
        ("sealed", 503, json!("unavailable")),
        ("full", 429, json!("rate_limit_exceeded")),
        ("early", 400, Value::Null),
        ("late", 500, Value::Null),
        ("cut", 500, Value::Null),
        ("stopped", 503, json!("unavailable")),
    ] {
        let (found, body) = json_of(chat(model, json!({}))).await;
        assert_eq!((found, &body["error"]["code"]), (status, &code), "{model}: {body}");
        assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string());
    }
    let (_, denied) = json_of(chat("denied", json!({}))).await;
    let message = denied["error"]["message"].as_str().unwrap();
    assert!(message.contains("`hipaa-two-people`") && message.contains("have bo approve"), "{message}");
}

#[tokio::test]
async fn requests_that_are_none_are_refused_in_shape() {
    for (request, status) in [
        (post("/v1/chat/completions", "{"), 400),
        (post("/v1/chat/completions", vec![b' '; 5000]), 413),
        (post("/v1/embeddings", "{}"), 404),
        (get("/v1/chat/completions"), 405),
        (get("/v1"), 404),
    ] {
        let place = request.uri().clone();
        let (found, body) = json_of(request).await;
        assert_eq!(found, status, "{place}: {body}");
        assert_eq!(body["error"]["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn a_failure_before_the_first_text_is_no_stream_and_a_later_one_ends_it() {
    let (status, body) = json_of(chat("early", json!({ "stream": true }))).await;
    assert!(status == 400 && body["error"]["message"].as_str().unwrap().contains("2048"), "{body}");
    for model in ["late", "cut", "stopped"] {
        let events = events(chat(model, json!({ "stream": true }))).await;
        let [.., error, done] = &events[..] else { panic!("{events:?}") };
        assert!(parsed(error)["error"]["message"].is_string() && done == "[DONE]");
        assert!(!events.iter().any(|event| event.contains("\"finish_reason\":\"")), "it must not look finished");
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_answer() {
    let mut house = House::new();
    let ada = house.admit("ada", own_uid());
    let (routes, mut dropped) = api();
    let door = house.open(routes, House::limits());

    // In the middle of a stream …
    let mut client = door.connect(&ada).await;
    let answer = client.send_request(chat("endless", json!({ "stream": true }))).await.unwrap();
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(*dropped.borrow(), 0);
    drop((body, client));
    tokio::time::timeout(Duration::from_secs(5), dropped.wait_for(|count| *count == 1)).await.unwrap().unwrap();

    // … and while it waits for a whole answer.
    let mut client = door.connect(&ada).await;
    let waiting = client.send_request(chat("silent", json!({})));
    tokio::time::timeout(Duration::from_millis(200), waiting).await.unwrap_err();
    assert_eq!(*dropped.borrow(), 1);
    drop(client);
    tokio::time::timeout(Duration::from_secs(5), dropped.wait_for(|count| *count == 2)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_own_client_works_unmodified() {
    let Some(python) = python_with_openai() else {
        eprintln!("skipped: no Python that imports openai and httpx (set CLOISTER_PEERS_PYTHON to one)");
        return;
    };
    let mut house = House::new();
    let identity = house.admit("ada", own_uid());
    let folder = house.write(&identity);
    let (routes, dropped) = api();
    let door = house.open(routes, House::limits());
    let socket = door.socket.clone();
    let run = move || {
        Command::new(python).args(["-c", include_str!("official_client.py")]).arg(socket).arg(folder).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "all well");
    let mut dropped = dropped;
    tokio::time::timeout(Duration::from_secs(5), dropped.wait_for(|count| *count >= 5)).await.unwrap().unwrap();
}

fn python_with_openai() -> Option<String> {
    let candidates = std::env::var("CLOISTER_PEERS_PYTHON").ok().into_iter().chain(["python3".to_owned()]);
    candidates.into_iter().find(|python| {
        let tried = Command::new(python).args(["-c", "import openai, httpx"]).output();
        tried.is_ok_and(|output| output.status.success())
    })
}
