//! One line of the log.

use super::AuditError;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// Facts about an act that are no secret: counts, digests, versions. Never a record's text.
pub type Details = Map<String, Value>;

pub(super) type Hash = [u8; 32];

/// A longer line is not a record.
pub(super) const MOST_BYTES: usize = 64 * 1024;
/// What the first record names as its predecessor.
pub(super) const NO_PREDECESSOR: Hash = [0; 32];

/// RFC 3339 in UTC with six decimals: one width, so that text order is time order.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// What somebody is about to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// Who: the name in the certificate.
    pub principal: String,
    /// The verb: `dataset.import`, `adapter.approve`.
    pub action: String,
    /// To what: `dataset/ward-3`.
    pub object: String,
    /// Of the kind that happens many times a minute (a chat request): its outcome does not ask
    /// for a checkpoint of its own.
    pub routine: bool,
}

/// Where in an act a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before the act.
    Intent,
    /// After it.
    Outcome,
    /// Something that the log itself says: it was created, opened, repaired, closed.
    Event,
}

/// How an act ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// Policy refused it.
    Denied {
        /// The rule that did.
        rule: String,
    },
    /// It was allowed, and failed.
    Failed {
        /// What failed, as a short name and not as free text: `disk-full`.
        rule: String,
    },
    /// Nobody said how it ended: the daemon died or dropped it.
    Interrupted,
}

/// A record as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// From 1, without gaps.
    pub sequence: u64,
    /// RFC 3339, UTC, never earlier than the record before.
    pub time: String,
    /// Who.
    pub principal: String,
    /// The verb.
    pub action: String,
    /// To what.
    pub object: String,
    /// Where in the act.
    pub phase: Phase,
    /// Of an outcome: the sequence number of its intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<u64>,
    /// Of an outcome: how it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Facts that are no secret.
    pub details: Details,
    /// SHA-256 of the line before this one, without its line feed.
    pub previous: String,
}

impl Record {
    /// The line, without its line feed.
    pub(super) fn to_line(&self) -> Result<Vec<u8>, AuditError> {
        let line = serde_json::to_vec(self).map_err(|_| AuditError::TooLong)?;
        if line.len() < MOST_BYTES { Ok(line) } else { Err(AuditError::TooLong) }
    }

    /// The record in a line; none when it is not one.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(line).ok()?;
        parse_time(&record.time)?;
        Some(record)
    }
}

pub(super) fn hash(bytes: &[u8]) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

pub(super) fn format_time(time: OffsetDateTime) -> String {
    // The formatter only fails for a component that the type lacks; this one has them all.
    time.to_offset(time::UtcOffset::UTC).format(TIME).unwrap_or_default()
}

pub(super) fn parse_time(text: &str) -> Option<OffsetDateTime> {
    time::PrimitiveDateTime::parse(text, TIME).ok().map(time::PrimitiveDateTime::assume_utc)
}
