//! The keyring: the root key and the versioned key-encryption keys (KEKs) under it.
//!
//! Why two levels: a new passphrase rewraps the root alone, a rotation rewraps every data key
//! under a new KEK, and neither touches a byte of data.
//!
//! What always holds: `keyring.json` is replaced in one step, and its old bytes overwritten; every key in it is wrapped with
//! AES-256-GCM under the one above, bound to the vault and to its version; the highest version
//! is the current one. The file's checksum is not a defence (that is what the tags are for): it
//! tells a damaged file from a wrong passphrase.

use crate::error::VaultError;
use crate::hex;
use crate::secret::Key;
use crate::storage::{Storage, read_small, write_superseding};
use crate::unseal::{RootSource, StoredSource};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const FORMAT: &str = "cloister-keyring-1";
const LIMIT: u64 = 1 << 20;

/// An opened keyring.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    /// Random name of this vault; bound into everything that it wraps.
    pub(crate) vault: String,
    /// Under what the root key is wrapped in the file.
    pub(crate) source: StoredSource,
    /// The root key, wrapped under the source's key, as it stands in the file.
    wrapped_root: String,
    root: Key,
    pub(crate) keks: BTreeMap<u32, Key>,
    /// Seals catalog entries and names objects' files.
    pub(crate) system: Key,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    vault: String,
    source: StoredSource,
    root: String,
    keks: BTreeMap<u32, String>,
    /// The system key under the current KEK.
    system: String,
    checksum: String,
}

/// All the secrets of a keyring, for a backup.
pub(crate) struct Secrets {
    pub(crate) vault: String,
    pub(crate) root: Key,
    pub(crate) keks: BTreeMap<u32, Key>,
    pub(crate) system: Key,
}

impl Keyring {
    pub(crate) fn create(source: &RootSource) -> Result<Self, VaultError> {
        let mut vault = [0; 16];
        SystemRandom::new().fill(&mut vault).map_err(|_| VaultError::Random)?;
        let secrets = Secrets {
            vault: hex::encode(vault),
            root: Key::random()?,
            keks: BTreeMap::from([(1, Key::random()?)]),
            system: Key::random()?,
        };
        Self::from_secrets(secrets, source, Path::new("keyring.json"))
    }

    pub(crate) fn from_secrets(secrets: Secrets, source: &RootSource, path: &Path) -> Result<Self, VaultError> {
        let Secrets { vault, root, keks, system } = secrets;
        let stored = StoredSource::for_sealing(source)?;
        let wrapped_root = wrap_root(&vault, &stored, &root, source, path)?;
        Ok(Self { vault, source: stored, wrapped_root, root, keks, system })
    }

    /// Reads and opens the keyring; none when there is no file.
    pub(crate) fn open(storage: &dyn Storage, path: &Path, source: &RootSource) -> Result<Option<Self>, VaultError> {
        let Some(stored) = read_stored(storage, path)? else { return Ok(None) };
        let key = stored.source.key(source, path)?;
        let aad = root_context(&stored.vault, &stored.source);
        let root = hex::decode(&stored.root)
            .and_then(|wrapped| key.unwrap_key(&aad, &wrapped))
            .ok_or_else(|| stored.source.wrong())?;
        stored.open_under(root, path).map(Some)
    }

    pub(crate) fn save(&self, storage: &dyn Storage, path: &Path) -> Result<(), VaultError> {
        let mut keks = BTreeMap::new();
        for (version, key) in &self.keks {
            let wrapped = self.root.wrap(&kek_context(&self.vault, *version), key.bytes())?;
            keks.insert(*version, hex::encode(wrapped));
        }
        let (version, kek) = self.current()?;
        let system = kek.wrap(&system_context(&self.vault, version), self.system.bytes())?;
        let mut stored = Stored {
            format: FORMAT.to_owned(),
            vault: self.vault.clone(),
            source: self.source.clone(),
            root: self.wrapped_root.clone(),
            keks,
            system: hex::encode(system),
            checksum: String::new(),
        };
        stored.checksum = stored.sum()?;
        write_superseding(storage, path, &to_json(&stored)?)
    }

    /// The version and key that new data keys are wrapped under.
    pub(crate) fn current(&self) -> Result<(u32, &Key), VaultError> {
        let newest = self.keks.last_key_value().map(|(version, key)| (*version, key));
        newest.ok_or(VaultError::Internal("a keyring without keys"))
    }

    /// Wraps the root key under another source. The caller saves.
    pub(crate) fn change_source(&mut self, source: &RootSource, path: &Path) -> Result<(), VaultError> {
        let stored = StoredSource::for_sealing(source)?;
        self.wrapped_root = wrap_root(&self.vault, &stored, &self.root, source, path)?;
        self.source = stored;
        Ok(())
    }

    pub(crate) fn secrets(&self) -> Secrets {
        Secrets {
            vault: self.vault.clone(),
            root: self.root.clone(),
            keks: self.keks.clone(),
            system: self.system.clone(),
        }
    }
}

impl Stored {
    fn open_under(self, root: Key, path: &Path) -> Result<Keyring, VaultError> {
        let mut keks = BTreeMap::new();
        for (version, wrapped) in &self.keks {
            let key = hex::decode(wrapped)
                .and_then(|wrapped| root.unwrap_key(&kek_context(&self.vault, *version), &wrapped))
                .ok_or_else(|| VaultError::damaged(path, format!("key version {version} does not verify")))?;
            keks.insert(*version, key);
        }
        let (version, kek) =
            keks.last_key_value().ok_or_else(|| VaultError::damaged(path, "it holds no key versions"))?;
        let system = hex::decode(&self.system)
            .and_then(|wrapped| kek.unwrap_key(&system_context(&self.vault, *version), &wrapped))
            .ok_or_else(|| VaultError::damaged(path, "the system key does not verify"))?;
        let (vault, source) = (self.vault, self.source);
        Ok(Keyring { vault, source, wrapped_root: self.root, root, keks, system })
    }

    /// SHA-256 of everything but the checksum itself.
    fn sum(&self) -> Result<String, VaultError> {
        let fields = (&self.format, &self.vault, &self.source, &self.root, &self.keks, &self.system);
        Ok(hex::encode(digest(&SHA256, &to_json(&fields)?)))
    }
}

fn read_stored(storage: &dyn Storage, path: &Path) -> Result<Option<Stored>, VaultError> {
    let Some(bytes) = read_small(storage, path, LIMIT)? else { return Ok(None) };
    let stored: Stored = serde_json::from_slice(&bytes)
        .map_err(|error| VaultError::damaged(path, format!("it is not a keyring: {error}")))?;
    if stored.format != FORMAT {
        return Err(VaultError::damaged(path, format!("its format is not `{FORMAT}`")));
    }
    if stored.sum()? != stored.checksum {
        return Err(VaultError::damaged(path, "its checksum does not match"));
    }
    Ok(Some(stored))
}

/// The vault's random name, which is not secret; none when the file is missing or damaged.
pub(crate) fn vault_name(storage: &dyn Storage, path: &Path) -> Result<Option<String>, VaultError> {
    match read_stored(storage, path) {
        Ok(stored) => Ok(stored.map(|stored| stored.vault)),
        Err(VaultError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn wrap_root(
    vault: &str,
    stored: &StoredSource,
    root: &Key,
    source: &RootSource,
    path: &Path,
) -> Result<String, VaultError> {
    let key = stored.key(source, path)?;
    Ok(hex::encode(key.wrap(&root_context(vault, stored), root.bytes())?))
}

// What each wrapped key is bound to. The derivation's parameters are already in the derived key.
fn root_context(vault: &str, source: &StoredSource) -> String {
    format!("cloister/root/{vault}/{}", source.name())
}

fn kek_context(vault: &str, version: u32) -> String {
    format!("cloister/key-encryption-key/{vault}/{version}")
}

fn system_context(vault: &str, version: u32) -> String {
    format!("cloister/system-key/{vault}/{version}")
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, VaultError> {
    serde_json::to_vec(value).map_err(|_| VaultError::Internal("a value that JSON cannot hold"))
}
