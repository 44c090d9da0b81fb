//! The vault's objects: start one, open one, remove them.

use super::{OBJECTS, SCRATCH, Vault, files};
use crate::data_key::{KeyId, KeyInfo, KeyKind};
use crate::error::{At, VaultError};
use crate::floe::{Parameters, RandomReader, SegmentWriter};
use crate::hex;
use crate::keyring::to_json;
use crate::object::{ObjectReader, ObjectWriter, SEGMENT_LENGTH, Temporary};
use crate::storage::{parent_of, temporary_beside};
use ring::hmac;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

impl Vault {
    /// Starts an object. Any name will do: it is bound into the object and shown nowhere.
    ///
    /// # Errors
    /// `NoKey`, `Damaged`, `Storage`.
    pub fn writer(&self, name: &str, id: &KeyId) -> Result<ObjectWriter, VaultError> {
        let data_key = self.data_key(id)?;
        let path = self.object_path(name, data_key.info.kind);
        let temporary = temporary_beside(&path)?;
        let file = self.storage().create_new(&temporary).at("create", &temporary)?;
        let storage = self.shared_storage();
        let temporary = Temporary { storage: Arc::clone(&storage), path: temporary, keep: false };
        let aad = self.object_context(name, id, &data_key.info)?;
        let writer = Parameters::new(SEGMENT_LENGTH)
            .and_then(|parameters| SegmentWriter::new(file, &data_key.key, &aad, parameters))
            .map_err(|source| VaultError::object(name, source))?;
        let digest = ObjectWriter::new_digest();
        let name = name.to_owned();
        Ok(ObjectWriter { name, storage, temporary, path, writer, digest, length: 0 })
    }

    /// Starts an object under a key that only ever exists in memory, and dies with the process.
    ///
    /// # Errors
    /// `BadName`, `Storage`.
    pub fn scratch_writer(
        &self,
        name: &str,
        owner: &str,
    ) -> Result<(KeyId, ObjectWriter), VaultError> {
        let (name_owned, owner) = (name.to_owned(), owner.to_owned());
        let id = self.new_key(KeyInfo { name: name_owned, kind: KeyKind::Scratch, owner })?;
        let writer = self.writer(name, &id).inspect_err(|_| {
            self.scratch(|keys| keys.remove(&id));
        })?;
        Ok((id, writer))
    }

    /// Opens an object; its end is verified before this returns.
    ///
    /// # Errors
    /// `NoKey` when the key was destroyed, `NoObject`, `Object` when it does not verify.
    pub fn reader(&self, name: &str, id: &KeyId) -> Result<ObjectReader, VaultError> {
        let data_key = self.data_key(id)?;
        let path = self.object_path(name, data_key.info.kind);
        let file = match self.storage().open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(VaultError::NoObject(name.to_owned()));
            }
            other => other.at("open", &path)?,
        };
        let aad = self.object_context(name, id, &data_key.info)?;
        RandomReader::new(file, &data_key.key, &aad)
            .map(ObjectReader::new)
            .map_err(|source| VaultError::object(name, source))
    }

    /// Removes an object's file, whichever key it is under; whether there was one.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_object(&self, name: &str) -> Result<bool, VaultError> {
        let sealed = self.remove_file(&self.object_path(name, KeyKind::Dataset))?;
        Ok(self.remove_file(&self.object_path(name, KeyKind::Scratch))? || sealed)
    }

    /// Removes every sealed object that is not named, and says how many: what a crash between a
    /// commit and its catalog entry left behind.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_unlisted<'a>(
        &self,
        listed: impl IntoIterator<Item = &'a str>,
    ) -> Result<usize, VaultError> {
        let keep: HashSet<String> = listed.into_iter().map(|name| self.object_file(name)).collect();
        let folder = self.0.dir.join(OBJECTS);
        let mut count = 0;
        for name in files(self.storage(), &folder)? {
            if !keep.contains(&name) {
                count += usize::from(self.remove_file(&folder.join(name))?);
            }
        }
        Ok(count)
    }

    fn object_file(&self, name: &str) -> String {
        hex::encode(hmac::sign(&self.0.names, name.as_bytes()))
    }

    fn object_path(&self, name: &str, kind: KeyKind) -> PathBuf {
        let folder = if kind == KeyKind::Scratch { SCRATCH } else { OBJECTS };
        self.0.dir.join(folder).join(self.object_file(name))
    }

    /// The associated data of an object: a JSON array, so that no two tuples encode alike.
    fn object_context(&self, name: &str, id: &KeyId, info: &KeyInfo) -> Result<Vec<u8>, VaultError> {
        let vault = self.read(|keyring| keyring.vault.clone());
        to_json(&("cloister/object/1", vault, id, &info.name, info.kind, &info.owner, name))
    }

    /// Removes a file durably; whether there was one.
    pub(super) fn remove_file(&self, path: &Path) -> Result<bool, VaultError> {
        match self.storage().remove(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => {
                other.at("remove", path)?;
                self.storage().sync_dir(parent_of(path)).at("sync the folder of", path)?;
                Ok(true)
            }
        }
    }
}
