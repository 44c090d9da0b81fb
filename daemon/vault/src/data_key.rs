//! One random key a dataset or adapter, each wrapped in a small file of its own.
//!
//! Why a file each: deleting data means destroying its key (crypto-shredding), and a key can
//! only be destroyed for certain where it stands alone. The name, kind and owner are inside the
//! wrapping, so a listing of the folder tells nobody which patient group or client is trained on.
//!
//! What always holds: the file names the KEK version that opens it; it is called by its key's
//! id, or by [`DOOMED_PREFIX`] and the id once its destruction has begun.

use crate::error::VaultError;
use crate::hex;
use crate::keyring::{Keyring, to_json};
use crate::secret::{KEY_LENGTH, Key};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

const FORMAT: &str = "cloister-data-key-1";
/// A key file is a few hundred bytes; names are bounded by [`KeyInfo::check`].
pub(crate) const LIMIT: u64 = 1 << 16;
/// A key file renamed so is no key any more. The rename is the moment of destruction: cut short
/// after it, the sweep overwrites and unlinks what is left.
pub(crate) const DOOMED_PREFIX: &str = "shredding-";

/// Names a data key: 32 random hexadecimal digits, telling nothing of what it opens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

impl KeyId {
    pub(crate) fn random() -> Result<Self, VaultError> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).map_err(|_| VaultError::Random)?;
        Ok(Self(hex::encode(bytes)))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for KeyId {
    type Error = VaultError;

    fn try_from(text: String) -> Result<Self, VaultError> {
        let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 32 && lower { Ok(Self(text)) } else { Err(VaultError::BadName(text)) }
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

/// What a data key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Records.
    Dataset,
    /// A trained adapter and its checkpoints.
    Adapter,
    /// Raw records between ingest and seal. The key exists in memory alone: a restart, or a power
    /// cut, destroys them.
    Scratch,
}

/// What is bound into everything sealed under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyInfo {
    /// The dataset's or adapter's name.
    pub name: String,
    /// What it is.
    pub kind: KeyKind,
    /// Whose it is.
    pub owner: String,
}

impl KeyInfo {
    pub(crate) fn check(&self) -> Result<(), VaultError> {
        for text in [&self.name, &self.owner] {
            if text.is_empty() || text.len() > 1024 {
                return Err(VaultError::BadName(text.chars().take(64).collect()));
            }
        }
        Ok(())
    }
}

/// An opened data key.
#[derive(Debug, Clone)]
pub(crate) struct DataKey {
    pub(crate) info: KeyInfo,
    pub(crate) key: Key,
}

/// The file `keys/ID`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    id: KeyId,
    /// Version of the KEK.
    kek: u32,
    /// AES-256-GCM of the key's 32 bytes, then its [`KeyInfo`] as JSON.
    wrapped: String,
}

/// The bytes of the key's file, wrapped under the current KEK.
pub(crate) fn wrap(keyring: &Keyring, id: &KeyId, data_key: &DataKey) -> Result<Vec<u8>, VaultError> {
    let (version, kek) = keyring.current()?;
    let mut secret = Zeroizing::new(Vec::with_capacity(KEY_LENGTH + 4096));
    secret.extend_from_slice(data_key.key.bytes());
    secret.extend_from_slice(&to_json(&data_key.info)?);
    let wrapped = kek.wrap(&context(&keyring.vault, id, version), &secret)?;
    let (format, wrapped) = (FORMAT.to_owned(), hex::encode(wrapped));
    to_json(&Stored { format, id: id.clone(), kek: version, wrapped })
}

/// Opens the bytes of a key's file; also says under which KEK version it is.
pub(crate) fn unwrap(
    keyring: &Keyring,
    id: &KeyId,
    bytes: &[u8],
    path: &Path,
) -> Result<(DataKey, u32), VaultError> {
    let damaged = |why: &str| VaultError::damaged(path, why);
    let stored: Stored = serde_json::from_slice(bytes).map_err(|_| damaged("it is not a key"))?;
    if stored.format != FORMAT || stored.id != *id {
        return Err(damaged("it is the file of another key, or of another format"));
    }
    let kek = keyring.keks.get(&stored.kek).ok_or_else(|| {
        damaged(&format!("it needs key version {}, which the keyring lacks", stored.kek))
    })?;
    let secret = hex::decode(&stored.wrapped)
        .and_then(|wrapped| kek.unwrap(&context(&keyring.vault, id, stored.kek), &wrapped))
        .ok_or_else(|| damaged("it does not verify"))?;
    let (key, info) = secret.split_at_checked(KEY_LENGTH).ok_or_else(|| damaged("it is short"))?;
    let key = Key::from_slice(key).ok_or_else(|| damaged("it is short"))?;
    let info = serde_json::from_slice(info).map_err(|_| damaged("its description is missing"))?;
    Ok((DataKey { info, key }, stored.kek))
}

fn context(vault: &str, id: &KeyId, version: u32) -> String {
    format!("cloister/data-key/{vault}/{id}/{version}")
}
