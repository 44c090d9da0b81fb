//! Where the key that opens the keyring comes from: a passphrase through Argon2id (RFC 9106), or
//! a credential file that systemd decrypted (`systemd-creds`, with a TPM2 where there is one).
//!
//! Why two: a server must start by itself after a power cut, a laptop must not. A further source
//! is one more variant of [`RootSource`] and of `StoredSource`.
//!
//! What always holds: a source only ever yields a key that wraps the random root key, so changing
//! it rewrites one small file; parameters are read back from the keyring and bounded first, so a
//! tampered file cannot make the daemon allocate without limit.

use crate::error::{At, VaultError};
use crate::hex;
use crate::secret::{KEY_LENGTH, Key};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::hkdf::{HKDF_SHA384, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

const LEAST_PASSPHRASE: usize = 8;
const LEAST_CREDENTIAL: usize = 32;
const MOST_CREDENTIAL: u64 = 1 << 20;

/// What the administrator, or the init system, opens the vault with.
#[non_exhaustive]
pub enum RootSource {
    /// A passphrase. The cost only matters where a keyring is sealed; opening uses the stored one.
    Passphrase {
        /// The words.
        passphrase: Zeroizing<String>,
        /// What a guess shall cost.
        cost: Argon2Cost,
    },
    /// A secret of at least 32 random bytes.
    Credential(Zeroizing<Vec<u8>>),
}

/// What one guess at a passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Parallel lanes.
    pub lanes: u32,
}

impl Default for Argon2Cost {
    /// RFC 9106's second recommendation (64 MiB, 3 passes, 4 lanes): a fraction of a second here.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 }
    }
}

impl Argon2Cost {
    /// As little as Argon2 allows, for tests only.
    pub fn for_tests() -> Self {
        Self { memory_kib: 64, passes: 1, lanes: 1 }
    }
}

impl RootSource {
    /// A passphrase at the default cost.
    pub fn passphrase(passphrase: impl Into<String>) -> Self {
        let passphrase = Zeroizing::new(passphrase.into());
        Self::Passphrase { passphrase, cost: Argon2Cost::default() }
    }

    /// The content of a file, every byte of it.
    ///
    /// # Errors
    /// `Storage` when it cannot be read, `WeakSecret` when it has fewer than 32 bytes.
    pub fn credential_file(path: &Path) -> Result<Self, VaultError> {
        let file = File::open(path).at("open", path)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        file.take(MOST_CREDENTIAL + 1).read_to_end(&mut bytes).at("read", path)?;
        if bytes.len() as u64 > MOST_CREDENTIAL {
            return Err(VaultError::damaged(path, "a credential of over 1 MiB is not one"));
        }
        let source = Self::Credential(bytes);
        source.check_strength()?;
        Ok(source)
    }

    /// The credential `name` that systemd passed (`LoadCredentialEncrypted=`); none when systemd
    /// passed no credentials at all.
    ///
    /// # Errors
    /// As [`credential_file`](Self::credential_file).
    pub fn systemd_credential(name: &str) -> Result<Option<Self>, VaultError> {
        let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
        Self::credential_file(&Path::new(&folder).join(name)).map(Some)
    }

    fn check_strength(&self) -> Result<(), VaultError> {
        let (what, least, strong) = match self {
            Self::Passphrase { passphrase, .. } => {
                ("passphrase", "8 characters", passphrase.chars().count() >= LEAST_PASSPHRASE)
            }
            Self::Credential(bytes) => ("root credential", "32 bytes", bytes.len() >= LEAST_CREDENTIAL),
        };
        if strong { Ok(()) } else { Err(VaultError::WeakSecret { what, least }) }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Passphrase { .. } => "passphrase",
            Self::Credential(_) => "credential",
        }
    }
}

impl fmt::Debug for RootSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootSource({})", self.name())
    }
}

/// What the keyring remembers of its source: all that is needed to derive the key again, and
/// nothing that helps to guess it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum StoredSource {
    Passphrase { salt: String, cost: Argon2Cost },
    Credential { salt: String },
}

impl StoredSource {
    /// A fresh salt for sealing under `source`.
    pub(crate) fn for_sealing(source: &RootSource) -> Result<Self, VaultError> {
        source.check_strength()?;
        let mut salt = [0; 32];
        SystemRandom::new().fill(&mut salt).map_err(|_| VaultError::Random)?;
        let salt = hex::encode(salt);
        Ok(match source {
            RootSource::Passphrase { cost, .. } => Self::Passphrase { salt, cost: *cost },
            RootSource::Credential(_) => Self::Credential { salt },
        })
    }

    /// The key that `source` yields with what was stored. `path` is the file named in errors.
    pub(crate) fn key(&self, source: &RootSource, path: &Path) -> Result<Key, VaultError> {
        match (self, source) {
            (Self::Passphrase { salt, cost }, RootSource::Passphrase { passphrase, .. }) => {
                argon2id(passphrase, &decode_salt(salt, path)?, *cost, path)
            }
            (Self::Credential { salt }, RootSource::Credential(bytes)) => {
                from_credential(bytes, &decode_salt(salt, path)?)
            }
            _ => Err(VaultError::WrongSource { expected: self.name(), given: source.name() }),
        }
    }

    /// The error for a root key that does not open under this source's key.
    pub(crate) fn wrong(&self) -> VaultError {
        match self {
            Self::Passphrase { .. } => VaultError::WrongPassphrase,
            Self::Credential { .. } => VaultError::WrongCredential,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Passphrase { .. } => "passphrase",
            Self::Credential { .. } => "credential",
        }
    }
}

fn decode_salt(salt: &str, path: &Path) -> Result<[u8; 32], VaultError> {
    hex::decode_array(salt).ok_or_else(|| VaultError::damaged(path, "the salt is not 32 bytes"))
}

fn argon2id(passphrase: &str, salt: &[u8], cost: Argon2Cost, path: &Path) -> Result<Key, VaultError> {
    // 4 GiB and 64 passes are more than anyone sets, and less than hangs a machine.
    let bounded = cost.memory_kib <= 4 << 20 && cost.passes <= 64 && cost.lanes <= 64;
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEY_LENGTH));
    let (true, Ok(params)) = (bounded, params) else {
        return Err(VaultError::damaged(path, "its Argon2 cost is out of range"));
    };
    let mut out = Zeroizing::new([0; KEY_LENGTH]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut out[..])
        .map_err(|error| VaultError::damaged(path, format!("Argon2 refused: {error}")))?;
    Key::from_slice(&out[..]).ok_or(VaultError::Internal("a key of another length"))
}

/// HKDF-SHA-384 (RFC 5869), with Extract: a credential may be longer than a key, or not uniform.
fn from_credential(bytes: &[u8], salt: &[u8]) -> Result<Key, VaultError> {
    let mut out = Zeroizing::new([0; KEY_LENGTH]);
    Salt::new(HKDF_SHA384, salt)
        .extract(bytes)
        .expand(&[b"cloister/root-credential"], Length)
        .and_then(|okm| okm.fill(&mut out[..]))
        .map_err(|_| VaultError::Internal("HKDF refused"))?;
    Key::from_slice(&out[..]).ok_or(VaultError::Internal("a key of another length"))
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_LENGTH
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_tampered_cost_is_refused_before_it_is_spent() {
        let source = RootSource::passphrase("correct horse");
        let cost = Argon2Cost { memory_kib: u32::MAX, passes: 1, lanes: 1 };
        let stored = StoredSource::Passphrase { salt: hex::encode([0; 32]), cost };
        let error = stored.key(&source, Path::new("k")).unwrap_err();
        assert!(matches!(error, VaultError::Damaged { .. }));
    }

    #[test]
    fn short_secrets_are_refused() {
        assert!(StoredSource::for_sealing(&RootSource::passphrase("short")).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credential");
        std::fs::write(&path, [1; 31]).unwrap();
        assert!(RootSource::credential_file(&path).is_err());
        std::fs::write(&path, [1; 32]).unwrap();
        assert!(RootSource::credential_file(&path).is_ok());
    }

    #[test]
    fn a_source_never_prints_its_secret() {
        let printed = format!("{:?}", RootSource::passphrase("correct horse"));
        assert_eq!(printed, "RootSource(passphrase)");
    }
}
