//! The supervisor: one owner of all jobs, over one event enum.
//!
//! Everybody else holds a [`Supervisor`] handle and asks. Jobs run on threads of their own and report back; what
//! they are to become is decided by [`crate::job::next`]. Each change of a job's state is in the catalog before
//! anybody hears of it, so that a death at any moment finds the job where it was. The one exception is an end that
//! a full disk has no room for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cloister_wire::admin::{Job, JobEvent, JobProgress, JobState, ObjectRef, Work};
use serde_json::json;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::access::Principal;
use crate::error::{Error, Result};
use crate::job::{self, Happening, Lane};
use crate::pipeline::{Appliance, Control, Stop, check, clean, evaluate, ingest, now, seal, train};

/// Events that a slow watcher may lag behind.
const EVENTS: usize = 1024;

/// A handle on the supervisor.
#[derive(Debug, Clone)]
pub struct Supervisor {
    events: mpsc::UnboundedSender<Event>,
    watchers: broadcast::Sender<(String, JobEvent)>,
    draining: Arc<AtomicBool>,
}

type Reply<T> = oneshot::Sender<Result<T>>;

/// Everything that can happen to jobs.
#[expect(clippy::large_enum_variant, reason = "a handful a second at most")]
enum Event {
    Submit {
        work: Work,
        principal: String,
        reply: Reply<Job>,
    },
    Cancel {
        id: String,
        reply: Reply<Job>,
    },
    Resume {
        id: String,
        reply: Reply<Job>,
    },
    List {
        reply: oneshot::Sender<Vec<Job>>,
    },
    Progress {
        id: String,
        progress: JobProgress,
    },
    Checkpoint {
        id: String,
        step: u64,
        object: ObjectRef,
        reply: Reply<()>,
    },
    Ended {
        id: String,
        result: Result<()>,
    },
    /// No job begins any more; answered when none runs.
    Drain {
        reply: oneshot::Sender<()>,
    },
}

/// A job and what only the supervisor knows of it.
struct Held {
    job: Job,
    stop: Option<Arc<Stop>>,
    cancelled: bool,
    losses: u32,
    /// How it ended is known here and not yet in the catalog, which had no room for it.
    unsaved: bool,
}

struct State {
    appliance: Arc<Appliance>,
    handle: Supervisor,
    jobs: BTreeMap<String, Held>,
    next: HashMap<&'static str, u64>,
    /// Whoever waits for the last job to stop.
    drained: Option<oneshot::Sender<()>>,
}

impl Supervisor {
    /// Starts the supervisor over what the catalog holds; interrupted jobs go on by themselves.
    pub fn start(appliance: Arc<Appliance>) -> Result<Self> {
        let (events, mut receiver) = mpsc::unbounded_channel();
        let handle = Self { events, watchers: broadcast::channel(EVENTS).0, draining: Arc::default() };
        let mut state =
            State { appliance, handle: handle.clone(), jobs: BTreeMap::new(), next: HashMap::new(), drained: None };
        state.recall()?;
        state.begin_what_can();
        tokio::spawn(async move {
            while let Some(event) = receiver.recv().await {
                // The catalog's writes are short, and order matters more here than latency.
                tokio::task::block_in_place(|| state.handle_event(event));
            }
        });
        Ok(handle)
    }

    async fn ask<T>(&self, event: impl FnOnce(Reply<T>) -> Event) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.events.send(event(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Adds a job.
    pub async fn submit(&self, work: Work, principal: &str) -> Result<Job> {
        let principal = principal.to_owned();
        self.ask(|reply| Event::Submit { work, principal, reply }).await
    }

    /// Stops a job; training leaves a checkpoint.
    pub async fn cancel(&self, id: &str) -> Result<Job> {
        let id = id.to_owned();
        self.ask(|reply| Event::Cancel { id, reply }).await
    }

    /// Takes a cancelled or failed job up again.
    pub async fn resume(&self, id: &str) -> Result<Job> {
        let id = id.to_owned();
        self.ask(|reply| Event::Resume { id, reply }).await
    }

    /// All jobs, oldest first.
    pub async fn list(&self) -> Result<Vec<Job>> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::List { reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// One job.
    pub async fn find(&self, id: &str) -> Result<Job> {
        let found = self.list().await?.into_iter().find(|job| job.id == id);
        found.ok_or_else(|| Error::not_found("job", id))
    }

    /// What happens to jobs from now on.
    pub fn watch(&self) -> broadcast::Receiver<(String, JobEvent)> {
        self.watchers.subscribe()
    }

    /// Whether the daemon is stopping.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Asks running jobs to stop where they can go on, and waits for them.
    pub async fn drain(&self) {
        let (reply, answer) = oneshot::channel();
        if self.events.send(Event::Drain { reply }).is_ok() {
            // An error means that the supervisor is gone, and its jobs with it.
            let _ = answer.await;
        }
    }
}

fn gone() -> Error {
    Error::unavailable("the daemon is stopping")
}

impl State {
    fn recall(&mut self) -> Result<()> {
        for mut job in self.appliance.catalog.list::<Job>()? {
            let number = job.id.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            let next = self.next.entry(job::prefix(&job.work)).or_insert(1);
            *next = (*next).max(number + 1);
            if let Some(state) = job::next(&job.state, &Happening::Restart)
                && state != job.state
            {
                job.state = state;
                self.appliance.catalog.put(&job)?;
            }
            self.jobs.insert(job.id.clone(), Held { job, stop: None, cancelled: false, losses: 0, unsaved: false });
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Event) {
        self.save_what_was_not();
        match event {
            // A caller that has gone away needs no answer; that is all that `let _` passes over here.
            Event::Submit { work, principal, reply } => drop(reply.send(self.submit(work, principal))),
            Event::Cancel { id, reply } => drop(reply.send(self.cancel(&id))),
            Event::Resume { id, reply } => drop(reply.send(self.change(&id, &Happening::Resume))),
            Event::List { reply } => drop(reply.send(self.sorted())),
            Event::Progress { id, progress } => self.progress(&id, progress),
            Event::Checkpoint { id, step, object, reply } => drop(reply.send(self.checkpoint(&id, step, object))),
            Event::Ended { id, result } => self.ended(&id, result),
            Event::Drain { reply } => self.drain(reply),
        }
        self.begin_what_can();
    }

    fn sorted(&self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.jobs.values().map(|held| held.job.clone()).collect();
        jobs.sort_by(|x, y| (&x.created_at, &x.id).cmp(&(&y.created_at, &y.id)));
        jobs
    }

    fn submit(&mut self, work: Work, principal: String) -> Result<Job> {
        if self.handle.draining() {
            return Err(gone());
        }
        if let Some(other) =
            self.jobs.values().find(|held| !held.job.state.at_rest() && same_target(&held.job.work, &work))
        {
            return Err(Error::conflict(format!("job `{}` works on the same already", other.job.id))
                .remedy(format!("`cloister watch {0}` follows it, `cloister job cancel {0}` ends it", other.job.id)));
        }
        let number = self.next.entry(job::prefix(&work)).or_insert(1);
        let id = format!("{}-{number:04}", job::prefix(&work));
        *number += 1;
        let job = Job {
            id: id.clone(),
            work,
            state: JobState::Queued,
            principal,
            created_at: now(),
            attempts: 0,
            checkpoint_step: None,
            checkpoint: None,
            progress: None,
        };
        self.appliance.catalog.put(&job)?;
        self.jobs.insert(id, Held { job: job.clone(), stop: None, cancelled: false, losses: 0, unsaved: false });
        Ok(job)
    }

    fn cancel(&mut self, id: &str) -> Result<Job> {
        let held = self.jobs.get_mut(id).ok_or_else(|| Error::not_found("job", id))?;
        if held.job.state != JobState::Running {
            return self.change(id, &Happening::Cancel);
        }
        held.cancelled = true;
        if let Some(stop) = &held.stop {
            stop.request();
        }
        Ok(held.job.clone())
    }

    /// Lets something happen to a job, durably, and tells the watchers.
    fn change(&mut self, id: &str, happening: &Happening) -> Result<Job> {
        let job = self.changed(id, happening)?;
        self.appliance.catalog.put(&job)?;
        self.adopt(&job, false);
        Ok(job)
    }

    /// The job as it is after something happened to it.
    fn changed(&self, id: &str, happening: &Happening) -> Result<Job> {
        let held = self.jobs.get(id).ok_or_else(|| Error::not_found("job", id))?;
        let state = job::next(&held.job.state, happening).ok_or_else(|| {
            Error::conflict(format!("job `{id}` is {}", told(&held.job.state)))
                .remedy(format!("`cloister job show {id}` tells more"))
        })?;
        let mut job = held.job.clone();
        job.state = state;
        if *happening == Happening::Begin {
            job.attempts += 1;
        }
        Ok(job)
    }

    fn adopt(&mut self, job: &Job, unsaved: bool) {
        if let Some(held) = self.jobs.get_mut(&job.id) {
            held.job = job.clone();
            held.unsaved = unsaved;
            self.tell(&job.id, JobEvent::Job(Box::new(job.clone())));
        }
    }

    /// A job ends even where the disk has no room to say so: whoever waits for it must hear. The catalog is told
    /// once there is room; if the daemon dies before, the job is found running and goes on from its checkpoint.
    fn end_unsaved(&mut self, id: &str, happening: &Happening) {
        if let Ok(job) = self.changed(id, happening) {
            self.adopt(&job, true);
        }
    }

    fn save_what_was_not(&mut self) {
        for held in self.jobs.values_mut().filter(|held| held.unsaved) {
            held.unsaved = self.appliance.catalog.put(&held.job).is_err();
        }
    }

    fn tell(&self, id: &str, event: JobEvent) {
        // Without a watcher there is nobody to tell.
        let _ = self.handle.watchers.send((id.to_owned(), event));
    }

    fn progress(&mut self, id: &str, progress: JobProgress) {
        if let Some(held) = self.jobs.get_mut(id) {
            held.job.progress = Some(progress.clone());
        }
        self.tell(id, JobEvent::Progress(progress));
    }

    fn checkpoint(&mut self, id: &str, step: u64, object: ObjectRef) -> Result<()> {
        let held = self.jobs.get_mut(id).ok_or_else(|| Error::not_found("job", id))?;
        let mut job = held.job.clone();
        job.checkpoint_step = Some(step);
        job.checkpoint = Some(object);
        self.appliance.catalog.put(&job)?;
        held.job = job;
        held.losses = 0;
        Ok(())
    }

    fn ended(&mut self, id: &str, result: Result<()>) {
        let Some(held) = self.jobs.get_mut(id) else { return };
        held.stop = None;
        let cancelled = std::mem::take(&mut held.cancelled);
        let happening = match result {
            Ok(()) => Happening::Done,
            Err(Error::Stopped) if cancelled => Happening::Cancel,
            Err(Error::Stopped) => Happening::Stopped,
            Err(Error::Lost(_)) if cancelled => Happening::Cancel,
            Err(Error::Lost(reason)) => {
                held.losses += 1;
                Happening::WorkerLost { losses: held.losses, reason }
            }
            Err(Error::Api(error)) => {
                let next = error.remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
                Happening::Fail(format!("{}{next}", error.message))
            }
        };
        if let Err(error) = self.change(id, &happening) {
            log::error!(job = id; "the job's end could not be kept: {error}");
            self.end_unsaved(id, &happening);
        }
        // A lost worker's job takes its turn again; one that was stopped waits for the next start.
        let lost = matches!(happening, Happening::WorkerLost { .. });
        if lost
            && !self.handle.draining()
            && self.jobs.get(id).is_some_and(|held| held.job.state == JobState::Interrupted)
        {
            log::warn!(job = id; "the worker was lost; the job goes on from its last checkpoint");
            if let Err(error) = self.change(id, &Happening::Resume) {
                log::error!(job = id; "{error}");
            }
        }
        self.tell_drained();
    }

    fn drain(&mut self, reply: oneshot::Sender<()>) {
        self.handle.draining.store(true, Ordering::SeqCst);
        self.drained = Some(reply);
        for held in self.jobs.values() {
            if let Some(stop) = &held.stop {
                stop.request();
            }
        }
        self.tell_drained();
    }

    fn tell_drained(&mut self) {
        if self.jobs.values().all(|held| held.job.state != JobState::Running)
            && let Some(reply) = self.drained.take()
        {
            // Watchers hear how each job stands, and that nothing more will come.
            for (id, held) in &self.jobs {
                self.tell(id, JobEvent::Job(Box::new(held.job.clone())));
            }
            // Nobody waits any more when draining took too long.
            let _ = reply.send(());
        }
    }

    fn begin_what_can(&mut self) {
        if self.handle.draining() {
            return;
        }
        for lane in [Lane::Cleaning, Lane::Computing] {
            let jobs = self.sorted();
            if let Some(id) = job::next_to_begin(jobs.iter(), lane).map(|job| job.id.clone())
                && let Err(error) = self.begin(&id)
            {
                log::error!(job = id.as_str(); "the job could not begin: {error}");
            }
        }
    }

    fn begin(&mut self, id: &str) -> Result<()> {
        let job = self.change(id, &Happening::Begin)?;
        let stop = Arc::new(Stop::default());
        if let Some(held) = self.jobs.get_mut(id) {
            held.stop = Some(stop.clone());
        }
        let (appliance, events) = (self.appliance.clone(), self.handle.events.clone());
        let control = Reporter { id: job.id.clone(), events: events.clone(), stop };
        std::thread::spawn(move || {
            let id = job.id.clone();
            let run = std::panic::AssertUnwindSafe(|| run(&appliance, &job, &control));
            let result = std::panic::catch_unwind(run)
                .unwrap_or_else(|_| Err(Error::failed("the daemon has a fault; see its log")));
            // The supervisor is gone only when the daemon is.
            let _ = events.send(Event::Ended { id, result });
        });
        Ok(())
    }
}

fn told(state: &JobState) -> String {
    match state {
        JobState::Queued => "queued".into(),
        JobState::Running => "running".into(),
        JobState::Interrupted => "interrupted".into(),
        JobState::Done => "done".into(),
        JobState::Cancelled => "cancelled".into(),
        JobState::Failed { reason } => format!("failed ({reason})"),
    }
}

fn same_target(x: &Work, y: &Work) -> bool {
    match (x, y) {
        (Work::Clean { dataset: x, .. }, Work::Clean { dataset: y, .. }) => x == y,
        (Work::Train { recipe: x }, Work::Train { recipe: y }) => x.name == y.name,
        (Work::Evaluate { adapter: x, .. }, Work::Evaluate { adapter: y, .. }) => x == y,
        _ => false,
    }
}

/// Does a job's work; its beginning and its end are in the audit log.
fn run(a: &Appliance, job: &Job, control: &Reporter) -> Result<()> {
    let who = a.principal(&job.principal)?;
    let details = json!({"attempt": job.attempts, "from_step": job.checkpoint_step, "work": job::facts(&job.work)});
    a.logged(&who.name, "RunJob", &format!("job/{}", job.id), details, || work(a, &who, job, control))
}

fn work(a: &Appliance, who: &Principal, job: &Job, control: &Reporter) -> Result<()> {
    match &job.work {
        Work::Clean { dataset, spec } => {
            let _reserved = a.reserve("dataset", dataset)?;
            let entry = a.catalog.find(dataset)?.ok_or_else(|| Error::not_found("dataset", dataset))?;
            let clean = clean::clean(a, &ingest::RawSet::of(entry)?, spec, control)?;
            match check::for_sealing(a, who, &clean) {
                Ok(clearance) => seal::seal(a, clean, &clearance).map(|_| ()),
                Err(denied) => clean.discard(a).and(Err(denied)),
            }
        }
        Work::Train { recipe } => {
            train::train(a, who, job, recipe, control)?;
            forget_checkpoint(a, job)
        }
        Work::Evaluate { adapter, spec } => evaluate::evaluate(a, who, adapter, spec, control).map(|_| ()),
    }
}

/// A finished run needs its checkpoint no more.
fn forget_checkpoint(a: &Appliance, job: &Job) -> Result<()> {
    let entry = a.catalog.find::<Job>(&job.id)?.and_then(|job| job.checkpoint);
    if let Some(checkpoint) = entry {
        a.vault.remove_object(&checkpoint.object)?;
    }
    Ok(())
}

/// A job's line to the supervisor.
struct Reporter {
    id: String,
    events: mpsc::UnboundedSender<Event>,
    stop: Arc<Stop>,
}

impl Control for Reporter {
    fn progress(&self, progress: JobProgress) {
        // The supervisor is gone only when the daemon is.
        let _ = self.events.send(Event::Progress { id: self.id.clone(), progress });
    }

    fn checkpoint(&self, step: u64, object: ObjectRef) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Checkpoint { id: self.id.clone(), step, object, reply }).map_err(|_| gone())?;
        answer.blocking_recv().map_err(|_| gone())?
    }

    fn stop(&self) -> &Stop {
        &self.stop
    }
}
