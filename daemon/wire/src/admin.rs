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

use serde::{Deserialize, Serialize};

mod asked;
mod catalog;
mod house;

pub use asked::*;
pub use catalog::*;
pub use house::*;

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
