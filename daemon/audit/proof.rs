//! Shows one record to an outsider, without the others: the record, its path in the Merkle tree,
//! and the signed head that the path leads to.

use super::AuditError;
use super::merkle::{self, PathBuilder};
use super::note::VerifyingKey;
use super::reader::{HEAD, for_each_record};
use super::record::Record;
use super::scan::{Stop, read_head};
use cloister_vault::{Storage, hex, read_small};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// That a record is in the log. As JSON it is all an outsider needs beside the public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The record's line, to the byte.
    pub record: String,
    /// Sibling hashes from the leaf up, in hexadecimal.
    pub path: Vec<String>,
    /// The signed head.
    pub head: String,
}

impl Proof {
    /// Checks the signature and the path, and returns the record that they vouch for.
    ///
    /// # Errors
    /// `Proof`, with what does not fit.
    pub fn verify(&self, key: &VerifyingKey) -> Result<Record, AuditError> {
        let wrong = AuditError::Proof;
        let note = key.open(&self.head).ok_or(wrong("its head is not signed by this key"))?;
        let record = Record::parse(self.record.as_bytes()).ok_or(wrong("it holds no record"))?;
        let path: Option<Vec<_>> = self.path.iter().map(|text| hex::decode_array(text)).collect();
        let path = path.ok_or(wrong("its path is not of hashes"))?;
        let index = record.sequence.checked_sub(1).ok_or(wrong("records count from 1"))?;
        let leaf = merkle::leaf_hash(self.record.as_bytes());
        if merkle::root_from_path(index, note.size, leaf, &path) != Some(note.root) {
            return Err(wrong("its path does not lead to the signed root"));
        }
        Ok(record)
    }
}

/// Proves the record `sequence` in one pass over the log in `dir`.
pub(super) fn prove(storage: &dyn Storage, dir: &Path, key: &VerifyingKey, sequence: u64) -> Result<Proof, AuditError> {
    let head = read_small(storage, &dir.join(HEAD), 1 << 16)?.unwrap_or_default();
    let note = read_head(storage, dir, key).map_err(|stop| match stop {
        Stop::Bad(bad) => AuditError::Tampered(bad),
        Stop::Storage(error) => AuditError::Vault(error),
    })?;
    let missing = || AuditError::NoRecord(sequence);
    let index = sequence.checked_sub(1).ok_or_else(missing)?;
    let mut builder = PathBuilder::new(index, note.size).ok_or_else(missing)?;
    let (mut at, mut found) = (0, None);
    for_each_record(storage, dir, |_, line| {
        builder.push(at, merkle::leaf_hash(line));
        if at == index {
            found = String::from_utf8(line.to_vec()).ok();
        }
        at += 1;
        at < note.size
    })?;
    let record = found.ok_or_else(missing)?;
    let path = builder.finish().iter().map(hex::encode).collect();
    let head = String::from_utf8(head).map_err(|_| AuditError::Proof("the head is not text"))?;
    Ok(Proof { record, path, head })
}
