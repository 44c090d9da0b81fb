//! The story: ingest → clean → check → seal → train → evaluate → approve → serve, one file a verb.
//!
//! What one verb gives, the next one takes, so that a skipped step does not compile: [`ingest::RawSet`],
//! [`clean::CleanSet`], [`check::Clearance`], [`seal::SealedSet`], [`approve::Release`]. The proof tokens among
//! them have private fields and are minted where policy was asked.
//!
//! All of it is blocking code over files and sockets; the API calls it from threads that may block.
//!
//! INVARIANT: whatever changes something goes through [`Appliance::act`]: policy first, the intent durable before
//! the act, the outcome durable before the reply.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cloister_vault::Vault;
use cloister_wire::admin::{JobProgress, ObjectRef};
use cloister_wire::sandbox::Limits;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::access::{Principal, Registry};
use crate::audit::{self, AuditLog, Details, Intent, Outcome};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::policy::{self, Action, Decision, Facts, PolicySet, Request, Resource};
use crate::workers::Workers;

pub mod approve;
pub mod check;
pub mod clean;
pub mod evaluate;
pub mod ingest;
pub mod models;
pub mod plugins;
pub mod seal;
pub mod serve;
pub mod train;

/// What every verb works with; exists only while the vault is open.
#[derive(Debug)]
pub struct Appliance {
    /// Keys and sealed objects.
    pub vault: Vault,
    /// What exists.
    pub catalog: Catalog,
    /// What happened.
    pub audit: AuditLog,
    /// The rules in force; replaced on reload.
    pub policy: RwLock<Arc<PolicySet>>,
    /// Who may come in.
    pub users: Arc<RwLock<Registry>>,
    /// Where workers come from.
    pub workers: Workers,
    /// What a plugin may use.
    pub plugin_limits: Limits,
    /// Records handed to a plugin at a time.
    pub batch_records: usize,
    /// Base models' folders: public weights, not sealed.
    pub models: PathBuf,
    /// Plugins' components, not sealed.
    pub plugins: PathBuf,
    /// Names that somebody is changing right now.
    busy: Mutex<HashSet<String>>,
}

/// What [`Appliance::new`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// Keys and sealed objects.
    pub vault: Vault,
    /// What exists.
    pub catalog: Catalog,
    /// What happened.
    pub audit: AuditLog,
    /// The rules in force.
    pub policy: PolicySet,
    /// Who may come in.
    pub users: Arc<RwLock<Registry>>,
    /// Where workers come from.
    pub workers: Workers,
    /// What a plugin may use.
    pub plugin_limits: Limits,
    /// Records handed to a plugin at a time.
    pub batch_records: usize,
}

/// Something that a person wants to do to a thing.
#[derive(Debug)]
pub struct Act {
    /// What.
    pub action: Action,
    /// To what, as policy sees it.
    pub resource: Resource,
    /// What policy cannot compute.
    pub facts: Facts,
    /// Facts for the audit log, never a record's text.
    pub details: Value,
}

impl Act {
    /// An act on a thing with nothing else to say.
    pub fn new(action: Action, resource: Resource) -> Self {
        Self { action, resource, facts: facts(), details: Value::Null }
    }

    /// With facts for the audit log.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// With a declared purpose.
    #[must_use]
    pub fn purpose(mut self, purpose: &str) -> Self {
        self.facts.purpose = purpose.into();
        self
    }
}

/// The facts of this moment.
pub fn facts() -> Facts {
    Facts { now: OffsetDateTime::now_utc().unix_timestamp(), ..Facts::default() }
}

/// The appliance itself, as policy sees it.
pub fn appliance() -> Resource {
    Resource::Appliance(policy::Appliance::default())
}

/// This moment, RFC 3339 in UTC.
pub fn now() -> String {
    // Formatting fails only for years beyond 9999.
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

/// A name that is being changed; free again when dropped.
#[derive(Debug)]
pub struct Reservation<'a> {
    appliance: &'a Appliance,
    name: String,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.appliance.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl Appliance {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let dir = parts.vault.dir().to_owned();
        Self {
            models: dir.join("models"),
            plugins: dir.join("plugins"),
            vault: parts.vault,
            catalog: parts.catalog,
            audit: parts.audit,
            policy: RwLock::new(Arc::new(parts.policy)),
            users: parts.users,
            workers: parts.workers,
            plugin_limits: parts.plugin_limits,
            batch_records: parts.batch_records,
            busy: Mutex::default(),
        }
    }

    /// The rules in force.
    pub fn policy(&self) -> Arc<PolicySet> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks policy and nothing else; for lists and questions. A denial is logged.
    pub fn allow(&self, who: &Principal, act: &Act) -> Result<()> {
        let request = request(who, act);
        match self.policy().decide(&request) {
            Decision::Allow { .. } => Ok(()),
            Decision::Deny(denial) => {
                let intent =
                    self.intent(&who.name, act.action.name(), &object_of(&act.resource), act.details.clone())?;
                intent.outcome(
                    OffsetDateTime::now_utc(),
                    Outcome::Denied { rule: denial.rule.clone() },
                    Details::new(),
                )?;
                log::info!(principal = who.name.as_str(), action = act.action.name(), rule = denial.rule.as_str(); "denied");
                Err(Error::denied(&denial))
            }
        }
    }

    /// Does something: policy, the intent, the act, the outcome, in this order.
    ///
    /// # Errors
    /// `Denied`; `Unavailable` when the audit log cannot be written (nothing was done then); the act's own.
    pub fn act<T>(&self, who: &Principal, act: Act, run: impl FnOnce() -> Result<T>) -> Result<T> {
        self.allow(who, &act)?;
        self.logged(&who.name, act.action.name(), &object_of(&act.resource), act.details, run)
    }

    /// Does something that policy has been asked about already, between its intent and its outcome.
    pub fn logged<T>(
        &self,
        who: &str,
        action: &str,
        object: &str,
        details: Value,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let intent = self.intent(who, action, object, details)?;
        let result = run();
        let outcome =
            result.as_ref().map_or_else(|error| Outcome::Failed { rule: error.short().into() }, |_| Outcome::Ok);
        log::info!(principal = who, action = action, object = object; "{}", if result.is_ok() { "done" } else { "failed" });
        intent.outcome(OffsetDateTime::now_utc(), outcome, Details::new())?;
        result
    }

    fn intent(&self, who: &str, action: &str, object: &str, details: Value) -> Result<Intent> {
        let act = audit::Act { principal: who.into(), action: action.into(), object: object.into(), routine: false };
        Ok(self.audit.intent(OffsetDateTime::now_utc(), act, details_of(details))?)
    }

    /// Takes a name so that nobody else changes it at the same time.
    pub fn reserve(&self, kind: &str, name: &str) -> Result<Reservation<'_>> {
        let name = format!("{kind}/{name}");
        if self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            return Ok(Reservation { appliance: self, name });
        }
        Err(Error::conflict(format!("`{name}` is being changed by somebody else"))
            .remedy("wait for that to end, then repeat"))
    }

    /// The person behind a name, as they are now: a job that goes on later has no more rights than they have then.
    pub fn principal(&self, name: &str) -> Result<Principal> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        let roles = users.roles_of(name).cloned();
        let uid = rustix::process::getuid().as_raw();
        roles.map(|roles| Principal { name: name.into(), roles, uid }).ok_or_else(|| {
            Error::invalid(format!("`{name}` may no longer come in, so their job does not go on"))
                .remedy("start it anew as somebody else")
        })
    }

    /// Opens a sealed object.
    pub fn open(&self, object: &ObjectRef) -> Result<cloister_vault::ObjectReader> {
        Ok(self.vault.reader(&object.object, &key_id(&object.key)?)?)
    }
}

/// Facts for the audit log: an object's fields; nothing else is worth a fact.
pub fn details_of(value: Value) -> Details {
    match value {
        Value::Object(map) => map,
        _ => Details::new(),
    }
}

/// A key's id from the catalog.
pub fn key_id(key: &str) -> Result<cloister_vault::KeyId> {
    Ok(cloister_vault::KeyId::try_from(key.to_owned())?)
}

/// What the audit log calls a thing.
pub fn object_of(resource: &Resource) -> String {
    format!("{}/{}", resource.kind().to_lowercase(), resource.id())
}

fn request(who: &Principal, act: &Act) -> Request {
    Request {
        principal: policy::Principal { name: who.name.clone(), roles: who.roles.clone() },
        action: act.action,
        resource: act.resource.clone(),
        facts: act.facts.clone(),
    }
}

type Hook = Box<dyn Fn() + Send>;

/// Asks a running verb to stop, from another thread.
#[derive(Default)]
pub struct Stop {
    requested: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

impl Stop {
    /// Asks it to stop.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        if let Some(hook) = &*self.hook.lock().unwrap_or_else(PoisonError::into_inner) {
            hook();
        }
    }

    /// Whether it was asked.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// What to do when it is asked; done at once if it was already.
    pub fn on_request(&self, hook: impl Fn() + Send + 'static) {
        let mut slot = self.hook.lock().unwrap_or_else(PoisonError::into_inner);
        if self.requested() {
            hook();
        }
        *slot = Some(Box::new(hook));
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("requested", &self.requested()).finish_non_exhaustive()
    }
}

/// What a long verb gets from its job: somebody to report to, and a way to be stopped.
pub trait Control: Send + Sync {
    /// How far it is.
    fn progress(&self, progress: JobProgress);
    /// A sealed checkpoint from which it can go on; the one before may be removed once this returns.
    fn checkpoint(&self, step: u64, object: ObjectRef) -> Result<()>;
    /// The signal to stop.
    fn stop(&self) -> &Stop;
}
