//! The keyring as one text that opens with a passphrase of its own, to lie in a safe.
//!
//! It holds the root key, the KEKs and the system key, and no data key. Why: a data key that was
//! destroyed must not come back with a backup made earlier. What a backup protects against is a
//! forgotten passphrase, a dead TPM and a damaged `keyring.json`; the wrapped data keys are in
//! `keys/` and are copied with the rest of the state folder.

use crate::error::VaultError;
use crate::hex;
use crate::keyring::{Secrets, to_json};
use crate::secret::Key;
use crate::unseal::{RootSource, StoredSource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use zeroize::Zeroizing;

const FORMAT: &str = "cloister-keyring-backup-1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    vault: String,
    source: StoredSource,
    sealed: String,
}

pub(crate) fn seal(secrets: &Secrets, passphrase: &RootSource) -> Result<Vec<u8>, VaultError> {
    let source = StoredSource::for_sealing(passphrase)?;
    let key = source.key(passphrase, Path::new("backup"))?;
    // root 32 | system 32 | (version 4 | key 32)*
    let mut body = Zeroizing::new(Vec::with_capacity(64 + 36 * secrets.keks.len()));
    body.extend_from_slice(secrets.root.bytes());
    body.extend_from_slice(secrets.system.bytes());
    for (version, kek) in &secrets.keks {
        body.extend_from_slice(&version.to_be_bytes());
        body.extend_from_slice(kek.bytes());
    }
    let sealed = hex::encode(key.wrap(&context(&secrets.vault), &body)?);
    let (format, vault) = (FORMAT.to_owned(), secrets.vault.clone());
    to_json(&Stored { format, vault, source, sealed })
}

pub(crate) fn open(backup: &[u8], passphrase: &RootSource) -> Result<Secrets, VaultError> {
    let unusable = |why: &str| VaultError::Backup(why.to_owned());
    let stored: Stored =
        serde_json::from_slice(backup).map_err(|_| unusable("it is not a keyring backup"))?;
    if stored.format != FORMAT {
        return Err(unusable("it is of another format"));
    }
    let key = stored.source.key(passphrase, Path::new("backup"))?;
    let body = hex::decode(&stored.sealed)
        .and_then(|sealed| key.unwrap(&context(&stored.vault), &sealed))
        .ok_or_else(|| unusable("its passphrase is wrong, or it was altered"))?;
    parse(stored.vault, &body).ok_or_else(|| unusable("its content is not a keyring"))
}

fn parse(vault: String, body: &[u8]) -> Option<Secrets> {
    let (root, rest) = body.split_at_checked(32)?;
    let (system, rest) = rest.split_at_checked(32)?;
    let (entries, rest) = rest.as_chunks::<36>();
    let mut keks = BTreeMap::new();
    for entry in entries {
        let (version, key) = entry.split_first_chunk::<4>()?;
        keks.insert(u32::from_be_bytes(*version), Key::from_slice(key)?);
    }
    if keks.is_empty() || !rest.is_empty() {
        return None;
    }
    Some(Secrets { vault, root: Key::from_slice(root)?, keks, system: Key::from_slice(system)? })
}

fn context(vault: &str) -> String {
    format!("cloister/backup/{vault}")
}
