//! `/admin/v1`: the routes of `cloister_wire::admin`, as one table.
//!
//! A handler reads its input, calls one function of the pipeline on a thread that may block, and answers with what
//! that returns. What is decided and what is logged is the pipeline's; nothing here knows a rule.

use std::sync::Arc;

use cloister_wire::admin as wire;
use cloister_wire::admin::{ApiError, Work};
use cloister_wire::recipe::Recipe;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use warp::filters::BoxedFilter;
use warp::http::{Method, StatusCode};
use warp::hyper::body::Bytes;
use warp::reply::{Reply, Response};
use warp::{Buf, Filter};

use super::body;
use super::house::{House, Opened};
use super::upload::Upload;
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::pipeline::{approve, check, evaluate, ingest, models, plugins, seal, train};

mod house;
mod jobs;
mod lists;
mod records;

/// One request.
struct Call {
    house: Arc<House>,
    who: Principal,
    query: String,
    body: Body,
}

type Body = std::pin::Pin<Box<dyn Stream<Item = std::result::Result<Bytes, warp::Error>> + Send>>;

/// Everything under `/admin/v1`.
pub fn routes(house: Arc<House>) -> BoxedFilter<(Response,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let body = warp::body::stream().map(|body| -> Body {
        Box::pin(StreamExt::map(body, |piece: std::result::Result<_, warp::Error>| piece.map(to_bytes)))
    });
    warp::path!("admin" / "v1" / ..)
        .and(warp::method())
        .and(warp::path::tail())
        .and(query)
        .and(warp::ext::get::<Principal>())
        .and(body)
        .and(warp::any().map(move || house.clone()))
        .then(|method: Method, tail: warp::path::Tail, query, who, body, house| async move {
            let segments: Vec<&str> = tail.as_str().split('/').filter(|s| !s.is_empty()).collect();
            let call = Call { house, who, query, body };
            dispatch(&method, &segments, call).await.unwrap_or_else(|error| failure(&error.into()))
        })
        .boxed()
}

fn to_bytes(mut piece: impl Buf) -> Bytes {
    piece.copy_to_bytes(piece.remaining())
}

async fn dispatch(method: &Method, path: &[&str], call: Call) -> Result<Response> {
    match (method.as_str(), path) {
        ("GET", ["status"]) => house::status(call).await,
        ("POST", ["unseal"]) => house::unseal(call).await,
        ("GET", ["doctor"]) => house::doctor(call).await,
        ("GET", ["models"]) => call.list(lists::all::<wire::Model>).await,
        ("GET", ["models", name]) => call.named(name, lists::one::<wire::Model>).await,
        ("DELETE", ["models", name]) => call.named(name, |o, who, name| models::remove(&o.appliance, who, name)).await,
        ("POST", ["models", name, "verify"]) => {
            call.named(name, |o, who, name| models::verify(&o.appliance, who, name)).await
        }
        ("POST", ["models", name, "commit"]) => {
            call.named(name, |o, who, name| models::commit(&o.appliance, who, name)).await
        }
        ("PUT", ["models", name, "files", file]) => {
            let file = (*file).to_owned();
            call.upload(name, move |o, who, name, body| models::stage(&o.appliance, who, name, &file, body)).await
        }
        ("GET", ["datasets"]) => call.list(lists::all::<wire::Dataset>).await,
        ("GET", ["datasets", name]) => call.named(name, lists::one::<wire::Dataset>).await,
        ("DELETE", ["datasets", name]) => call.named(name, |o, who, name| seal::shred(&o.appliance, who, name)).await,
        ("POST", ["datasets", name]) => {
            call.upload(name, |o, who, name, mut body| {
                let spec = body.json_line()?;
                ingest::ingest(&o.appliance, who, name, &spec, body)
            })
            .await
        }
        ("POST", ["datasets", name, "clean"]) => jobs::clean(call, name).await,
        ("POST", ["datasets", name, "check"]) => {
            call.asked(name, |o, who, name, spec| check::check(&o.appliance, who, name, &spec)).await
        }
        ("GET", ["datasets", name, "sample"]) => {
            let n = call.number("n", 3);
            call.named(name, move |o, who, name| records::sample(&o.appliance, who, name, n)).await
        }
        ("GET", ["plugins"]) => call.list(lists::all::<wire::Plugin>).await,
        ("GET", ["plugins", name]) => call.named(name, lists::one::<wire::Plugin>).await,
        ("DELETE", ["plugins", name]) => {
            call.named(name, |o, who, name| plugins::remove(&o.appliance, who, name)).await
        }
        ("POST", ["plugins"]) => {
            call.upload("", |o, who, _, mut body| {
                let manifest = body.json_line()?;
                plugins::install(&o.appliance, who, manifest, body)
            })
            .await
        }
        ("POST", ["plugins", name, "test"]) => {
            call.asked(name, |o, who, name, records: Vec<_>| plugins::test(&o.appliance, who, name, &records)).await
        }
        ("POST", ["train"]) => jobs::train(call).await,
        ("GET", ["jobs"]) => jobs::list(call).await,
        ("GET", ["jobs", id]) => jobs::show(call, id).await,
        ("GET", ["jobs", id, "events"]) => jobs::events(call, id).await,
        ("POST", ["jobs", id, "cancel"]) => jobs::cancel(call, id).await,
        ("POST", ["jobs", id, "resume"]) => jobs::resume(call, id).await,
        ("GET", ["adapters"]) => call.list(lists::all::<wire::Adapter>).await,
        ("GET", ["adapters", name]) => call.named(name, lists::one::<wire::Adapter>).await,
        ("DELETE", ["adapters", name]) => call.named(name, |o, who, name| train::remove(&o.appliance, who, name)).await,
        ("POST", ["adapters", name, "evaluate"]) => jobs::evaluate(call, name).await,
        ("POST", ["adapters", name, "approve"]) => {
            call.asked(name, |o, who, name, spec| approve::approve(&o.appliance, who, name, &spec)).await
        }
        ("GET", ["adapters", name, "export"]) => {
            call.named(name, |o, who, name| records::export(&o.appliance, who, name)).await
        }
        ("POST", ["adapters", name, "import"]) => {
            let call = call.first(name, |o, who, name| records::may_import(&o.appliance, who, name)).await?;
            call.uploaded_json(name, |o, who, name, import| records::import(&o.appliance, who, name, &import)).await
        }
        ("GET", ["deployments"]) => call.list(lists::all::<wire::Deployment>).await,
        ("POST", ["deployments", name]) => {
            call.named(name, |o, who, name| o.serving.deploy(&o.appliance, who, name)).await
        }
        ("DELETE", ["deployments", name]) => {
            call.named(name, |o, who, name| o.serving.undeploy(&o.appliance, who, name)).await
        }
        ("GET", ["policy"]) => call.list(lists::policy).await,
        ("POST", ["policy", "explain"]) => call.asked("", |o, who, _, spec| lists::explain(o, who, &spec)).await,
        ("POST", ["policy", "test"]) => house::policy_test(call).await,
        ("GET", ["audit", "tail"]) => {
            let n = call.number("n", 20);
            call.list(move |o, who| lists::audit_tail(o, who, n)).await
        }
        ("POST", ["audit", "verify"]) => call.list(lists::audit_verify).await,
        ("GET", ["audit", "export"]) => call.text(lists::audit_export).await,
        ("GET", ["keys"]) => call.list(house::keys).await,
        ("POST", ["keys", "rotate"]) => call.list(house::rotate).await,
        ("POST", ["keys", "backup"]) => {
            call.asked("", |o, who, _, pass: wire::Passphrase| house::backup(o, who, &pass)).await
        }
        ("POST", ["keys", "restore"]) => house::restore(call).await,
        ("GET", ["users"]) => house::users(call).await,
        ("POST", ["users"]) => house::add_user(call).await,
        ("DELETE", ["users", name]) => house::revoke_user(call, name).await,
        _ => {
            let path = path.join("/").chars().take(100).collect::<String>();
            let error = ApiError::new(wire::ErrorCode::NotFound, format!("there is no `{method} /admin/v1/{path}`"));
            Err(Error::Api(
                error.remedy("CLI and daemon may be of different versions; `cloister status` tells the daemon's"),
            ))
        }
    }
}

impl Call {
    /// What a person asks of the whole.
    async fn list<T: Serialize + Send + 'static>(
        self,
        run: impl FnOnce(&Opened, &Principal) -> Result<T> + Send + 'static,
    ) -> Result<Response> {
        self.named("", move |opened, who, _| run(opened, who)).await
    }

    /// What a person asks of a thing.
    async fn named<T: Serialize + Send + 'static>(
        self,
        name: &str,
        run: impl FnOnce(&Opened, &Principal, &str) -> Result<T> + Send + 'static,
    ) -> Result<Response> {
        let (opened, name) = (self.house.opened()?, name.to_owned());
        json(&blocking(move || run(&opened, &self.who, &name)).await?)
    }

    /// The same, with JSON for an answer's lines.
    async fn text(self, run: impl FnOnce(&Opened, &Principal) -> Result<Vec<u8>> + Send + 'static) -> Result<Response> {
        let opened = self.house.opened()?;
        Ok(blocking(move || run(&opened, &self.who)).await?.into_response())
    }

    /// What a person asks of a thing in so many words (JSON).
    async fn asked<I: DeserializeOwned + Send + 'static, T: Serialize + Send + 'static>(
        self,
        name: &str,
        run: impl FnOnce(&Opened, &Principal, &str, I) -> Result<T> + Send + 'static,
    ) -> Result<Response> {
        let limit = self.house.max_request_bytes;
        self.json_up_to(limit, name, run).await
    }

    /// Asks before a large body is read: who may not bring it is not listened to.
    async fn first(
        self,
        name: &str,
        ask: impl FnOnce(&Opened, &Principal, &str) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (opened, who, name) = (self.house.opened()?, self.who.clone(), name.to_owned());
        blocking(move || ask(&opened, &who, &name)).await?;
        Ok(self)
    }

    /// The same, when the words are a file's length.
    async fn uploaded_json<I: DeserializeOwned + Send + 'static, T: Serialize + Send + 'static>(
        self,
        name: &str,
        run: impl FnOnce(&Opened, &Principal, &str, I) -> Result<T> + Send + 'static,
    ) -> Result<Response> {
        let limit = self.house.max_upload_bytes.min(2 << 30);
        self.json_up_to(limit, name, run).await
    }

    async fn json_up_to<I: DeserializeOwned + Send + 'static, T: Serialize + Send + 'static>(
        self,
        limit: u64,
        name: &str,
        run: impl FnOnce(&Opened, &Principal, &str, I) -> Result<T> + Send + 'static,
    ) -> Result<Response> {
        let (opened, name) = (self.house.opened()?, name.to_owned());
        let input = read_json(self.body, limit).await?;
        json(&blocking(move || run(&opened, &self.who, &name, input)).await?)
    }

    /// What a person brings.
    async fn upload<T: Serialize + Send + 'static>(
        self,
        name: &str,
        run: impl FnOnce(&Opened, &Principal, &str, Upload) -> Result<T> + Send + 'static,
    ) -> Result<Response> {
        let (opened, name) = (self.house.opened()?, name.to_owned());
        let upload = Upload::of(self.body, self.house.max_upload_bytes);
        json(&blocking(move || run(&opened, &self.who, &name, upload)).await?)
    }

    /// A number in the query.
    fn number(&self, key: &str, default: usize) -> usize {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == key).find_map(|(_, value)| value.parse().ok()).unwrap_or(default)
    }
}

async fn read_json<T: DeserializeOwned>(stream: Body, limit: u64) -> Result<T> {
    let bytes = body::read(stream, limit).await.map_err(|error| Error::invalid(error.to_string()))?;
    // An empty body asks for the defaults.
    let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(format!("the request does not parse: {error}")))
}

/// Runs blocking code off the async threads.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result,
        Err(error) => {
            log::error!("a request's work panicked: {error}");
            Err(Error::failed("the daemon has a fault").remedy("its log tells more: `journalctl -u cloister`"))
        }
    }
}

fn json(value: &impl Serialize) -> Result<Response> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::failed(error.to_string()))?;
    let reply = warp::reply::with_header(bytes, "content-type", "application/json");
    Ok(reply.into_response())
}

/// An error's response.
pub fn failure(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    warp::reply::with_status(warp::reply::json(error), status).into_response()
}

/// A recipe, parsed and valid.
fn recipe(text: &str) -> Result<Recipe> {
    Recipe::parse(text)
        .map_err(|error| Error::invalid(error.to_string()).remedy("`cloister train --help` shows a recipe"))
}

/// Where every route has its last say.
pub async fn nothing_here() -> Response {
    failure(
        &ApiError::new(wire::ErrorCode::NotFound, "there is nothing here").remedy("the API is under /admin/v1 and /v1"),
    )
}

/// Admission of a training job, then the job.
fn train_work(opened: &Opened, who: &Principal, request: &wire::TrainRequest) -> Result<Work> {
    let recipe = recipe(&request.recipe)?;
    train::admit(&opened.appliance, who, &recipe)?;
    Ok(Work::Train { recipe })
}

fn evaluate_work(opened: &Opened, who: &Principal, name: &str, spec: wire::EvaluateSpec) -> Result<Work> {
    evaluate::admit(&opened.appliance, who, name, &spec)?;
    Ok(Work::Evaluate { adapter: name.into(), spec })
}
