//! The index: sled, under `index/`. Never the truth.
//!
//! sled 0.34 does not make its files durable and may fail to open after a crash. So nothing
//! depends on it: it is compared with the files at each start, removed and made anew where it
//! fails, and done without where even that fails. Values are sealed under the key's name, so that
//! one moved to another key does not open.
//!
//! What always holds: a value that the index gives is the one last written, or none. Where a
//! change cannot be recorded, the index is switched off rather than left stale.

use super::Json;
use cloister_vault::Vault;
use serde::Serialize;
use sled::Db;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const CACHE_BYTES: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct Index {
    /// None where sled would not open; every read then goes to the files.
    db: Option<Db>,
    /// Cleared when a change could not be recorded.
    trusted: AtomicBool,
    state: IndexState,
}

/// What became of the index at start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum IndexState {
    /// It agreed with the files, but for so many entries that were put right.
    Reconciled {
        /// Entries added, replaced or removed.
        corrected: usize,
    },
    /// It would not open, and was made anew from the files.
    Rebuilt {
        /// Why it would not open.
        reason: String,
    },
    /// It cannot be had; the catalog works, more slowly.
    Off {
        /// Why.
        reason: String,
    },
}

/// Every entry's JSON, by kind and id.
pub(super) type Entries = BTreeMap<(String, String), Json>;

impl Index {
    /// Opens the index and makes it say what the files say.
    pub(super) fn open(vault: &Vault, entries: &Entries) -> Self {
        let dir = vault.dir().join("index");
        let opened = match open_and_reconcile(vault, &dir, entries) {
            Ok((db, corrected)) => Ok((db, IndexState::Reconciled { corrected })),
            Err(reason) => rebuild(vault, &dir, entries).map(|db| (db, IndexState::Rebuilt { reason })),
        };
        match opened {
            Ok((db, state)) => Self { db: Some(db), trusted: AtomicBool::new(true), state },
            Err(reason) => Self { db: None, trusted: AtomicBool::new(false), state: IndexState::Off { reason } },
        }
    }

    pub(super) fn state(&self) -> &IndexState {
        &self.state
    }

    /// The value, where the index has one that opens.
    pub(super) fn get(&self, vault: &Vault, kind: &str, id: &str) -> Option<Json> {
        let name = name(kind, id);
        let sealed = self.db()?.get(&name).ok().flatten()?;
        vault.open_small(&name, &sealed).ok()
    }

    pub(super) fn insert(&self, vault: &Vault, kind: &str, id: &str, json: &[u8]) {
        if let Some(db) = self.db() {
            self.check(set(vault, db, &name(kind, id), json));
        }
    }

    pub(super) fn remove(&self, kind: &str, id: &str) {
        if let Some(db) = self.db() {
            self.check(db.remove(name(kind, id)).map(drop).map_err(|error| error.to_string()));
        }
    }

    fn db(&self) -> Option<&Db> {
        self.db.as_ref().filter(|_| self.trusted.load(Ordering::Acquire))
    }

    /// A change that is not in the index makes the whole index worthless until the next start.
    fn check(&self, recorded: Result<(), String>) {
        if let Err(reason) = recorded {
            self.trusted.store(false, Ordering::Release);
            log::warn!("the catalog's index is switched off until the next start: {reason}");
        }
    }
}

fn rebuild(vault: &Vault, dir: &Path, entries: &Entries) -> Result<Db, String> {
    std::fs::remove_dir_all(dir).map_err(|error| error.to_string())?;
    open_and_reconcile(vault, dir, entries).map(|(db, _)| db)
}

/// sled asserts where it could return an error; a damaged file must not take the daemon down.
fn open_and_reconcile(vault: &Vault, dir: &Path, entries: &Entries) -> Result<(Db, usize), String> {
    let attempt = AssertUnwindSafe(|| {
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .open()
            .map_err(|error| error.to_string())?;
        let corrected = reconcile(vault, &db, entries)?;
        Ok((db, corrected))
    });
    catch_unwind(attempt).unwrap_or_else(|_| Err("sled panicked on its files".to_owned()))
}

/// Makes the index say what the files say; how many entries it had wrong.
fn reconcile(vault: &Vault, db: &Db, entries: &Entries) -> Result<usize, String> {
    let wanted: BTreeMap<String, &Json> = entries.iter().map(|((kind, id), json)| (name(kind, id), json)).collect();
    let mut corrected = 0;
    for key in db.iter().keys() {
        let key = key.map_err(|error| error.to_string())?;
        if !std::str::from_utf8(&key).is_ok_and(|name| wanted.contains_key(name)) {
            db.remove(&key).map_err(|error| error.to_string())?;
            corrected += 1;
        }
    }
    for (name, json) in wanted {
        let known = db.get(&name).map_err(|error| error.to_string())?;
        let known = known.and_then(|sealed| vault.open_small(&name, &sealed).ok());
        if known.as_ref() != Some(json) {
            set(vault, db, &name, json)?;
            corrected += 1;
        }
    }
    Ok(corrected)
}

fn set(vault: &Vault, db: &Db, name: &str, json: &[u8]) -> Result<(), String> {
    let sealed = vault.seal_small(name, json).map_err(|error| error.to_string())?;
    db.insert(name, sealed).map(drop).map_err(|error| error.to_string())
}

/// The key, which its value is sealed under. Not the file's path: neither opens in place of the other.
fn name(kind: &str, id: &str) -> String {
    format!("index/{kind}/{id}")
}
