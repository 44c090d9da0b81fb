//! What can go wrong in the vault, in words that say what to do next. No variant carries a
//! secret, a plaintext, or an object's name from inside sealed data.

use crate::floe::FloeError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An operation of the vault failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The file system refused.
    #[error("cannot {act} `{}`: {source}", path.display())]
    Storage {
        /// What was tried: `write`, `open`.
        act: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The passphrase is not the one that the keyring was sealed with.
    #[error("the passphrase is wrong; try again, or restore the keyring from a backup")]
    WrongPassphrase,
    /// The credential is not the one that the keyring was sealed with.
    #[error("the root credential is not the one this vault was made with; check which file the unit loads")]
    WrongCredential,
    /// A passphrase was given to a vault that a credential opens, or the reverse.
    #[error("this vault opens with a {expected}, not a {given}")]
    WrongSource {
        /// What the keyring says.
        expected: &'static str,
        /// What was given.
        given: &'static str,
    },
    /// A passphrase or credential too short to keep anything secret.
    #[error("the {what} is too short: at least {least} are needed")]
    WeakSecret {
        /// `passphrase` or `root credential`.
        what: &'static str,
        /// For instance `8 characters`.
        least: &'static str,
    },
    /// A file of the vault is not as it was written.
    #[error("`{}` is damaged: {why}; restore it from a backup", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// In what way.
        why: String,
    },
    /// There is no vault here.
    #[error("there is no vault in `{}`; make one with `cloisterd init`", .0.display())]
    NoVault(PathBuf),
    /// There is a vault, or what is left of one.
    #[error("`{}` holds a vault already (`{what}` exists); open it, or restore its keyring from a backup", dir.display())]
    VaultExists {
        /// The state folder.
        dir: PathBuf,
        /// What was found.
        what: &'static str,
    },
    /// No such data key.
    #[error("there is no data key `{0}`: it was destroyed, or was a scratch key of an earlier run")]
    NoKey(String),
    /// No such object, or no such sealed file.
    #[error("there is no sealed object `{0}`")]
    NoObject(String),
    /// A name that cannot be a file of the vault.
    #[error("`{0}` is not a usable name: use relative paths of letters, digits, `.`, `-` and `_`")]
    BadName(String),
    /// An object did not verify.
    #[error("the sealed object `{name}` cannot be opened: {source}")]
    Object {
        /// The name asked for.
        name: String,
        /// Why.
        source: FloeError,
    },
    /// A backup is not one, was made with another passphrase, or is of another vault.
    #[error("the backup cannot be used: {0}")]
    Backup(String),
    /// The environment asks for faults that are not understood.
    #[error("`CLOISTER_FAULTS={0}` is not understood: use `enospc-after=BYTES`, `eio-at=N` or `abort-at=N`")]
    Faults(String),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes")]
    Random,
    /// Something that cannot happen unless Cloister has a bug.
    #[error("this is a fault of cloister itself ({0}); please report it")]
    Internal(&'static str),
}

impl VaultError {
    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.into() }
    }

    pub(crate) fn object(name: &str, source: FloeError) -> Self {
        Self::Object { name: name.to_owned(), source }
    }

    /// Whether the disk (or a quota) is full, so that making room helps.
    pub fn is_no_room(&self) -> bool {
        let source = match self {
            Self::Storage { source, .. } | Self::Object { source: FloeError::Io(source), .. } => source,
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Gives an [`io::Error`] its act and path.
pub(crate) trait At<T> {
    fn at(self, act: &'static str, path: &Path) -> Result<T, VaultError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, act: &'static str, path: &Path) -> Result<T, VaultError> {
        self.map_err(|source| VaultError::Storage { act, path: path.to_owned(), source })
    }
}
