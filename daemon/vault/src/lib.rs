//! Keys and sealed objects: the only writer of user data.
//!
//! ```text
//! passphrase (Argon2id) or systemd credential        unseal
//!   └─ root key, random                               keyring    keyring.json
//!        └─ key-encryption keys, versioned            keyring    keyring.json
//!             ├─ system key: catalog entries, names   keyring    keyring.json
//!             └─ one data key a dataset or adapter    data_key   keys/ID
//!                  └─ objects in FLOE segments        object     objects/…
//! ```
//!
//! Why: confidential records must be unreadable on a stolen disk, and deletable for good. Every
//! data key is random, and its wrapped form lies in one small file of its own: destroying that
//! file makes every copy of the data unreadable, for nothing above can derive the key again.
//!
//! What always holds: no plaintext of a record or adapter reaches a disk; a name, kind or owner
//! is bound into what it names; what was committed survives a crash and what was not is never
//! seen; all writing goes through [`Storage`].

mod backup;
mod data_key;
mod error;
mod faults;
pub mod floe;
pub mod hex;
mod keyring;
mod object;
mod secret;
mod storage;
mod unseal;
mod vault;

#[cfg(test)]
mod tests;

pub use data_key::{KeyId, KeyInfo, KeyKind};
pub use error::VaultError;
pub use faults::{Fault, Faulty, storage_from_environment};
pub use object::{Committed, ObjectReader, ObjectWriter};
pub use secret::{KEY_LENGTH, Key};
pub use storage::{
    Disk, Entry, ReadFile, Storage, TEMPORARY_PREFIX, WriteFile, read_small, write_atomic,
};
pub use unseal::{Argon2Cost, RootSource};
pub use vault::{KeyringStatus, Keys, Swept, Vault};
