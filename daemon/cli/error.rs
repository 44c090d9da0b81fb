//! Why a command failed, with which exit code, and how that is printed.
//!
//! What goes wrong on this side is told in the daemon's own shape ([`ApiError`]), so that a script sees one
//! form of failure whatever its origin. Every failure is one line, a rule where one denied, and what to do next.

use std::io;
use std::path::Path;

use cloister_wire::admin::{ApiError, ErrorCode};
use serde_json::{Value, json};

use crate::render;

/// Exit code of a wrong command line; clap uses the same.
pub(crate) const USAGE: u8 = 2;

/// Exit code after Ctrl-C (128 + SIGINT): the job was not seen to its end.
const DETACHED: u8 = 130;

/// What every command may end with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The daemon's answer, or this side's failure in the same shape.
    #[error("{0}")]
    Failed(#[from] ApiError),
    /// The command line cannot be meant so.
    #[error("{message}")]
    Usage {
        /// One line.
        message: String,
        /// What to type instead.
        remedy: String,
    },
    /// The question was answered, and printed, and the answer is no.
    #[error("{message}")]
    Verdict {
        /// The exit code.
        code: u8,
        /// One line.
        message: String,
    },
    /// Ctrl-C while following a job, which goes on.
    #[error("detached from job `{job}`, which goes on")]
    Detached {
        /// Its id.
        job: String,
    },
}

impl CliError {
    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), remedy: remedy.into() }
    }

    /// An answer that is no, after it was printed.
    pub(crate) fn verdict(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Verdict { code: code.exit_code(), message: message.into() }
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(error) => error.code.exit_code(),
            Self::Usage { .. } => USAGE,
            Self::Verdict { code, .. } => *code,
            Self::Detached { .. } => DETACHED,
        }
    }

    /// The lines for standard error.
    pub(crate) fn human(&self) -> String {
        let mut lines = vec![format!("cloister: {self}")];
        match self {
            Self::Failed(error) => {
                lines.extend(error.rule.iter().map(|rule| format!("  rule: {rule}")));
                lines.extend(error.remedy.iter().map(|remedy| format!("  next: {remedy}")));
            }
            Self::Usage { remedy, .. } => lines.push(format!("  next: {remedy}")),
            Self::Detached { job } => lines
                .push(format!("  next: `cloister watch {job}` follows it again, `cloister job cancel {job}` stops it")),
            Self::Verdict { .. } => {}
        }
        render::printable(&lines.join("\n"))
    }

    /// The object for standard output under `--json`; nothing where the answer has been printed already.
    pub(crate) fn json(&self) -> Option<Value> {
        match self {
            Self::Failed(error) => serde_json::to_value(error).ok(),
            Self::Usage { message, remedy } => Some(usage_json(message, Some(remedy))),
            Self::Detached { job } => Some(json!({ "code": "detached", "message": self.to_string(), "job": job })),
            Self::Verdict { .. } => None,
        }
    }
}

/// A usage error in the daemon's shape.
pub(crate) fn usage_json(message: &str, remedy: Option<&str>) -> Value {
    json!({ "code": "usage", "message": message, "remedy": remedy })
}

/// Something went wrong on this side.
pub(crate) fn failed(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Failed, message)
}

/// What was given on this side cannot be used.
pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message)
}

/// The daemon cannot be reached.
pub(crate) fn unavailable(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, message)
}

/// A local file could not be read, written or made; `verb` completes "cannot …".
pub(crate) fn file(verb: &str, path: &Path, error: &io::Error) -> ApiError {
    let code = match error.kind() {
        io::ErrorKind::NotFound => ErrorCode::NotFound,
        io::ErrorKind::AlreadyExists => ErrorCode::Conflict,
        _ => ErrorCode::Failed,
    };
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => Some("check the path"),
        io::ErrorKind::AlreadyExists => Some("nothing is overwritten: choose another place or move it away"),
        io::ErrorKind::PermissionDenied => Some("check the permissions of the file and of its folder"),
        io::ErrorKind::StorageFull => Some("make room on the disk"),
        _ => None,
    };
    let answer = ApiError::new(code, format!("cannot {verb} `{}`: {}", path.display(), plain(error)));
    match remedy {
        Some(remedy) => answer.remedy(remedy),
        None => answer,
    }
}

/// The error without Rust's "(os error 2)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_has_the_exit_code_of_the_design() {
        let cases = [
            (ErrorCode::Failed, 1),
            (ErrorCode::Invalid, 1),
            (ErrorCode::Denied, 3),
            (ErrorCode::NotFound, 4),
            (ErrorCode::Conflict, 5),
            (ErrorCode::Unavailable, 6),
        ];
        for (code, exit) in cases {
            assert_eq!(CliError::from(ApiError::new(code, "no")).exit_code(), exit);
            assert_eq!(CliError::verdict(code, "no").exit_code(), exit);
        }
        assert_eq!(CliError::usage("no", "so").exit_code(), 2);
        assert_eq!(CliError::Detached { job: "train-0001".into() }.exit_code(), 130);
    }

    #[test]
    fn a_denial_shows_message_rule_and_remedy() {
        let mut error = ApiError::new(ErrorCode::Denied, "`visits` may not be trained on").remedy("clean it first");
        error.rule = Some("hipaa-deidentified".into());
        let error = CliError::from(error);
        assert_eq!(
            error.human(),
            "cloister: `visits` may not be trained on\n  rule: hipaa-deidentified\n  next: clean it first"
        );
        let json = error.json().unwrap();
        assert_eq!((&json["code"], &json["rule"]), (&json!("denied"), &json!("hipaa-deidentified")));
    }

    #[test]
    fn a_missing_file_is_not_found_and_an_existing_one_a_conflict() {
        for (kind, code) in
            [(io::ErrorKind::NotFound, ErrorCode::NotFound), (io::ErrorKind::AlreadyExists, ErrorCode::Conflict)]
        {
            let error = file("read", Path::new("a.csv"), &io::Error::from(kind));
            assert_eq!(error.code, code);
            assert!(error.message.starts_with("cannot read `a.csv`: "), "{}", error.message);
        }
    }

    #[test]
    fn escape_sequences_from_elsewhere_do_not_reach_the_terminal() {
        let error = CliError::from(ApiError::new(ErrorCode::Failed, "\u{1b}[2Jgone"));
        assert!(!error.human().contains('\u{1b}'));
    }
}
