//! What the CLI and the daemon say to each other under `/admin/v1`, and what the catalog holds.
//!
//! Bodies are JSON. Uploads (`POST …/datasets/NAME`, `…/plugins`) are one line of JSON, a newline, then the
//! raw file. `GET /jobs/ID/events` streams one [`JobEvent`] a line until the job rests. Every failure is an
//! [`ApiError`]; its code decides the HTTP status and the CLI's exit code.
//!
//! | method and path (after `/admin/v1`) | in → out |
//! |---|---|
//! | GET `/status` | → [`Status`] |
//! | POST `/unseal` | [`Unseal`] → [`Status`] |
//! | GET `/doctor` | → [[`Finding`]] |
//! | PUT `/models/NAME/files/FILE` | the file's bytes, staged → `{}` |
//! | POST `/models/NAME/commit` | → [`Model`] (checked by an engine) |
//! | GET `/models`, `/models/NAME`; DELETE `/models/NAME` | → [[`Model`]], [`Model`] |
//! | POST `/models/NAME/verify` | digests compared again → [`Model`] |
//! | POST `/datasets/NAME` | [`ImportSpec`] line + file → [`Dataset`] |
//! | GET `/datasets`, `/datasets/NAME` | → [[`Dataset`]], [`Dataset`] |
//! | DELETE `/datasets/NAME` | keys destroyed → [`Shredded`] |
//! | POST `/datasets/NAME/clean` | [`CleanSpec`] → [`Job`] |
//! | POST `/datasets/NAME/check` | [`CheckSpec`] → [`Check`] |
//! | GET `/datasets/NAME/sample?n=N` | → [[`crate::record::Record`]] |
//! | POST `/plugins` | [`PluginManifest`] line + component → [`Plugin`] |
//! | GET `/plugins`, `/plugins/NAME`; DELETE `/plugins/NAME` | |
//! | POST `/plugins/NAME/test` | [[`crate::record::Record`]] → [`PluginTest`] |
//! | POST `/train` | [`TrainRequest`] → [`Job`] |
//! | GET `/jobs`, `/jobs/ID`, `/jobs/ID/events` | |
//! | POST `/jobs/ID/cancel`, `/jobs/ID/resume` | → [`Job`] |
//! | GET `/adapters`, `/adapters/NAME`; DELETE | |
//! | POST `/adapters/NAME/evaluate` | [`EvaluateSpec`] → [`Job`] |
//! | POST `/adapters/NAME/approve` | [`ApproveSpec`] → [`Adapter`] |
//! | GET `/adapters/NAME/export` | → [`AdapterFiles`] (PEFT's files) |
//! | POST `/adapters/NAME/import` | [`AdapterImport`] → [`Adapter`] |
//! | GET `/deployments`; POST `/deployments/ADAPTER`; DELETE `/deployments/ADAPTER` | → [`Deployment`] |
//! | GET `/policy` | → [`PolicyInfo`]; POST `/policy/explain` [`ExplainSpec`] → [`Explanation`]; POST `/policy/test` → [[`CaseResult`]] |
//! | GET `/audit/tail?n=N` | → JSON records; POST `/audit/verify` → [`AuditReport`]; GET `/audit/export` → JSON Lines |
//! | GET `/keys` | → [`KeyStatus`]; POST `/keys/rotate` → [`KeyStatus`]; POST `/keys/backup` [`Passphrase`] → [`KeyBackup`]; POST `/keys/restore` [`KeyRestore`] |
//! | GET `/users`; POST `/users` [`UserSpec`] → [`Identity`]; DELETE `/users/NAME` | |

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::engine::{Evaluation, HeldOutLoss, ModelInfo, Progress, TrainSummary};
use crate::recipe::Recipe;
use crate::sandbox::{Description, PluginWorld};

/// Why a request failed; the whole body of every response that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Decides the status and the exit code.
    pub code: ErrorCode,
    /// One line, with the place.
    pub message: String,
    /// The rule that denied, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Kinds of failure. Exit codes are those of the CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// It was tried and went wrong (exit 1, HTTP 500).
    Failed,
    /// The request or its data is wrong (exit 1, HTTP 400).
    Invalid,
    /// Denied by policy (exit 3, HTTP 403).
    Denied,
    /// No such thing (exit 4, HTTP 404).
    NotFound,
    /// It exists already, or is in use (exit 5, HTTP 409).
    Conflict,
    /// The vault is sealed, or something is not running (exit 6, HTTP 503).
    Unavailable,
}

impl ErrorCode {
    /// The CLI's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::Invalid => 1,
            Self::Denied => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
            Self::Unavailable => 6,
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Failed => 500,
            Self::Invalid => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Unavailable => 503,
        }
    }
}

impl ApiError {
    /// An error with its code and its one line.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), rule: None, remedy: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// How the daemon is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Whether the vault is sealed: nothing confidential can be read until it is opened.
    pub sealed: bool,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Who is asking.
    pub principal: String,
    /// With these roles.
    pub roles: BTreeSet<String>,
    /// How many of each kind exist; empty while sealed.
    pub counts: BTreeMap<String, u64>,
    /// Jobs that are not at rest.
    pub running: Vec<String>,
    /// Names of the deployed adapters.
    pub deployed: Vec<String>,
    /// SHA-256 of the policies in force.
    pub policy_digest: String,
    /// Records in the audit log.
    pub audit_records: u64,
}

/// Opens the vault.
#[derive(Debug, Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Unseal {
    /// The passphrase.
    pub passphrase: String,
}

/// One line of `cloister doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do, unless all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All is well.
    Ok,
    /// It works, and could be better.
    Warning,
    /// Something does not work.
    Error,
}

/// A base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// SHA-256 over the digests of all files, hex.
    pub digest: String,
    /// SHA-256 and size of each file.
    pub files: BTreeMap<String, FileDigest>,
    /// What the engine found in it.
    pub info: ModelInfo,
    /// Who imported it.
    pub imported_by: String,
    /// When (RFC 3339).
    pub imported_at: String,
}

/// A file's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// SHA-256, hex.
    pub sha256: String,
    /// Bytes.
    pub bytes: u64,
}

/// How confidential records are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// May be known to all.
    Public,
    /// May be known in the house.
    Internal,
    /// Attorney–client privilege.
    Privileged,
    /// Protected health information; also what is assumed of data that says nothing.
    #[default]
    Phi,
}

impl Label {
    /// The word in files, policies and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Privileged => "privileged",
            Self::Phi => "phi",
        }
    }
}

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

/// A set of records and what has been done with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// How far it has come.
    pub state: DatasetState,
    /// How confidential.
    pub label: Label,
    /// What it may be used for.
    pub purposes: BTreeSet<String>,
    /// Rows accepted at import.
    pub records_in: u64,
    /// Rows that were skipped, with the reason (at most 100 are kept).
    pub skipped: Vec<SkippedRow>,
    /// Records after cleaning; 0 before.
    pub records: u64,
    /// What cleaning did.
    pub cleaning: Option<Cleaning>,
    /// The sealed object that holds the records.
    pub object: Option<ObjectRef>,
    /// SHA-256 of the records as sealed (JSON Lines), hex.
    pub digest: Option<String>,
    /// Who imported it.
    pub owner: String,
    /// When (RFC 3339).
    pub imported_at: String,
}

/// How far a dataset has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatasetState {
    /// Imported; on disk only under a scratch key, and gone with the daemon's memory of it.
    Raw,
    /// Cleaned, checked and sealed.
    Sealed,
    /// Its keys are destroyed.
    Shredded,
}

/// A row that was not taken, never its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedRow {
    /// From 1.
    pub row: u64,
    /// Why.
    pub reason: String,
}

/// Where a sealed object lies and which key opens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The object's name in the vault.
    pub object: String,
    /// The key's id.
    pub key: String,
}

/// What cleaning did, all counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cleaning {
    /// Plugins that ran, `name@version`.
    pub plugins: Vec<String>,
    /// Records examined by every plugin.
    pub examined: u64,
    /// Findings by kind.
    pub findings: BTreeMap<String, u64>,
    /// Findings of a second run over the cleaned records.
    pub residual_findings: u64,
    /// Records dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Mean of each score.
    pub scores: BTreeMap<String, f64>,
}

impl Cleaning {
    /// Findings of all kinds.
    pub fn total_findings(&self) -> u64 {
        self.findings.values().sum()
    }
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

/// What a plugin file claims; signed by the daemon at install.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginManifest {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is.
    pub world: PluginWorld,
    /// SHA-256 of the component, hex.
    pub sha256: String,
}

/// An installed plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// Its name (the manifest's).
    pub name: String,
    /// What it claims.
    pub manifest: PluginManifest,
    /// What it said of itself in the sandbox.
    pub description: Description,
    /// Ed25519 signature of the manifest's JSON by this appliance, hex; checked before each run.
    pub signature: String,
    /// Who installed it.
    pub installed_by: String,
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

/// Work that takes long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Such as `train-0001`.
    pub id: String,
    /// What it does.
    pub work: Work,
    /// How it stands.
    pub state: JobState,
    /// Who asked.
    pub principal: String,
    /// When (RFC 3339).
    pub created_at: String,
    /// Times that it was begun.
    pub attempts: u32,
    /// Training steps that a sealed checkpoint holds.
    pub checkpoint_step: Option<u64>,
    /// The sealed checkpoint, while there is one.
    pub checkpoint: Option<ObjectRef>,
    /// The last progress known.
    pub progress: Option<JobProgress>,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a few at a time; a box would only be in every reader's way")]
pub enum Work {
    /// Clean and seal a dataset.
    Clean {
        /// Its name.
        dataset: String,
        /// How.
        spec: CleanSpec,
    },
    /// Train an adapter.
    Train {
        /// How.
        recipe: Recipe,
    },
    /// Measure an adapter against its base.
    Evaluate {
        /// Its name.
        adapter: String,
        /// How.
        spec: EvaluateSpec,
    },
}

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum JobState {
    /// Waits for its turn.
    Queued,
    /// Has a worker.
    Running,
    /// Was stopped or lost its worker; resumes by itself.
    Interrupted,
    /// Done.
    Done,
    /// Stopped by a person; `resume` takes it up.
    Cancelled,
    /// Went wrong; `resume` tries again.
    Failed {
        /// One line.
        reason: String,
    },
}

impl JobState {
    /// Whether nothing will happen by itself.
    pub fn at_rest(&self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed { .. })
    }
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobProgress {
    /// Records done, of all.
    Records {
        /// Done.
        done: u64,
        /// Of so many.
        total: u64,
        /// In this stage: `clean`, `score`, `verify`, `evaluate`.
        stage: String,
    },
    /// A training step.
    Step(Progress),
    /// Held-out loss.
    HeldOut(HeldOutLoss),
}

/// One line of `GET /jobs/ID/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEvent {
    /// It moved on.
    Progress(JobProgress),
    /// Its state changed; the stream ends when the state is at rest.
    Job(Box<Job>),
}

/// A trained or imported adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    /// Its name; clients use it as the model's name.
    pub name: String,
    /// The base model's name.
    pub base: String,
    /// The base model's digest: it works on no other.
    pub base_digest: String,
    /// The strictest label of all its data.
    pub label: Label,
    /// What its data may be used for.
    pub purposes: BTreeSet<String>,
    /// What it was trained on, by name; empty when imported.
    pub datasets: Vec<String>,
    /// The recipe; absent when imported.
    pub recipe: Option<Recipe>,
    /// Who trained or imported it.
    pub trained_by: String,
    /// When (RFC 3339).
    pub trained_at: String,
    /// How training went.
    pub summary: Option<TrainSummary>,
    /// The sealed file of each name.
    pub files: BTreeMap<String, ObjectRef>,
    /// SHA-256 over its files, hex; approvals and releases carry it.
    pub digest: String,
    /// The last evaluation.
    pub evaluation: Option<EvalReport>,
    /// Who approved it.
    pub approvals: Vec<Approval>,
}

/// An evaluation and what it was made on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// The held-out records' dataset.
    pub dataset: String,
    /// The records' digest.
    pub dataset_digest: String,
    /// The adapter's digest.
    pub adapter_digest: String,
    /// The figures.
    pub figures: Evaluation,
    /// Who asked.
    pub principal: String,
    /// When (RFC 3339).
    pub at: String,
}

/// One person's yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who.
    pub principal: String,
    /// When (RFC 3339).
    pub at: String,
    /// The adapter's digest that was approved.
    pub adapter_digest: String,
    /// In their words.
    pub note: String,
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

/// A served adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The adapter's name.
    pub adapter: String,
    /// Its base.
    pub base: String,
    /// The digest that was released.
    pub adapter_digest: String,
    /// The two who approved.
    pub approvers: Vec<String>,
    /// Who deployed it.
    pub deployed_by: String,
    /// When (RFC 3339).
    pub at: String,
}

/// The policies in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// SHA-256 over all files.
    pub digest: String,
    /// Every rule.
    pub rules: Vec<RuleInfo>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// Its `@id`.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: String,
    /// Its `@reason`.
    pub reason: String,
    /// Its `@remedy`.
    pub remedy: String,
    /// File it stands in.
    pub file: String,
}

/// Asks why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainSpec {
    /// A verb of the policy, such as `Train` or `Serve`.
    pub action: String,
    /// A dataset's, adapter's or model's name; absent for the appliance.
    #[serde(default)]
    pub object: Option<String>,
    /// Another user than the one asking.
    #[serde(default)]
    pub principal: Option<String>,
    /// For training.
    #[serde(default)]
    pub purpose: Option<String>,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The answer.
    pub allowed: bool,
    /// The rules that decided.
    pub rules: Vec<String>,
    /// One line.
    pub reason: String,
    /// What to do; empty when allowed.
    pub remedy: String,
    /// The facts that were used.
    pub facts: BTreeMap<String, String>,
}

/// One policy case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseResult {
    /// Its name.
    pub case: String,
    /// Whether it came out as written.
    pub passed: bool,
    /// Expected and found.
    pub message: String,
}

/// What verifying the audit log found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Whether all is as it was written.
    pub verified: bool,
    /// Records read.
    pub records: u64,
    /// Signed checkpoints that matched.
    pub checkpoints: u64,
    /// Hex of the Merkle root.
    pub root: String,
    /// The first bad record and why, otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bad: Option<String>,
}

/// The keyring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// Version of the key that wraps all others.
    pub version: u32,
    /// Where the root key comes from: `passphrase` or `credential`.
    pub root: String,
    /// Data keys, by id.
    pub keys: Vec<String>,
}

/// A passphrase.
#[derive(Debug, Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase {
    /// The passphrase.
    pub passphrase: String,
}

/// A keyring sealed to a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBackup {
    /// Base64.
    pub backup: String,
}

/// Brings a keyring back.
#[derive(Debug, Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct KeyRestore {
    /// Base64.
    pub backup: String,
    /// The backup's passphrase.
    pub passphrase: String,
}

/// A person who may come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name, as in the certificate.
    pub name: String,
    /// What they may do.
    pub roles: BTreeSet<String>,
    /// The only uid from which the certificate is taken, if bound.
    pub uid: Option<u32>,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// Whether it still opens the door.
    pub revoked: bool,
}

/// A new person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// Name.
    pub name: String,
    /// What they may do.
    pub roles: BTreeSet<String>,
    /// The only uid from which the certificate is taken; absent for the asker's own.
    #[serde(default)]
    pub uid: Option<u32>,
}

/// A person's certificate and key, given out once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name.
    pub name: String,
    /// PEM.
    pub certificate: String,
    /// PEM; the daemon keeps no copy.
    pub key: String,
    /// PEM.
    pub ca: String,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).field("fingerprint", &self.fingerprint).finish()
    }
}
