//! How a verb fails: with an error for whoever asked, by losing its worker, or because it was stopped.

use cloister_vault::VaultError;
use cloister_wire::admin::{ApiError, ErrorCode};

use crate::audit::AuditError;
use crate::catalog::CatalogError;
use crate::policy::Denial;
use crate::workers::WorkerError;

/// Why a verb did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// To be told to whoever asked.
    #[error("{0}")]
    Api(ApiError),
    /// Its worker died or hung; a job is taken up again.
    #[error("the worker was lost: {0}")]
    Lost(String),
    /// It was asked to stop, and left everything so that it can go on.
    #[error("it was stopped")]
    Stopped,
}

/// What the pipeline's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The request or its data is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Api(ApiError::new(ErrorCode::Invalid, message))
    }

    /// It was tried and went wrong.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Api(ApiError::new(ErrorCode::Failed, message))
    }

    /// There is no such thing.
    pub fn not_found(kind: &str, name: &str) -> Self {
        let noun = if kind == "deployment" { "deployments".into() } else { format!("{kind} list") };
        Self::Api(
            ApiError::new(ErrorCode::NotFound, format!("there is no {kind} `{name}`"))
                .remedy(format!("`cloister {noun}` shows what there is")),
        )
    }

    /// It exists already, or something else uses it.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::Api(ApiError::new(ErrorCode::Conflict, message))
    }

    /// Something that is needed is not running or not open.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Api(ApiError::new(ErrorCode::Unavailable, message))
    }

    /// Policy says no.
    pub fn denied(denial: &Denial) -> Self {
        let mut error = ApiError::new(ErrorCode::Denied, denial.reason.clone()).remedy(denial.remedy.clone());
        error.rule = Some(denial.rule.clone());
        Self::Api(error)
    }

    /// One word for the audit log.
    pub fn short(&self) -> &'static str {
        match self {
            Self::Lost(_) => "worker-lost",
            Self::Stopped => "stopped",
            Self::Api(error) => match error.code {
                ErrorCode::Failed => "failed",
                ErrorCode::Invalid => "invalid",
                ErrorCode::Denied => "denied",
                ErrorCode::NotFound => "not-found",
                ErrorCode::Conflict => "conflict",
                ErrorCode::Unavailable => "unavailable",
            },
        }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        match self {
            Self::Api(error) => Self::Api(error.remedy(remedy)),
            other => other,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(error) => error,
            Error::Lost(why) => Self::new(ErrorCode::Failed, format!("the worker was lost: {why}"))
                .remedy("try again; `journalctl -u cloister` tells more"),
            Error::Stopped => Self::new(ErrorCode::Unavailable, "the daemon is stopping"),
        }
    }
}

impl From<VaultError> for Error {
    fn from(error: VaultError) -> Self {
        if error.is_no_room() {
            return Self::failed(error.to_string()).remedy("free some room on the state folder's disk, then repeat");
        }
        Self::failed(error.to_string())
    }
}

impl From<AuditError> for Error {
    fn from(error: AuditError) -> Self {
        Self::unavailable(format!("the audit log cannot be written, so nothing is done: {error}"))
            .remedy("free some room on the state folder's disk, then repeat")
    }
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<WorkerError> for Error {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Lost(why) => Self::Lost(why),
            WorkerError::Refused(why) => Self::invalid(why),
            WorkerError::Start { .. } => Self::unavailable(error.to_string()),
            WorkerError::OutOfTurn(_) => Self::failed(error.to_string()),
        }
    }
}
