//! Puts the daemon together from its configuration, and runs it until it is asked to stop.
//!
//! The door opens at once, sealed or not. Opening the vault brings up everything behind it, in this order: keys,
//! the audit log (so that whatever follows is logged), the catalog, what a crash left behind, serving, jobs.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use cloister_vault::{RootSource, Storage, Vault, read_small, storage_from_environment, write_atomic};
use cloister_wire::admin::{Adapter, ApiError, Dataset, Job, Model};
use cloister_wire::engine::{Prompt, Sampling};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use warp::Filter;

use crate::access::{Authority, Principal, Registry, identify, server_config};
use crate::api::house::{House, HouseParts, Opened};
use crate::api::listener::{self, Door, DoorLimits};
use crate::api::metrics::Metrics;
use crate::api::openai::{self, Completion, Inference, InferenceError, ModelCard};
use crate::api::{admin, metrics};
use crate::audit::AuditLog;
use crate::catalog::Catalog;
use crate::config::{Config, Unseal};
use crate::error::{Error, Result};
use crate::notify;
use crate::pipeline::serve::{Begun, Serving};
use crate::pipeline::{Appliance, Parts, models};
use crate::policy::{LoadError, PolicySet};
use crate::supervisor::Supervisor;
use crate::workers::{Source, Workers};

/// Largest registry of users.
const MAX_USERS: u64 = 16 << 20;

/// Runs the daemon until `shutdown` says true; `reload` reads the policies anew.
pub async fn run(
    config: Config,
    shutdown: watch::Receiver<bool>,
    mut reload: mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    let storage = storage_from_environment()?;
    // A policy that does not load is told now, not when somebody unseals.
    load_policy(&config).context("the policies do not load")?;
    let house = Arc::new(House::new(parts(&config, storage.clone())?));
    if let Unseal::Credential(path) = &config.unseal {
        let (house, source) = (house.clone(), RootSource::credential_file(path)?);
        tokio::task::spawn_blocking(move || house.unseal(source)).await?.map_err(ApiError::from)?;
    } else {
        log::info!("the vault is sealed; an administrator opens it with `cloister unseal`");
    }
    let door = door(&config, &*storage, &house)?;
    let (socket, _socket_file) = listener::socket::open(&config.door)?;
    notify::ready();
    let health = house.clone();
    let watchdog = tokio::spawn(notify::watchdog(move || healthy(health.clone())));
    let policies = (config.clone(), house.clone());
    let reloading = tokio::spawn(async move {
        while reload.recv().await.is_some() {
            notify::reloading();
            reload_policy(&policies.0, &policies.1);
            notify::ready();
        }
    });
    // The door lets running requests end while jobs write their checkpoints: neither waits for the other.
    let mut stopping = shutdown.clone();
    tokio::join!(listener::serve(socket, door, shutdown), async {
        // An error means that the sender is gone, which asks to stop just as well.
        let _ = stopping.wait_for(|stop| *stop).await;
        notify::stopping(config.shutdown_timeout);
        stop(&config, &house).await;
    });
    watchdog.abort();
    reloading.abort();
    Ok(())
}

/// Lets running jobs write their checkpoints, then ends what serves.
async fn stop(config: &Config, house: &House) {
    let Some(opened) = house.peek() else { return };
    if tokio::time::timeout(config.shutdown_timeout, opened.supervisor.drain()).await.is_err() {
        log::warn!("jobs did not stop in time; they go on from their last checkpoints");
    }
    opened.serving.stop();
    if let Err(error) = opened.appliance.audit.close(OffsetDateTime::now_utc()) {
        log::error!("the audit log was not closed: {error}");
    }
}

fn parts(config: &Config, storage: Arc<dyn Storage>) -> anyhow::Result<HouseParts> {
    let dir = &config.state_dir;
    let text = |name: &str| -> anyhow::Result<String> {
        let bytes = read_small(&*storage, &dir.join(name), MAX_USERS)?;
        let bytes =
            bytes.with_context(|| format!("`{}` is missing; run `cloisterd init` first", dir.join(name).display()))?;
        Ok(String::from_utf8(bytes)?)
    };
    let authority = Authority::load(&text("tls/ca.pem")?, &text("tls/ca.key")?)?;
    let users = Arc::new(RwLock::new(Registry::parse(text("access/users.json")?.as_bytes())?));
    let (write_storage, write_path) = (storage.clone(), dir.join("access/users.json"));
    let (open_config, open_users) = (config.clone(), users.clone());
    Ok(HouseParts {
        opener: Box::new(move |source| open(&open_config, storage.clone(), open_users.clone(), &source)),
        users,
        write_users: Box::new(move |bytes| Ok(write_atomic(&*write_storage, &write_path, bytes)?)),
        authority,
        max_request_bytes: config.door.max_request_bytes,
        max_upload_bytes: config.door.max_upload_bytes,
        policy_cases: config.policy.dir.join("cases"),
    })
}

/// Opens the vault and brings up everything behind it.
fn open(
    config: &Config,
    storage: Arc<dyn Storage>,
    users: Arc<RwLock<Registry>>,
    source: &RootSource,
) -> Result<Opened> {
    let vault = Vault::open(storage, &config.state_dir, source)?;
    vault.sweep()?;
    let audit = AuditLog::open(&vault, OffsetDateTime::now_utc())?;
    let catalog = Catalog::open(vault.clone())?;
    let policy = load_policy(config).map_err(|error| Error::failed(error.to_string()))?;
    let appliance = Arc::new(Appliance::new(Parts {
        vault,
        catalog,
        audit,
        policy,
        users,
        workers: workers(config),
        plugin_limits: config.plugins.limits.clone(),
        batch_records: config.plugins.batch_records,
    }));
    tidy(&appliance)?;
    let serving = Arc::new(Serving::new(config.serving.max_concurrent + config.serving.queue));
    let supervisor = Supervisor::start(appliance.clone())?;
    // Loading bases takes long, and nothing else need wait for it.
    let (a, s) = (appliance.clone(), serving.clone());
    std::thread::spawn(move || {
        if let Err(error) = s.restore(&a) {
            log::error!("what was served is not back: {error}");
        }
    });
    Ok(Opened { appliance, supervisor, serving })
}

fn workers(config: &Config) -> Workers {
    let w = &config.workers;
    Workers {
        engine: Source::Child(w.engine.clone()),
        sandbox: Source::Child(w.sandbox.clone()),
        device: w.device.clone(),
        threads: w.threads,
        ping_interval: w.ping_interval,
        ping_timeout: w.ping_timeout,
    }
}

/// Removes what a crash left: objects and keys that nothing names, staged models. Nothing is removed while a catalog
/// entry is unreadable, since it may name what looks forgotten.
fn tidy(a: &Appliance) -> Result<()> {
    for folder in [&a.models, &a.plugins] {
        a.vault.storage().create_dir(folder).map_err(|error| Error::failed(error.to_string()))?;
    }
    if !a.catalog.damaged().is_empty() {
        log::error!("the catalog has unreadable entries; `cloister doctor` names them, and nothing is tidied up");
        return Ok(());
    }
    let mut named = Vec::new();
    named.extend(a.catalog.list::<Dataset>()?.into_iter().filter_map(|dataset| dataset.object));
    named.extend(a.catalog.list::<Adapter>()?.into_iter().flat_map(|adapter| adapter.files.into_values()));
    named.extend(a.catalog.list::<Job>()?.into_iter().filter_map(|job| job.checkpoint));
    let removed = a.vault.remove_unlisted(named.iter().map(|object| object.object.as_str()))?;
    let mut shredded = 0;
    for (id, _) in a.vault.list_keys()?.open {
        if !named.iter().any(|object| object.key == id.as_str()) {
            a.vault.shred(&id)?;
            shredded += 1;
        }
    }
    if removed + shredded > 0 {
        log::info!("removed {removed} objects and {shredded} keys that an interrupted act had left");
    }
    // Folders without an entry are interrupted imports; the entry is written last.
    if a.catalog.list::<Model>().is_ok() {
        models::sweep(a)?;
    }
    Ok(())
}

/// The policies in force: the schema and the files of the regimes that the configuration names.
fn load_policy(config: &Config) -> std::result::Result<PolicySet, LoadError> {
    PolicySet::load_regimes(&config.policy.dir, &config.policy.regimes)
}

fn reload_policy(config: &Config, house: &House) {
    match (load_policy(config), house.peek()) {
        (Ok(policy), Some(opened)) => {
            let digest = policy.digest().to_owned();
            let a = &opened.appliance;
            let swapped =
                a.logged("system", "ReloadPolicy", "appliance/cloister", serde_json::json!({"digest": digest}), || {
                    *a.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
                    Ok(())
                });
            match swapped {
                Ok(()) => log::info!("the policies were read anew"),
                Err(error) => log::error!("the policies were not changed: {error}"),
            }
        }
        (Ok(_), None) => log::info!("the policies load; they are in force once the vault is open"),
        (Err(error), _) => log::error!("the policies were not changed: {error}"),
    }
}

fn door(config: &Config, storage: &dyn Storage, house: &Arc<House>) -> anyhow::Result<Door> {
    let pem = |name: &str| -> anyhow::Result<String> {
        let path = config.state_dir.join("tls").join(name);
        let bytes =
            read_small(storage, &path, MAX_USERS)?.with_context(|| format!("`{}` is missing", path.display()))?;
        Ok(String::from_utf8(bytes)?)
    };
    let tls = server_config(&pem("ca.pem")?, &pem("server.pem")?, &pem("server.key")?)?;
    let (users, groups) = (house.users.clone(), config.door.allowed_gids.clone());
    let counters = Arc::new(Metrics::default());
    let answers = Arc::new(Answers { house: house.clone() });
    let routes = admin::routes(house.clone())
        .or(openai::routes(answers, openai::Limits::of(config), counters.clone()))
        .unify()
        .or(metrics::routes(counters))
        .unify()
        .or(warp::any().then(admin::nothing_here))
        .unify()
        .boxed();
    Ok(Door {
        tls,
        identify: Arc::new(move |peer, certificate| {
            identify(&users.read().unwrap_or_else(PoisonError::into_inner), &groups, peer, certificate)
        }),
        routes,
        limits: DoorLimits::of(config),
    })
}

/// What the watchdog asks: does the catalog answer?
async fn healthy(house: Arc<House>) -> bool {
    let Some(opened) = house.peek() else { return true };
    let read = tokio::task::spawn_blocking(move || opened.appliance.catalog.list::<Model>().is_ok());
    read.await.unwrap_or(false)
}

/// The OpenAI API's view of the house.
struct Answers {
    house: Arc<House>,
}

impl Inference for Answers {
    async fn models(&self, who: &Principal) -> std::result::Result<Vec<ModelCard>, ApiError> {
        let (opened, who) = (self.house.opened()?, who.clone());
        let cards = tokio::task::spawn_blocking(move || cards(&opened, &who));
        Ok(cards.await.map_err(|error| Error::failed(error.to_string()))??)
    }

    async fn generate(
        &self,
        who: &Principal,
        model: &str,
        prompt: Prompt,
        sampling: Sampling,
    ) -> std::result::Result<Completion, InferenceError> {
        let opened = self.house.opened().map_err(ApiError::from)?;
        let (who, model) = (who.clone(), model.to_owned());
        let begun = tokio::task::spawn_blocking(move || {
            opened.serving.generate(&opened.appliance, &who, &model, prompt, sampling)
        });
        match begun.await.map_err(|error| ApiError::from(Error::failed(error.to_string())))?.map_err(ApiError::from)? {
            Begun::Answer(answer) => Ok(Completion {
                fingerprint: answer.fingerprint.clone(),
                pieces: answer.pieces,
                guard: Box::new(answer.guard),
            }),
            Begun::QueueFull { waiting } => Err(InferenceError::QueueFull { waiting }),
        }
    }
}

fn cards(opened: &Opened, who: &Principal) -> Result<Vec<ModelCard>> {
    let a = &opened.appliance;
    let card = |(name, at): (String, String)| {
        let adapter = a.catalog.find::<Adapter>(&name)?;
        let base = adapter.as_ref().map(|adapter| adapter.base.clone());
        let model = a.catalog.find::<Model>(base.as_ref().unwrap_or(&name))?;
        let since = OffsetDateTime::parse(&at, &time::format_description::well_known::Rfc3339);
        Ok(ModelCard {
            id: name,
            created: since.map_or(0, OffsetDateTime::unix_timestamp),
            owned_by: adapter.map_or_else(|| "base".into(), |adapter| adapter.trained_by),
            parent: base,
            max_model_len: model.map(|model| model.info.context),
        })
    };
    opened.serving.names(a, who)?.into_iter().map(card).collect()
}
