//! The tamper-evident log: who did what to which data, and whether it was allowed.
//!
//! Why: an auditor must be able to trust the log without trusting whoever runs the machine.
//! Files, in `audit/` of the state folder, written through the vault's storage seam:
//!
//! | file | what |
//! |---|---|
//! | `log.jsonl` | one record a line; each names the SHA-256 of the line before it |
//! | `head` | a signed note of how many records there are and their Merkle root; replaced after every record |
//! | `checkpoints` | signed notes kept for good, each naming the one before it |
//! | `public-key` | what verifies the notes; keep a copy elsewhere |
//! | `signing-key` | Ed25519, sealed by the vault |
//!
//! What always holds: an intent is durable and signed before [`AuditLog::intent`] returns, so
//! before the act; an outcome before the reply; without room, the act is refused. A record that
//! was acknowledged cannot be altered, removed, reordered or cut off without
//! [`verify()`](verify::verify) naming it. What cryptography on one machine cannot show is the
//! whole folder put back to an older state: for that, keep a [`Head`] elsewhere and pass it in.
//!
//! Records are JSON Lines, hashed as the bytes that stand in the file: there is no canonical form
//! to disagree about. Hashing is RFC 6962's, notes are C2SP signed notes
//! (<https://c2sp.org/signed-note>, <https://c2sp.org/tlog-checkpoint>).

mod log;
pub mod merkle;
mod note;
mod proof;
mod reader;
mod record;
mod scan;
pub mod verify;

#[cfg(test)]
mod tests;

use cloister_vault::VaultError;
use thiserror::Error;

pub use log::{AuditLog, FOLDER, Intent};
pub use note::{Head, VerifyingKey};
pub use proof::Proof;
pub use record::{Act, Details, Outcome, Phase, Record};
pub use verify::{FirstBad, Report, verify};

/// The audit log cannot do what it must.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The record is not durable. The act that it stands for must not be done.
    #[error("the act cannot be recorded in the audit log, so it is refused: {0}; make room on the disk and try again")]
    NotRecorded(#[source] VaultError),
    /// The log is not as it was written.
    #[error(
        "the audit log was tampered with or damaged: {0}; keep the folder as evidence and call your security officer"
    )]
    Tampered(#[from] FirstBad),
    /// There is no log where there must be one.
    #[error("there is no audit log in `{0}`; if `cloisterd init` made one, it was removed")]
    Missing(String),
    /// There is a log already.
    #[error("`{0}` holds an audit log already")]
    Exists(String),
    /// The signing key is missing or is not the one that signed the log.
    #[error("the audit log's signing key is missing or is another log's; restore `audit/signing-key`")]
    SigningKey,
    /// A record longer than a line may be.
    #[error("the details of this act are too long for one record (64 KiB)")]
    TooLong,
    /// No such record.
    #[error("there is no record {0} in the audit log")]
    NoRecord(u64),
    /// A proof does not verify.
    #[error("the proof does not verify: {0}")]
    Proof(&'static str),
    /// Reading the log or its keys failed.
    #[error(transparent)]
    Vault(#[from] VaultError),
}
