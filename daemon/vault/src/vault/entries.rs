//! Small sealed values: the catalog's entries, and files such as the audit log's signing key.

use super::{Vault, files};
use crate::error::{At, VaultError};
use crate::floe::{Parameters, SegmentReader, SegmentWriter};
use crate::object::SEGMENT_LENGTH;
use crate::storage::{parent_of, read_small, write_atomic};
use std::io::{Read, Write};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// A sealed entry is metadata; larger things are objects.
const ENTRY_LIMIT: u64 = 64 << 20;

impl Vault {
    /// Seals a small value under `name`, for instance for the catalog's index.
    ///
    /// # Errors
    /// `Random`.
    pub fn seal_small(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, VaultError> {
        // One FLOE object: each seal has a key of its own, so no nonce can repeat under one.
        let length = (bytes.len() + 64).next_power_of_two().clamp(256, SEGMENT_LENGTH as usize);
        let sealed = Parameters::new(length as u32)
            .and_then(|it| SegmentWriter::new(Vec::new(), &self.0.entries, name.as_bytes(), it));
        sealed
            .and_then(|mut writer| {
                writer.write_all(bytes)?;
                writer.finish()
            })
            .map_err(|source| VaultError::object(name, source))
    }

    /// Opens what [`seal_small`](Self::seal_small) sealed under the same name.
    ///
    /// # Errors
    /// `Object` when it was altered or sealed under another name.
    pub fn open_small(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let mut out = Zeroizing::new(Vec::with_capacity(sealed.len()));
        SegmentReader::new(sealed, &self.0.entries, name.as_bytes())
            .and_then(|mut reader| Ok(reader.read_to_end(&mut out)?))
            .map_err(|source| VaultError::object(name, source))?;
        Ok(out)
    }

    /// Writes a sealed file of the state folder (`catalog/…`) in one step. The path is bound in.
    ///
    /// # Errors
    /// `BadName` for a path that leaves the folder, `Storage`.
    pub fn write_sealed(&self, path: &str, bytes: &[u8]) -> Result<(), VaultError> {
        let full = self.entry_path(path)?;
        self.storage().create_dir(parent_of(&full)).at("create the folder of", &full)?;
        write_atomic(self.storage(), &full, &self.seal_small(path, bytes)?)
    }

    /// Reads a sealed file; none when there is none.
    ///
    /// # Errors
    /// `Object` when it does not verify, `BadName`, `Storage`.
    pub fn read_sealed(&self, path: &str) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let full = self.entry_path(path)?;
        let sealed = read_small(self.storage(), &full, ENTRY_LIMIT)?;
        sealed.map(|sealed| self.open_small(path, &sealed)).transpose()
    }

    /// Removes a sealed file durably; whether there was one.
    ///
    /// # Errors
    /// `BadName`, `Storage`.
    pub fn remove_sealed(&self, path: &str) -> Result<bool, VaultError> {
        self.remove_file(&self.entry_path(path)?)
    }

    /// Names of the files in a folder of the state folder; none when there is no such folder.
    ///
    /// # Errors
    /// `BadName`, `Storage`.
    pub fn list_sealed(&self, folder: &str) -> Result<Vec<String>, VaultError> {
        files(self.storage(), &self.entry_path(folder)?)
    }

    fn entry_path(&self, path: &str) -> Result<PathBuf, VaultError> {
        let usable = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        if path.split('/').all(usable) {
            Ok(self.0.dir.join(path))
        } else {
            Err(VaultError::BadName(path.chars().take(64).collect()))
        }
    }
}
