//! What the catalog holds, one entry a file: models, datasets, plugins, jobs, adapters, deployments.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{CleanSpec, EvaluateSpec};
use crate::engine::{Evaluation, HeldOutLoss, ModelInfo, Progress, TrainSummary};
use crate::recipe::Recipe;
use crate::sandbox::{Description, PluginWorld};

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
    /// Imported; on disk under a key of its own, which sealing destroys.
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
#[expect(clippy::large_enum_variant, reason = "one a job, and jobs are few; a box would show in every match")]
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
