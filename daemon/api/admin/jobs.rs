//! Jobs: begun, listed, followed, ended.

use bytes::Bytes;
use cloister_wire::admin as wire;
use cloister_wire::admin::{Job, JobEvent, Work};
use futures_util::stream;
use serde_json::json as value;
use tokio::sync::broadcast::error::RecvError;
use warp::http::Response as HttpResponse;
use warp::reply::{Reply, Response};

use super::{Call, blocking, evaluate_work, json, read_json, train_work};
use crate::access::Principal;
use crate::api::house::Opened;
use crate::error::{Error, Result};
use crate::job;
use crate::pipeline::check::dataset_resource;
use crate::pipeline::{Act, appliance};
use crate::policy::{self, Action};
use crate::supervisor::Supervisor;

pub(super) async fn clean(call: Call, name: &str) -> Result<Response> {
    let limit = call.house.max_request_bytes;
    let spec: wire::CleanSpec = read_json(call.body, limit).await?;
    let (opened, who, dataset) = (call.house.opened()?, call.who, name.to_owned());
    submit(opened, who, move |opened, who| {
        let a = &opened.appliance;
        let entry = a.catalog.find::<wire::Dataset>(&dataset)?.ok_or_else(|| Error::not_found("dataset", &dataset))?;
        let act = Act::new(Action::CleanDataset, dataset_resource(&entry)).details(value!({"plugins": spec.plugins}));
        a.allow(who, &act)?;
        crate::pipeline::ingest::RawSet::of(entry)?;
        crate::pipeline::plugins::wanted(a, &spec.plugins)?;
        Ok(Work::Clean { dataset, spec })
    })
    .await
}

pub(super) async fn train(call: Call) -> Result<Response> {
    let limit = call.house.max_request_bytes;
    let request: wire::TrainRequest = read_json(call.body, limit).await?;
    submit(call.house.opened()?, call.who, move |opened, who| train_work(opened, who, &request)).await
}

pub(super) async fn evaluate(call: Call, name: &str) -> Result<Response> {
    let limit = call.house.max_request_bytes;
    let spec: wire::EvaluateSpec = read_json(call.body, limit).await?;
    let name = name.to_owned();
    submit(call.house.opened()?, call.who, move |opened, who| evaluate_work(opened, who, &name, spec)).await
}

/// Admits work and makes it a job, between its intent and its outcome in the audit log.
async fn submit(
    opened: std::sync::Arc<Opened>,
    who: Principal,
    admit: impl FnOnce(&Opened, &Principal) -> Result<Work> + Send + 'static,
) -> Result<Response> {
    let runtime = tokio::runtime::Handle::current();
    let job = blocking(move || {
        let work = admit(&opened, &who)?;
        let (object, details) = (job::target(&work), job::facts(&work));
        opened.appliance.logged(&who.name, "SubmitJob", &object, details, || {
            runtime.block_on(opened.supervisor.submit(work, &who.name))
        })
    })
    .await?;
    json(&job)
}

pub(super) async fn list(call: Call) -> Result<Response> {
    let opened = reader(call).await?;
    json(&opened.supervisor.list().await?)
}

pub(super) async fn show(call: Call, id: &str) -> Result<Response> {
    let opened = reader(call).await?;
    json(&opened.supervisor.find(id).await?)
}

async fn reader(call: Call) -> Result<std::sync::Arc<Opened>> {
    let opened = call.house.opened()?;
    blocking(move || opened.appliance.allow(&call.who, &Act::new(Action::ReadCatalog, appliance())).map(|()| opened))
        .await
}

/// One event a line, beginning with the job as it is, ending when it rests.
pub(super) async fn events(call: Call, id: &str) -> Result<Response> {
    let id = id.to_owned();
    let opened = reader(call).await?;
    let watch = opened.supervisor.watch();
    let first = opened.supervisor.find(&id).await?;
    let ended = first.state.at_rest();
    let begin = Follow { opened, watch, id, first: Some(first), ended };
    let lines = stream::unfold(begin, |mut follow| async move { follow.next().await.map(|line| (line, follow)) });
    let response = HttpResponse::builder().header("content-type", "application/x-ndjson");
    let body = warp::reply::stream(lines);
    match response.body(()) {
        Ok(_) => Ok(warp::reply::with_header(body, "content-type", "application/x-ndjson").into_response()),
        Err(error) => Err(Error::failed(error.to_string())),
    }
}

struct Follow {
    opened: std::sync::Arc<Opened>,
    watch: tokio::sync::broadcast::Receiver<(String, JobEvent)>,
    id: String,
    first: Option<Job>,
    ended: bool,
}

impl Follow {
    /// Whether nothing will come: it rests, or the daemon stops and it has stopped.
    fn no_more(&self, job: &Job) -> bool {
        job.state.at_rest() || (self.opened.supervisor.draining() && job.state != wire::JobState::Running)
    }

    async fn next(&mut self) -> Option<std::result::Result<Bytes, std::convert::Infallible>> {
        if let Some(job) = self.first.take() {
            return Some(line(&JobEvent::Job(Box::new(job))));
        }
        while !self.ended {
            match self.watch.recv().await {
                Ok((id, event)) if id == self.id => {
                    self.ended = matches!(&event, JobEvent::Job(job) if self.no_more(job));
                    return Some(line(&event));
                }
                Ok(_) => {}
                // Too slow for every step: go on from how it stands now.
                Err(RecvError::Lagged(_)) => {
                    let job = self.opened.supervisor.find(&self.id).await.ok()?;
                    self.ended = self.no_more(&job);
                    return Some(line(&JobEvent::Job(Box::new(job))));
                }
                Err(RecvError::Closed) => self.ended = true,
            }
        }
        None
    }
}

fn line(event: &JobEvent) -> std::result::Result<Bytes, std::convert::Infallible> {
    let mut bytes = serde_json::to_vec(event).unwrap_or_default();
    bytes.push(b'\n');
    Ok(bytes.into())
}

pub(super) async fn cancel(call: Call, id: &str) -> Result<Response> {
    control(call, id, "cancel", |supervisor, id, runtime| runtime.block_on(supervisor.cancel(id))).await
}

pub(super) async fn resume(call: Call, id: &str) -> Result<Response> {
    control(call, id, "resume", |supervisor, id, runtime| runtime.block_on(supervisor.resume(id))).await
}

/// May this person do that to the job? It is done between its intent and its outcome in the audit log.
async fn control(
    call: Call,
    id: &str,
    what: &'static str,
    run: fn(&Supervisor, &str, &tokio::runtime::Handle) -> Result<Job>,
) -> Result<Response> {
    let opened = call.house.opened()?;
    let (job, id, runtime) = (opened.supervisor.find(id).await?, id.to_owned(), tokio::runtime::Handle::current());
    let job = blocking(move || {
        let a = &opened.appliance;
        let act = Act::new(Action::ControlJob, job_resource(a, &job)?).details(value!({"what": what}));
        a.act(&call.who, act, || run(&opened.supervisor, &id, &runtime))
    })
    .await?;
    json(&job)
}

fn job_resource(a: &crate::pipeline::Appliance, job: &Job) -> Result<policy::Resource> {
    let dataset = match &job.work {
        Work::Clean { dataset, .. } => Some(dataset),
        Work::Train { recipe } => Some(&recipe.dataset),
        Work::Evaluate { .. } => None,
    };
    let dataset = dataset.map(|name| a.catalog.find::<wire::Dataset>(name)).transpose()?.flatten();
    let label = dataset.map_or(wire::Label::Phi, |dataset| dataset.label);
    Ok(policy::Resource::Job(policy::Job::new(job, label)))
}
