//! The verifier: reads a log that somebody else may have touched, and names the first bad record.
//!
//! It needs the folder and the public key, no vault and no daemon.

use super::note::{Head, VerifyingKey};
use super::scan::{Stop, scan};
use cloister_vault::{Disk, hex};
use serde::{Deserialize, Serialize};
use std::path::Path;
use thiserror::Error;

/// The first thing in a log that is not as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("record {sequence} (line {line} of `{file}`): {why}")]
pub struct FirstBad {
    /// The record's number. For a checkpoint: the records that the last good one signs.
    pub sequence: u64,
    /// Which file of the log.
    pub file: String,
    /// Which line of it, from 1; 0 when the fault is at its end.
    pub line: u64,
    /// In what way.
    pub why: String,
}

impl FirstBad {
    pub(super) fn new(file: &str, line: u64, sequence: u64, why: &str) -> Self {
        Self { sequence, file: file.to_owned(), line, why: why.to_owned() }
    }
}

/// What a sound log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records, all of them signed by the head.
    pub records: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Keep it elsewhere: it shows later that nothing was cut off.
    pub head: Head,
    /// When the first record was made.
    pub first_time: String,
    /// When the newest was.
    pub last_time: String,
    /// Intents without an outcome: acts under way, or cut short by a crash just now.
    pub open_intents: Vec<u64>,
    /// Bytes after the signed records. The daemon acknowledged none of it; it removes them, and
    /// says so, at its next start.
    pub unacknowledged_bytes: u64,
}

/// Checks every record, checkpoint and signature of the log in `dir`, and that it reaches as far
/// as `expected`. Memory does not grow with the log.
///
/// # Errors
/// The first bad record. A file that cannot be read is reported in the same way, as the reason.
pub fn verify(dir: &Path, key: &VerifyingKey, expected: Option<&Head>) -> Result<Report, FirstBad> {
    let scan = scan(&Disk, dir, key, expected).map_err(|stop| match stop {
        Stop::Bad(bad) => bad,
        Stop::Storage(error) => FirstBad::new(&dir.to_string_lossy(), 0, 0, &error.to_string()),
    })?;
    debug_assert_eq!(hex::encode(scan.tree.root()), scan.head.head().root);
    Ok(Report {
        records: scan.head.size,
        checkpoints: scan.checkpoints.count,
        head: scan.head.head(),
        first_time: scan.first_time,
        last_time: scan.last_time,
        open_intents: scan.open.into_keys().collect(),
        unacknowledged_bytes: scan.unacknowledged,
    })
}
