//! Serve: released adapters answer; one engine a base, several adapters on it.
//!
//! What is deployed is in the catalog; the engines are started from it when the vault opens and again when one
//! dies. Every answer is in the audit log: its intent before the first token, its outcome with the token counts.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloister_wire::admin::{Adapter, ApiError, Deployment, ErrorCode, Model};
use cloister_wire::engine::{FinishReason, FromEngine, Generate, Prompt, Sampling, ToEngine};
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::approve::{Release, release};
use super::check::adapter_act;
use super::evaluate::{how_trained, other_base};
use super::train::find;
use super::{Act, Appliance, details_of, facts, models, now, object_of};
use crate::access::Principal;
use crate::audit::{self, Intent, Outcome};
use crate::error::{Error, Result};
use crate::policy::{self, Action, Resource};
use crate::workers::engine::{Engine, Remote};

/// Loading a base and an adapter may take so long.
const LOADING: Duration = Duration::from_secs(600);
/// Pieces that may wait for a slow reader before its answer is cancelled.
const PIECES: usize = 4096;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// More text.
    Text(String),
    /// The end.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Tokens read.
        prompt_tokens: u64,
        /// Tokens written.
        completion_tokens: u64,
    },
    /// The end, by an error.
    Failed(ApiError),
}

/// What became of a request for an answer.
#[derive(Debug)]
pub enum Begun {
    /// It is being written.
    Answer(Answering),
    /// As many as may are being written already.
    QueueFull {
        /// So many.
        waiting: usize,
    },
}

/// An answer that is being written. Dropped, it is cancelled.
#[derive(Debug)]
pub struct Answering {
    /// What answers: the same prompt, seed and fingerprint give the same answer.
    pub fingerprint: String,
    /// What comes.
    pub pieces: Receiver<Piece>,
    /// Cancels when dropped.
    pub guard: Cancel,
}

/// Cancels an answer when dropped; harmless after its end.
#[derive(Debug)]
pub struct Cancel {
    engine: Remote,
    id: u64,
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if self.engine.send(&ToEngine::Cancel { id: self.id }).is_err() {
            log::debug!("an answer's engine is gone already");
        }
    }
}

/// All engines that serve.
#[derive(Debug)]
pub struct Serving {
    bases: Mutex<BTreeMap<String, Arc<Base>>>,
    most: usize,
}

/// One served base.
#[derive(Debug)]
struct Base {
    engine: Remote,
    state: Mutex<State>,
    next: AtomicU64,
    /// Adapters are added one after the other: their files would mix otherwise.
    adding: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    dead: bool,
    /// Adapters that the engine knows: name → its id there.
    adapters: BTreeMap<String, String>,
    answers: HashMap<u64, Answer>,
    waiting: HashMap<String, SyncSender<std::result::Result<(), String>>>,
}

#[derive(Debug)]
struct Answer {
    pieces: Sender<Piece>,
    intent: Option<Intent>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Serving {
    /// Nothing served yet; at most so many answers at a time on one base.
    pub fn new(most: usize) -> Self {
        Self { bases: Mutex::default(), most }
    }

    /// Puts a released adapter into service.
    pub fn deploy(&self, a: &Appliance, who: &Principal, name: &str) -> Result<Deployment> {
        let _reserved = a.reserve("adapter", name)?;
        let adapter = find(a, name)?;
        let release = release(a, who, &adapter)?;
        let details = json!({"digest": adapter.digest, "approvers": release.approvers()});
        a.logged(&who.name, Action::Serve.name(), &format!("adapter/{name}"), details, || {
            self.load(a, &adapter, &release)?;
            let deployment = Deployment {
                adapter: adapter.name.clone(),
                base: adapter.base.clone(),
                adapter_digest: adapter.digest.clone(),
                approvers: release.approvers().to_vec(),
                deployed_by: who.name.clone(),
                at: now(),
            };
            a.catalog.put(&deployment)?;
            Ok(deployment)
        })
    }

    /// Brings back what was in service; whatever policy no longer releases stays out, and is said.
    pub fn restore(&self, a: &Appliance) -> Result<()> {
        for deployment in a.catalog.list::<Deployment>()? {
            let back = a.principal(&deployment.deployed_by).and_then(|who| {
                let adapter = find(a, &deployment.adapter)?;
                let release = release(a, &who, &adapter)?;
                self.load(a, &adapter, &release)
            });
            if let Err(error) = back {
                log::error!(adapter = deployment.adapter.as_str(); "not served: {error}");
            }
        }
        Ok(())
    }

    /// Takes an adapter out of service.
    pub fn undeploy(&self, a: &Appliance, who: &Principal, name: &str) -> Result<()> {
        let _reserved = a.reserve("adapter", name)?;
        let deployment = a.catalog.find::<Deployment>(name)?.ok_or_else(|| Error::not_found("deployment", name))?;
        let adapter = find(a, name)?;
        a.act(who, adapter_act(a, Action::Undeploy, &adapter)?, || {
            a.catalog.remove::<Deployment>(name)?;
            self.unload(a, &deployment)
        })
    }

    fn unload(&self, a: &Appliance, deployment: &Deployment) -> Result<()> {
        let mut bases = locked(&self.bases);
        let Some(base) = bases.get(&deployment.base).cloned() else { return Ok(()) };
        let id = locked(&base.state).adapters.remove(&deployment.adapter);
        if let Some(adapter) = id {
            base.engine.send(&ToEngine::RemoveAdapter { adapter })?;
        }
        let others = a.catalog.list::<Deployment>()?.iter().any(|other| other.base == deployment.base);
        if !others {
            bases.remove(&deployment.base);
            base.engine.hang_up();
        }
        Ok(())
    }

    fn load(&self, a: &Appliance, adapter: &Adapter, release: &Release) -> Result<()> {
        release.covers(adapter)?;
        let model = models::find(a, &adapter.base)?;
        if model.digest != adapter.base_digest {
            return Err(other_base(adapter));
        }
        self.base(a, &model, adapter)?.add(a, adapter)
    }

    /// The engine of a base, started when there is none.
    fn base(&self, a: &Appliance, model: &Model, adapter: &Adapter) -> Result<Arc<Base>> {
        let mut bases = locked(&self.bases);
        if let Some(base) = bases.get(&model.name).filter(|base| !locked(&base.state).dead) {
            return Ok(base.clone());
        }
        let files = models::open(a, model)?;
        let (device, quantization) = how_trained(adapter);
        let mut engine = Engine::open(&a.workers, &files, &device, quantization)?;
        engine.send(&ToEngine::Serve)?;
        engine.opened()?;
        let base = Arc::new(Base {
            engine: engine.remote(),
            state: Mutex::default(),
            next: AtomicU64::new(1),
            adding: Mutex::default(),
        });
        bases.insert(model.name.clone(), base.clone());
        let reader = base.clone();
        std::thread::spawn(move || reader.read(engine));
        Ok(base)
    }

    /// Names that can be asked: deployed adapters, and the bases below them.
    pub fn names(&self, a: &Appliance, who: &Principal) -> Result<Vec<(String, String)>> {
        let mut names = Vec::new();
        for deployment in a.catalog.list::<Deployment>()? {
            names.push((deployment.adapter, deployment.at.clone()));
            names.push((deployment.base, deployment.at));
        }
        names.sort();
        names.dedup_by(|x, y| x.0 == y.0);
        let may = |name: &String| Ok::<_, Error>(super::check::explain(a, who, target(a, name)?.1).allowed);
        names.into_iter().filter_map(|entry| may(&entry.0).map(|yes| yes.then_some(entry)).transpose()).collect()
    }

    /// Begins an answer.
    ///
    /// # Errors
    /// `NotFound` for a name that is not served, `Denied`, `Unavailable` when the log is full.
    pub fn generate(
        &self,
        a: &Appliance,
        who: &Principal,
        name: &str,
        prompt: Prompt,
        sampling: Sampling,
    ) -> Result<Begun> {
        let (base_name, act, adapter) = {
            let (adapter, act) = target(a, name)?;
            let base = adapter.as_ref().map_or(name, |adapter| adapter.base.as_str()).to_owned();
            (base, act, adapter)
        };
        a.allow(who, &act)?;
        let base = self.running(a, &base_name, adapter.as_ref())?;
        let id = base.next.fetch_add(1, Ordering::Relaxed);
        let (pieces, receiver) = channel(PIECES);
        let details =
            json!({"digest": adapter.as_ref().map(|adapter| &adapter.digest), "max_tokens": sampling.max_tokens});
        let adapter_id = {
            let mut state = locked(&base.state);
            let adapter_id = adapter.as_ref().map(|adapter| state.adapters.get(&adapter.name).cloned());
            if adapter_id == Some(None) {
                // Never the base's answer in an adapter's name.
                return Err(Error::unavailable(format!("`{name}` has just been taken out of service")));
            }
            if state.answers.len() >= self.most {
                return Ok(Begun::QueueFull { waiting: state.answers.len() });
            }
            let asked = audit::Act {
                principal: who.name.clone(),
                action: Action::Infer.name().into(),
                object: object_of(&act.resource),
                routine: true,
            };
            let intent = a.audit.intent(OffsetDateTime::now_utc(), asked, details_of(details))?;
            state.answers.insert(id, Answer { pieces, intent: Some(intent) });
            adapter_id.flatten()
        };
        base.engine.send(&ToEngine::Generate(Generate { id, adapter: adapter_id, prompt, sampling }))?;
        let fingerprint = adapter.map_or_else(|| base_name.clone(), |adapter| adapter.digest);
        let guard = Cancel { engine: base.engine.clone(), id };
        Ok(Begun::Answer(Answering { fingerprint, pieces: receiver, guard }))
    }

    /// The engine that answers; brought back when it had died.
    fn running(&self, a: &Appliance, base_name: &str, adapter: Option<&Adapter>) -> Result<Arc<Base>> {
        let alive = |base: &Arc<Base>| {
            let state = locked(&base.state);
            !state.dead && adapter.is_none_or(|adapter| state.adapters.contains_key(&adapter.name))
        };
        if let Some(base) = locked(&self.bases).get(base_name).filter(|base| alive(base)) {
            return Ok(base.clone());
        }
        log::warn!(base = base_name; "the engine is brought back");
        self.restore(a)?;
        locked(&self.bases).get(base_name).filter(|base| alive(base)).cloned().ok_or_else(|| {
            Error::unavailable(format!("the engine of `{base_name}` does not run"))
                .remedy("`cloister doctor` tells why")
        })
    }

    /// Ends every engine.
    pub fn stop(&self) {
        for base in std::mem::take(&mut *locked(&self.bases)).into_values() {
            base.engine.hang_up();
        }
    }
}

/// The adapter of a served name (none for a base alone), and the question that policy answers.
fn target(a: &Appliance, name: &str) -> Result<(Option<Adapter>, Act)> {
    if a.catalog.find::<Deployment>(name)?.is_some() {
        let adapter = find(a, name)?;
        let act = adapter_act(a, Action::Infer, &adapter)?;
        return Ok((Some(adapter), act));
    }
    if a.catalog.list::<Deployment>()?.iter().any(|deployment| deployment.base == name) {
        let resource = Resource::Model(policy::Model { id: name.into() });
        return Ok((None, Act { facts: facts(), ..Act::new(Action::Infer, resource) }));
    }
    Err(Error::not_found("deployment", name)
        .remedy(format!("`cloister serve {name}` puts an approved adapter into service")))
}

impl Base {
    fn add(&self, a: &Appliance, adapter: &Adapter) -> Result<()> {
        let _one = locked(&self.adding);
        let id = format!("{}@{}", adapter.name, adapter.digest);
        if locked(&self.state).adapters.get(&adapter.name) == Some(&id) {
            return Ok(());
        }
        let (sender, receiver) = sync_channel(1);
        locked(&self.state).waiting.insert(id.clone(), sender);
        for (name, object) in &adapter.files {
            self.engine.send_file(name, a.open(object)?)?;
        }
        self.engine.send(&ToEngine::AddAdapter { adapter: id.clone() })?;
        match receiver.recv_timeout(LOADING) {
            Ok(Ok(())) => {
                locked(&self.state).adapters.insert(adapter.name.clone(), id);
                Ok(())
            }
            Ok(Err(reason)) => Err(Error::invalid(format!("adapter `{}`: {reason}", adapter.name))),
            Err(_) => Err(Error::Lost("the engine did not take the adapter".into())),
        }
    }

    /// Hands out what the engine says, until it is gone.
    fn read(&self, mut engine: Engine) {
        let why = loop {
            match engine.recv() {
                Ok((message, _)) => self.dispatch(message),
                Err(error) => break error.to_string(),
            }
        };
        log::info!("a serving engine has ended: {why}");
        let mut state = locked(&self.state);
        state.dead = true;
        state.waiting.clear();
        let lost = ApiError::new(ErrorCode::Unavailable, "the engine was lost while it answered").remedy("ask again");
        for (_, answer) in std::mem::take(&mut state.answers) {
            answer.end(Piece::Failed(lost.clone()), failed("worker-lost"));
        }
    }

    fn dispatch(&self, message: FromEngine) {
        let mut state = locked(&self.state);
        match message {
            FromEngine::Text { id, text } => {
                let slow =
                    state.answers.get(&id).is_some_and(|answer| answer.pieces.try_send(Piece::Text(text)).is_err());
                if slow && self.engine.send(&ToEngine::Cancel { id }).is_err() {
                    log::debug!("an answer that nobody reads could not be cancelled; its engine is gone");
                }
            }
            FromEngine::Finished { id, reason, prompt_tokens, completion_tokens } => {
                if let Some(answer) = state.answers.remove(&id) {
                    let counts = json!({"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens});
                    answer.end_with(Piece::Finished { reason, prompt_tokens, completion_tokens }, Outcome::Ok, counts);
                }
            }
            FromEngine::Refused { id, reason } => {
                if let Some(answer) = state.answers.remove(&id) {
                    let error = ApiError::new(ErrorCode::Invalid, reason);
                    answer.end(Piece::Failed(error), failed("refused"));
                }
            }
            FromEngine::AdapterReady { adapter } => tell(&mut state, &adapter, Ok(())),
            FromEngine::AdapterRefused { adapter, reason } => tell(&mut state, &adapter, Err(reason)),
            _ => log::warn!("a serving engine said something out of turn"),
        }
    }
}

fn failed(why: &str) -> Outcome {
    Outcome::Failed { rule: why.into() }
}

fn tell(state: &mut State, adapter: &str, result: std::result::Result<(), String>) {
    // Nobody waits any more when loading took too long.
    if let Some(waiting) = state.waiting.remove(adapter) {
        let _ = waiting.send(result);
    }
}

impl Answer {
    fn end(self, piece: Piece, outcome: Outcome) {
        self.end_with(piece, outcome, serde_json::Value::Null);
    }

    /// The outcome is durable before the last piece goes out.
    fn end_with(mut self, piece: Piece, outcome: Outcome, details: serde_json::Value) {
        let logged = self
            .intent
            .take()
            .map_or(Ok(0), |intent| intent.outcome(OffsetDateTime::now_utc(), outcome, details_of(details)));
        let piece = match logged {
            Ok(_) => piece,
            Err(error) => Piece::Failed(Error::from(error).into()),
        };
        // A reader that has gone away needs no last piece.
        let _ = self.pieces.try_send(piece);
    }
}
