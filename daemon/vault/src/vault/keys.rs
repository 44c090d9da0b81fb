//! The vault's keys: make, list, destroy, rotate, back up.

use super::{KEYRING, KEYS, KeyringStatus, Keys, Vault, files};
use crate::backup;
use crate::data_key::{self, DOOMED_PREFIX, DataKey, KeyId, KeyInfo, KeyKind};
use crate::error::{At, VaultError};
use crate::keyring::Keyring;
use crate::secret::Key;
use crate::storage::{parent_of, read_small, write_superseding};
use crate::unseal::RootSource;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

impl Vault {
    /// Makes a data key, durably unless its kind is `Scratch`.
    ///
    /// # Errors
    /// `BadName` for an empty or overlong name or owner, `Storage`.
    pub fn new_key(&self, info: KeyInfo) -> Result<KeyId, VaultError> {
        info.check()?;
        let id = KeyId::random()?;
        let data_key = DataKey { info, key: Key::random()? };
        if data_key.info.kind == KeyKind::Scratch {
            self.scratch(|keys| keys.insert(id.clone(), data_key));
            return Ok(id);
        }
        self.write(|keyring| {
            let bytes = data_key::wrap(keyring, &id, &data_key)?;
            write_superseding(self.storage(), &self.key_path(&id), &bytes)
        })?;
        Ok(id)
    }

    /// What a key is for.
    ///
    /// # Errors
    /// `NoKey`, `Damaged`, `Storage`.
    pub fn key_info(&self, id: &KeyId) -> Result<KeyInfo, VaultError> {
        Ok(self.data_key(id)?.info)
    }

    /// The data keys on disk. A damaged one does not hide the others.
    ///
    /// # Errors
    /// `Storage` when the folder cannot be read.
    pub fn list_keys(&self) -> Result<Keys, VaultError> {
        let mut out = Keys::default();
        for id in self.key_ids()? {
            match self.read(|keyring| self.load_key(keyring, &id)) {
                Ok(Some((data_key, _))) => out.open.push((id, data_key.info)),
                Ok(None) => {}
                Err(error) => out.damaged.push(error),
            }
        }
        Ok(out)
    }

    /// Destroys a key, and with it everything sealed under it: rename, fsync of the folder,
    /// overwrite, fsync, unlink, fsync of the folder. Storage that keeps old blocks (flash,
    /// copy-on-write, snapshots) may still hold the wrapped key; to be of use it needs a KEK, so
    /// there a [`rotate`](Self::rotate) should follow, and the device be destroyed in the end.
    ///
    /// # Errors
    /// `NoKey`; `Storage` when a step failed. Once the rename is done the key opens nothing, and
    /// what is left is finished by the next [`sweep`](Self::sweep).
    pub fn shred(&self, id: &KeyId) -> Result<(), VaultError> {
        if self.scratch(|keys| keys.remove(id)).is_some() {
            return Ok(());
        }
        let (path, doomed) = (self.key_path(id), self.doomed_path(id));
        self.write(|_| match self.storage().rename(&path, &doomed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(VaultError::NoKey(id.to_string())),
            other => {
                other.at("rename", &path)?;
                self.storage().sync_dir(parent_of(&path)).at("sync the folder of", &path)?;
                self.destroy(&doomed)
            }
        })
    }

    /// Overwrites and removes a key file that was renamed for it, trying each step in any case.
    pub(super) fn destroy(&self, doomed: &Path) -> Result<(), VaultError> {
        let erased = self.storage().erase(doomed).at("overwrite", doomed);
        erased.and(self.remove_file(doomed).map(drop))
    }

    /// Makes a new KEK version, wraps every data key under it and destroys the older versions.
    /// Returns the new version. Interrupted at any point, every key still opens, and
    /// [`sweep`](Self::sweep) finishes the work.
    ///
    /// # Errors
    /// `Damaged` when a data key does not open (before anything is changed), `Storage`.
    pub fn rotate(&self) -> Result<u32, VaultError> {
        self.write(|keyring| {
            for id in self.key_ids()? {
                self.load_key(keyring, &id)?;
            }
            let mut next = keyring.clone();
            let (version, _) = next.current()?;
            next.keks.insert(version + 1, Key::random()?);
            next.save(self.storage(), &self.0.dir.join(KEYRING))?;
            *keyring = next;
            self.rewrap(keyring)?;
            Ok(version + 1)
        })
    }

    /// Wraps every key under the current KEK, then drops the older ones. Returns how many keys
    /// were under an older one.
    pub(super) fn rewrap(&self, keyring: &mut Keyring) -> Result<usize, VaultError> {
        let (current, _) = keyring.current()?;
        let mut count = 0;
        for id in self.key_ids()? {
            let Some((data_key, version)) = self.load_key(keyring, &id)? else { continue };
            if version != current {
                let bytes = data_key::wrap(keyring, &id, &data_key)?;
                write_superseding(self.storage(), &self.key_path(&id), &bytes)?;
                count += 1;
            }
        }
        let mut next = keyring.clone();
        next.keks.retain(|version, _| *version == current);
        next.save(self.storage(), &self.0.dir.join(KEYRING))?;
        *keyring = next;
        Ok(count)
    }

    /// Seals the root key under another passphrase or credential; nothing else changes.
    ///
    /// # Errors
    /// `WeakSecret`, `Storage`.
    pub fn change_source(&self, source: &RootSource) -> Result<(), VaultError> {
        self.write(|keyring| {
            let path = self.0.dir.join(KEYRING);
            let mut next = keyring.clone();
            next.change_source(source, &path)?;
            next.save(self.storage(), &path)?;
            *keyring = next;
            Ok(())
        })
    }

    /// The keyring as a text that opens with `passphrase`. It holds no data key: one destroyed
    /// later stays destroyed. Make a new backup after each rotation.
    ///
    /// # Errors
    /// `WeakSecret`.
    pub fn backup(&self, passphrase: &RootSource) -> Result<Vec<u8>, VaultError> {
        backup::seal(&self.read(Keyring::secrets), passphrase)
    }

    /// What the keyring consists of.
    pub fn status(&self) -> KeyringStatus {
        self.read(|keyring| KeyringStatus {
            vault: keyring.vault.clone(),
            source: keyring.source.name(),
            versions: keyring.keks.keys().copied().collect(),
        })
    }

    pub(super) fn scratch<T>(&self, body: impl FnOnce(&mut HashMap<KeyId, DataKey>) -> T) -> T {
        body(&mut self.0.scratch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn data_key(&self, id: &KeyId) -> Result<DataKey, VaultError> {
        if let Some(data_key) = self.scratch(|keys| keys.get(id).cloned()) {
            return Ok(data_key);
        }
        match self.read(|keyring| self.load_key(keyring, id))? {
            Some((data_key, _)) => Ok(data_key),
            None => Err(VaultError::NoKey(id.to_string())),
        }
    }

    fn load_key(&self, keyring: &Keyring, id: &KeyId) -> Result<Option<(DataKey, u32)>, VaultError> {
        let path = self.key_path(id);
        let bytes = read_small(self.storage(), &path, data_key::LIMIT)?;
        bytes.map(|bytes| data_key::unwrap(keyring, id, &bytes, &path)).transpose()
    }

    fn key_ids(&self) -> Result<Vec<KeyId>, VaultError> {
        let names = files(self.storage(), &self.0.dir.join(KEYS))?;
        Ok(names.into_iter().filter_map(|name| KeyId::try_from(name).ok()).collect())
    }

    fn key_path(&self, id: &KeyId) -> PathBuf {
        self.0.dir.join(KEYS).join(id.as_str())
    }

    fn doomed_path(&self, id: &KeyId) -> PathBuf {
        self.0.dir.join(KEYS).join(format!("{DOOMED_PREFIX}{id}"))
    }
}
