//! Messages between the daemon and `cloister-sandbox`.
//!
//! One sandbox process runs one batch: the daemon sends [`ToSandbox::Load`] once, then any number of
//! [`ToSandbox::Run`], and closes. Records travel in the blob as JSON Lines of [`crate::record::Record`].

use serde::{Deserialize, Serialize};

/// What a plugin does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginWorld {
    /// Changes or drops records, and reports what it found.
    Cleaner,
    /// Gives named scores.
    Scorer,
}

/// What one plugin may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// wasmtime fuel for one record; about one unit an instruction.
    pub fuel_per_record: u64,
    /// Wall time for one record, in milliseconds.
    pub deadline_ms: u64,
    /// Linear memory, in bytes.
    pub memory_bytes: u64,
    /// Everything a call returns, in bytes.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { fuel_per_record: 2_000_000_000, deadline_ms: 5_000, memory_bytes: 64 << 20, output_bytes: 8 << 20 }
    }
}

/// From the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSandbox {
    /// The component is the blob; it is compiled and described, not yet run on a record.
    Load {
        /// What it claims to be.
        world: PluginWorld,
        /// What it may use.
        limits: Limits,
    },
    /// A batch of records in the blob, JSON Lines.
    Run {
        /// Given back with the answer.
        batch: u64,
    },
}

/// To the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSandbox {
    /// The component compiled, imports nothing, and says what it is.
    Loaded(Description),
    /// The component was refused; nothing was run.
    Refused {
        /// One line.
        reason: String,
    },
    /// The answer to one `Run`; the records that are kept are in the blob, JSON Lines (cleaners only).
    Ran {
        /// As asked.
        batch: u64,
        /// One outcome a record, in order.
        outcomes: Vec<Outcome>,
    },
    /// The batch could not be run at all (it did not parse, say).
    Failed {
        /// One line.
        reason: String,
    },
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line: what it does.
    pub summary: String,
    /// The kinds of findings, or the names of scores, that it can give.
    pub gives: Vec<String>,
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The record's row.
    pub row: u64,
    /// And its fate.
    pub result: RecordResult,
}

/// A record's fate in one plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordResult {
    /// Kept, perhaps changed; it is in the blob.
    Kept {
        /// What was found and replaced.
        findings: Vec<Finding>,
    },
    /// Dropped by the plugin.
    Dropped {
        /// A code such as `empty-answer`.
        reason: String,
    },
    /// Scored (scorers only).
    Scored {
        /// Name and value.
        scores: Vec<(String, f64)>,
        /// Equal for records that say the same, if the plugin gives one.
        fingerprint: Option<u64>,
    },
    /// The plugin trapped, ran over a limit, or returned nonsense; the record did not get through.
    Failed {
        /// `trap`, `fuel`, `deadline`, `memory`, `output` or `invalid`, then one line.
        reason: String,
    },
}

/// Something found in a record; never the text itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `name`, `date`, `phone` …
    pub kind: String,
    /// Index of the message.
    pub message: u32,
    /// Bytes in the message's original content.
    pub start: u32,
    /// End of the bytes, exclusive.
    pub end: u32,
    /// What stands there now.
    pub replacement: String,
}
