//! What exists: models, datasets, plugins, jobs, adapters, deployments.
//!
//! The truth is one sealed file an entry, `catalog/KIND/ID`, written by the vault. `index` (sled)
//! only makes reading fast; it is compared with the files at every start and corrected, and
//! Cloister runs without it if it will not open at all.
//!
//! What always holds:
//! * The file is written before the index, so the index never knows more than the files.
//! * An entry's kind and id are bound into its file: one renamed to another's name does not open.
//! * An entry that does not open is reported and stays where it is; its id is not free, and
//!   nothing pretends that it never existed.
//! * Ids are file names, so they can be read on a stolen disk; what an entry says cannot.

mod entries;
mod index;
#[cfg(test)]
mod tests;

pub use index::IndexState;

use cloister_vault::{Vault, VaultError};
use index::Index;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

const LONGEST_ID: usize = 128;

/// Something that the catalog holds.
pub trait Entry: Serialize + DeserializeOwned {
    /// The folder of its kind; one of those that the catalog looks into at start.
    const KIND: &'static str;

    /// Its name within its kind: letters, digits, `.`, `-`, `_`, not beginning with `.`.
    fn id(&self) -> &str;
}

/// The entries, open.
#[derive(Debug)]
pub struct Catalog {
    vault: Vault,
    index: Index,
    /// Serialises changes, so that file and index take them in one order.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    damaged: BTreeMap<(String, String), String>,
}

/// An entry that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its kind.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Why; never any of its content.
    pub reason: String,
}

/// The catalog was not read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is none.
    #[error("there is no `{id}` among the {kind}; `cloister status` shows what exists")]
    NotFound {
        /// The kind that was searched.
        kind: &'static str,
        /// What was looked for.
        id: String,
    },
    /// There is one already.
    #[error("there is a `{id}` among the {kind} already; remove it first or choose another name")]
    Exists {
        /// Its kind.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// It cannot be read.
    #[error("`catalog/{kind}/{id}` cannot be read: {reason}; restore it from a backup, or remove it")]
    Damaged {
        /// Its kind.
        kind: &'static str,
        /// Its id.
        id: String,
        /// Why.
        reason: String,
    },
    /// A name that cannot be a file of its own.
    #[error("`{0}` is not a name: use 1 to 128 letters, digits, `.`, `-`, `_`, not beginning with `.`")]
    BadId(String),
    /// It cannot be written as JSON.
    #[error("the entry `{id}` cannot be stored: {source}")]
    Encode {
        /// Its id.
        id: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The vault or the disk refused.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl Catalog {
    /// Reads every entry's file and brings the index into line with them. Damaged entries do not
    /// stop it: ask [`damaged`](Self::damaged), and [`index_state`](Self::index_state).
    ///
    /// # Errors
    /// `Vault` when a folder of the catalog cannot be listed at all.
    pub fn open(vault: Vault) -> Result<Self, CatalogError> {
        let mut found = BTreeMap::new();
        let mut state = State::default();
        for kind in entries::KINDS {
            for id in vault.list_sealed(&folder(kind))? {
                let key = (kind.to_owned(), id);
                match read(&vault, kind, &key.1) {
                    Ok(Some(json)) => drop(found.insert(key, json)),
                    Ok(None) => {}
                    Err(reason) => drop(state.damaged.insert(key, reason)),
                }
            }
        }
        let index = Index::open(&vault, &found);
        Ok(Self { vault, index, state: Mutex::new(state) })
    }

    /// Writes an entry, new or changed.
    ///
    /// # Errors
    /// `Damaged` when one of that id exists and cannot be read: it would be lost. `Vault`.
    pub fn put<T: Entry>(&self, entry: &T) -> Result<(), CatalogError> {
        let state = self.state();
        self.store(&state, entry)
    }

    /// Writes an entry that must be new.
    ///
    /// # Errors
    /// `Exists`; otherwise as [`put`](Self::put).
    pub fn create<T: Entry>(&self, entry: &T) -> Result<(), CatalogError> {
        let mut state = self.state();
        if self.load::<T>(&mut state, entry.id())?.is_some() {
            return Err(CatalogError::Exists { kind: T::KIND, id: entry.id().to_owned() });
        }
        self.store(&state, entry)
    }

    /// The entry of that id.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, `Vault`.
    pub fn get<T: Entry>(&self, id: &str) -> Result<T, CatalogError> {
        self.find(id)?.ok_or_else(|| CatalogError::NotFound { kind: T::KIND, id: id.to_owned() })
    }

    /// The entry of that id, if there is one.
    ///
    /// # Errors
    /// `Damaged`, `Vault`.
    pub fn find<T: Entry>(&self, id: &str) -> Result<Option<T>, CatalogError> {
        self.load(&mut self.state(), id)
    }

    /// Every entry of a kind, by id. Damaged ones are left out and told by
    /// [`damaged`](Self::damaged).
    ///
    /// # Errors
    /// `Vault` when the folder cannot be listed.
    pub fn list<T: Entry>(&self) -> Result<Vec<T>, CatalogError> {
        let mut state = self.state();
        let mut out = Vec::new();
        for id in self.vault.list_sealed(&folder(T::KIND))? {
            match self.load(&mut state, &id) {
                Ok(entry) => out.extend(entry),
                Err(CatalogError::Damaged { .. }) => {} // noted in `state`
                Err(other) => return Err(other),
            }
        }
        Ok(out)
    }

    /// Removes an entry, damaged or not; whether there was one.
    ///
    /// # Errors
    /// `Vault`; the entry is then still there.
    pub fn remove<T: Entry>(&self, id: &str) -> Result<bool, CatalogError> {
        let mut state = self.state();
        let removed = self.vault.remove_sealed(&path(T::KIND, id)?)?;
        self.index.remove(T::KIND, id);
        state.damaged.remove(&key::<T>(id));
        Ok(removed)
    }

    /// How many entries of each kind open.
    ///
    /// # Errors
    /// `Vault` when a folder cannot be listed.
    pub fn counts(&self) -> Result<BTreeMap<String, u64>, CatalogError> {
        let state = self.state();
        let mut counts = BTreeMap::new();
        for kind in entries::KINDS {
            let ids = self.vault.list_sealed(&folder(kind))?;
            let open = ids.iter().filter(|id| !state.damaged.contains_key(&(kind.to_owned(), id.as_str().to_owned())));
            counts.insert(kind.to_owned(), open.count() as u64);
        }
        Ok(counts)
    }

    /// Entries that cannot be read, for `cloister doctor` and the log.
    pub fn damaged(&self) -> Vec<Damaged> {
        let state = self.state();
        let damaged = state.damaged.iter().map(|((kind, id), reason)| Damaged {
            kind: kind.clone(),
            id: id.clone(),
            reason: reason.clone(),
        });
        damaged.collect()
    }

    /// What became of the index at start, for the log and `cloister doctor`.
    pub fn index_state(&self) -> &IndexState {
        self.index.state()
    }

    fn store<T: Entry>(&self, state: &State, entry: &T) -> Result<(), CatalogError> {
        let id = entry.id();
        refuse_damaged::<T>(state, id)?;
        let json = serde_json::to_vec(entry).map(Json::new);
        let json = json.map_err(|source| CatalogError::Encode { id: id.to_owned(), source })?;
        self.vault.write_sealed(&path(T::KIND, id)?, &json)?;
        self.index.insert(&self.vault, T::KIND, id, &json);
        Ok(())
    }

    /// From the index, or from the file where the index does not know.
    fn load<T: Entry>(&self, state: &mut State, id: &str) -> Result<Option<T>, CatalogError> {
        refuse_damaged::<T>(state, id)?;
        let known = self.index.get(&self.vault, T::KIND, id);
        if let Some(entry) = known.and_then(|json| decode(&json, id).ok()) {
            return Ok(Some(entry));
        }
        let json = match self.vault.read_sealed(&path(T::KIND, id)?) {
            Ok(None) => return Ok(None),
            Ok(Some(json)) => json,
            Err(error @ (VaultError::Object { .. } | VaultError::Damaged { .. })) => {
                return Err(note::<T>(state, id, error.to_string()));
            }
            Err(passing) => return Err(passing.into()),
        };
        let entry = decode::<T>(&json, id).map_err(|reason| note::<T>(state, id, reason))?;
        self.index.insert(&self.vault, T::KIND, id, &json);
        Ok(Some(entry))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry's JSON, checked to be of its kind's form; the reason if it is not, or does not open.
fn read(vault: &Vault, kind: &str, id: &str) -> Result<Option<Json>, String> {
    let path = path(kind, id).map_err(|error| error.to_string())?;
    let json = vault.read_sealed(&path).map_err(|error| error.to_string())?;
    if let Some(json) = &json {
        entries::check(kind, json, id)?;
    }
    Ok(json)
}

/// Plaintext of an entry: wiped when dropped.
type Json = zeroize::Zeroizing<Vec<u8>>;

fn decode<T: Entry>(json: &[u8], id: &str) -> Result<T, String> {
    // serde's message may quote a value; the category and the place do not.
    let entry: T = serde_json::from_slice(json).map_err(|error| {
        format!("it opens, and is of another form ({:?} error, column {})", error.classify(), error.column())
    })?;
    match entry.id() == id {
        true => Ok(entry),
        false => Err("it opens, and holds another id".to_owned()),
    }
}

fn folder(kind: &str) -> String {
    format!("catalog/{kind}")
}

/// The file of an entry. A name with a `/` would be another entry's, or no entry's.
fn path(kind: &str, id: &str) -> Result<String, CatalogError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if id.is_empty() || id.len() > LONGEST_ID || id.starts_with('.') || !id.bytes().all(plain) {
        return Err(CatalogError::BadId(id.chars().take(LONGEST_ID).collect()));
    }
    Ok(format!("{}/{id}", folder(kind)))
}

fn key<T: Entry>(id: &str) -> (String, String) {
    (T::KIND.to_owned(), id.to_owned())
}

fn refuse_damaged<T: Entry>(state: &State, id: &str) -> Result<(), CatalogError> {
    match state.damaged.get(&key::<T>(id)) {
        None => Ok(()),
        Some(reason) => Err(damaged::<T>(id, reason.clone())),
    }
}

/// Remembers that an entry is damaged, and makes the error.
fn note<T: Entry>(state: &mut State, id: &str, reason: String) -> CatalogError {
    state.damaged.insert(key::<T>(id), reason.clone());
    damaged::<T>(id, reason)
}

fn damaged<T: Entry>(id: &str, reason: String) -> CatalogError {
    CatalogError::Damaged { kind: T::KIND, id: id.to_owned(), reason }
}
