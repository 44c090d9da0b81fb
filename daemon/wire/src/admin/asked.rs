//! What a request asks for, and answers that are no catalog entry.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Explanation, Label};

/// How to read an uploaded file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportSpec {
    /// `csv`, `jsonl` or `text`.
    pub format: Format,
    /// How confidential.
    pub label: Label,
    /// What the records may be used for.
    pub purposes: BTreeSet<String>,
    /// CSV and JSON Lines: the user's message, with `{column}` in it; absent for the usual names
    /// (`prompt`, `instruction` + `input`, `messages`).
    #[serde(default)]
    pub prompt: Option<String>,
    /// The answer's column; absent for the usual names (`completion`, `output`, `response`, `answer`).
    #[serde(default)]
    pub answer: Option<String>,
    /// A system message for every record.
    #[serde(default)]
    pub system: Option<String>,
    /// Skip rows that cannot be used and report them, instead of refusing the file.
    #[serde(default)]
    pub skip_bad_rows: bool,
}

/// A file format of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// With a header row.
    Csv,
    /// One object a line.
    Jsonl,
    /// Documents divided by blank lines, learnt whole.
    Text,
}

/// What to clean with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CleanSpec {
    /// Plugins in order; empty for all that are installed.
    pub plugins: Vec<String>,
    /// Least value of a score; a record below is dropped.
    pub minimum: BTreeMap<String, f64>,
    /// Keep records that say the same.
    pub keep_duplicates: bool,
    /// Fail when a greater part of the records would be dropped.
    pub most_dropped: Option<f64>,
}

/// Asks what policy would say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckSpec {
    /// For this purpose; absent for the dataset's only one.
    pub purpose: Option<String>,
}

/// What policy says of training on a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Whether training would be allowed.
    pub cleared: bool,
    /// Why, rule by rule.
    pub explanation: Explanation,
}

/// A dataset that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shredded {
    /// Its name.
    pub dataset: String,
    /// Keys destroyed.
    pub keys: Vec<String>,
    /// Objects removed.
    pub objects: Vec<String>,
}

/// What a plugin makes of records that were given for a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginTest {
    /// One a record.
    pub outcomes: Vec<crate::sandbox::Outcome>,
    /// Kept records.
    pub records: Vec<crate::record::Record>,
}

/// Asks for a training job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRequest {
    /// The recipe as TOML, `--set` already applied.
    pub recipe: String,
}

/// What to evaluate on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSpec {
    /// A sealed dataset; absent for the records that training held out.
    pub dataset: Option<String>,
    /// Answers are generated for at most so many records.
    pub generate: u32,
    /// Longest generated answer.
    pub max_tokens: u32,
}

impl Default for EvaluateSpec {
    fn default() -> Self {
        Self { dataset: None, generate: 100, max_tokens: 256 }
    }
}

/// A yes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApproveSpec {
    /// In one's own words.
    pub note: String,
}

/// PEFT's two files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterFiles {
    /// Name → bytes, base64.
    pub files: BTreeMap<String, String>,
}

/// An adapter from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterImport {
    /// The base model here.
    pub base: String,
    /// How confidential its data was.
    pub label: Label,
    /// What its data may be used for.
    pub purposes: BTreeSet<String>,
    /// PEFT's two files.
    pub files: AdapterFiles,
}
