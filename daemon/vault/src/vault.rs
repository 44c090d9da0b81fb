//! The opened vault: what the rest of the daemon seals with.
//!
//! What always holds: the keyring has one owner, behind a lock that making, destroying and
//! rotating keys take for writing, so no key can slip past a rotation or come back after its
//! destruction.

mod entries;
mod keys;
mod objects;

use crate::backup;
use crate::data_key::{DOOMED_PREFIX, DataKey, KeyId, KeyInfo};
use crate::error::{At, VaultError};
use crate::keyring::{self, Keyring};
use crate::secret::Key;
use crate::storage::{Storage, TEMPORARY_PREFIX};
use crate::unseal::RootSource;
use ring::hmac;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

const KEYRING: &str = "keyring.json";
const KEYS: &str = "keys";
const OBJECTS: &str = "objects";
const SCRATCH: &str = "scratch";
/// Folders of the state folder that are not the vault's: sled's and the public weights.
const NOT_SWEPT: [&str; 2] = ["index", "models"];

/// An opened keyring, its storage and its folder. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    keyring: RwLock<Keyring>,
    /// Keys of kind `Scratch`, which no file holds.
    scratch: Mutex<HashMap<KeyId, DataKey>>,
    /// Seals small entries.
    entries: Key,
    /// Names objects' files, so that a listing of the folder tells no names.
    names: hmac::Key,
}

/// What [`Vault::sweep`] found after a crash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Unfinished files removed.
    pub temporary_files: usize,
    /// Objects under scratch keys of an earlier run removed.
    pub scratch_objects: usize,
    /// Keys whose destruction had been cut short, now gone.
    pub destroyed_keys: usize,
    /// Keys that an interrupted rotation had left under an older version.
    pub rewrapped_keys: usize,
}

/// The data keys of a vault.
#[derive(Debug, Default)]
pub struct Keys {
    /// Those that open.
    pub open: Vec<(KeyId, KeyInfo)>,
    /// Why others do not.
    pub damaged: Vec<VaultError>,
}

/// The state of the keyring, for `cloister key status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyringStatus {
    /// The vault's random name; not secret.
    pub vault: String,
    /// `passphrase` or `credential`.
    pub source: &'static str,
    /// Versions of the key-encryption key; more than one while a rotation is unfinished.
    pub versions: Vec<u32>,
}

impl Vault {
    /// Makes a vault in `dir`, which may exist but must not hold one.
    ///
    /// # Errors
    /// `VaultExists` when there is a keyring, or keys that a lost keyring once opened;
    /// `WeakSecret`, `Storage`.
    pub fn create(
        storage: Arc<dyn Storage>,
        dir: impl Into<PathBuf>,
        source: &RootSource,
    ) -> Result<Self, VaultError> {
        let dir = dir.into();
        make_folders(&*storage, &dir)?;
        let exists = |what| VaultError::VaultExists { dir: dir.clone(), what };
        if files(&*storage, &dir)?.iter().any(|name| name == KEYRING) {
            return Err(exists(KEYRING));
        }
        if !files(&*storage, &dir.join(KEYS))?.is_empty() {
            return Err(exists(KEYS));
        }
        let keyring = Keyring::create(source)?;
        keyring.save(&*storage, &dir.join(KEYRING))?;
        Self::with(storage, dir, keyring)
    }

    /// Opens the vault in `dir`.
    ///
    /// # Errors
    /// `NoVault`, `WrongPassphrase`, `WrongCredential`, `WrongSource`, `Damaged`, `Storage`.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: impl Into<PathBuf>,
        source: &RootSource,
    ) -> Result<Self, VaultError> {
        let dir = dir.into();
        let keyring = Keyring::open(&*storage, &dir.join(KEYRING), source)?
            .ok_or_else(|| VaultError::NoVault(dir.clone()))?;
        make_folders(&*storage, &dir)?;
        Self::with(storage, dir, keyring)
    }

    /// Puts a keyring back from a [`backup`](Self::backup), and seals it under `source`.
    ///
    /// # Errors
    /// `Backup` when the passphrase is wrong, when the keyring in place belongs to another vault,
    /// or when a data key was wrapped after a rotation that the backup does not know. Nothing is
    /// changed then.
    pub fn restore(
        storage: Arc<dyn Storage>,
        dir: impl Into<PathBuf>,
        backup: &[u8],
        passphrase: &RootSource,
        source: &RootSource,
    ) -> Result<Self, VaultError> {
        let dir = dir.into();
        let path = dir.join(KEYRING);
        let secrets = backup::open(backup, passphrase)?;
        let present = keyring::vault_name(&*storage, &path)?;
        if present.is_some_and(|vault| vault != secrets.vault) {
            return Err(VaultError::Backup("it is of another vault".into()));
        }
        make_folders(&*storage, &dir)?;
        let keyring = Keyring::from_secrets(secrets, source, &path)?;
        let vault = Self::with(storage, dir, keyring)?;
        if let Some(problem) = vault.list_keys()?.damaged.first() {
            return Err(VaultError::Backup(format!("a data key would not open: {problem}")));
        }
        vault.read(|keyring| keyring.save(vault.storage(), &path))?;
        Ok(vault)
    }

    fn with(
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        keyring: Keyring,
    ) -> Result<Self, VaultError> {
        let entries = keyring.system.derive("cloister/entries")?;
        let names = keyring.system.derive("cloister/object-names")?;
        Ok(Self(Arc::new(Inner {
            storage,
            dir,
            keyring: RwLock::new(keyring),
            scratch: Mutex::default(),
            entries,
            names: hmac::Key::new(hmac::HMAC_SHA256, names.bytes()),
        })))
    }

    /// The seam that the vault writes through.
    pub fn storage(&self) -> &dyn Storage {
        &*self.0.storage
    }

    /// The same, to share.
    pub fn shared_storage(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.0.storage)
    }

    /// The state folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    fn read<T>(&self, body: impl FnOnce(&Keyring) -> T) -> T {
        body(&self.0.keyring.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, body: impl FnOnce(&mut Keyring) -> T) -> T {
        body(&mut self.0.keyring.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Vault {
    /// Clears up after an earlier run: unfinished files, scratch objects whose key died with it,
    /// half-destroyed keys, an interrupted rotation. Call it at start, before anything writes.
    ///
    /// # Errors
    /// `Storage`, `Damaged`.
    pub fn sweep(&self) -> Result<Swept, VaultError> {
        let mut swept = Swept { temporary_files: self.sweep_folder("")?, ..Swept::default() };
        for entry in self.storage().list(&self.0.dir).at("list", &self.0.dir)? {
            if entry.is_dir && !NOT_SWEPT.contains(&entry.name.as_str()) {
                swept.temporary_files += self.sweep_folder(&entry.name)?;
            }
        }
        let scratch = self.0.dir.join(SCRATCH);
        for name in files(self.storage(), &scratch)? {
            swept.scratch_objects += usize::from(self.remove_file(&scratch.join(name))?);
        }
        self.write(|keyring| {
            let folder = self.0.dir.join(KEYS);
            for name in files(self.storage(), &folder)? {
                if name.starts_with(DOOMED_PREFIX) {
                    self.destroy(&folder.join(name))?;
                    swept.destroyed_keys += 1;
                }
            }
            if keyring.keks.len() > 1 {
                swept.rewrapped_keys = self.rewrap(keyring)?;
            }
            Ok(swept)
        })
    }

    fn sweep_folder(&self, folder: &str) -> Result<usize, VaultError> {
        let folder = self.0.dir.join(folder);
        let mut count = 0;
        for entry in self.storage().list(&folder).at("list", &folder)? {
            if !entry.is_dir && entry.name.starts_with(TEMPORARY_PREFIX) {
                count += usize::from(self.remove_file(&folder.join(entry.name))?);
            }
        }
        Ok(count)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

fn make_folders(storage: &dyn Storage, dir: &Path) -> Result<(), VaultError> {
    for folder in [dir.to_owned(), dir.join(KEYS), dir.join(OBJECTS), dir.join(SCRATCH)] {
        storage.create_dir(&folder).at("create", &folder)?;
    }
    Ok(())
}

/// Names of the finished files in a folder; none when there is no such folder.
fn files(storage: &dyn Storage, folder: &Path) -> Result<Vec<String>, VaultError> {
    let entries = match storage.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", folder)?,
    };
    let finished =
        entries.into_iter().filter(|it| !it.is_dir && !it.name.starts_with(TEMPORARY_PREFIX));
    Ok(finished.map(|entry| entry.name).collect())
}
