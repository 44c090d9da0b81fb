//! What a training or evaluation task is given, and how it answers.
//!
//! The daemon streams records and files as frames; [`Inputs`] collects them until `Begin`. The task then
//! speaks through [`TaskIo`], which the process backs with its socket and a test with a list.

use std::collections::BTreeMap;

use cloister_wire::engine::{Failure, FailureKind, FilePiece, FromEngine, RecordSet};
use cloister_wire::frame::{CHUNK, FrameError};
use cloister_wire::record::Record;

use crate::adapt::AdaptError;
use crate::model::ModelError;
use crate::train::checkpoint::CheckpointError;
use crate::train::data::DataError;

/// The task's side of the connection.
pub trait TaskIo {
    /// Sends a message, with bytes beside it.
    fn send(&mut self, message: FromEngine, blob: &[u8]) -> Result<(), FrameError>;
    /// Whether `Stop` has arrived, or the connection is gone.
    fn stopped(&mut self) -> bool;
    /// Peak resident memory of the process, in bytes.
    fn peak_rss_bytes(&self) -> u64;
}

/// Sends a file in pieces.
pub fn send_file(io: &mut impl TaskIo, name: &str, bytes: &[u8]) -> Result<(), FrameError> {
    let count = bytes.len().div_ceil(CHUNK).max(1);
    for index in 0..count {
        let piece = &bytes[index * CHUNK..bytes.len().min((index + 1) * CHUNK)];
        let message = FromEngine::File(FilePiece { name: name.to_owned(), last: index + 1 == count });
        io.send(message, piece)?;
    }
    Ok(())
}

/// What was sent for a task before `Begin`.
#[derive(Debug, Default)]
pub struct Inputs {
    train: Vec<u8>,
    held_out: Vec<u8>,
    files: BTreeMap<String, (Vec<u8>, bool)>,
}

/// Why a task's inputs cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A line of a record set is no record. What it holds is not repeated.
    #[error(
        "line {line} of the {set:?} records is not a record; the dataset was written by another version, import it again"
    )]
    Record {
        /// Which set.
        set: RecordSet,
        /// From 1.
        line: usize,
    },
    /// A file did not come, or not whole.
    #[error("`{0}` did not arrive whole; send it before `Begin`")]
    File(String),
}

impl Inputs {
    /// Adds a piece of a record set.
    pub fn records_piece(&mut self, set: RecordSet, blob: &[u8]) {
        match set {
            RecordSet::Train => self.train.extend_from_slice(blob),
            RecordSet::HeldOut => self.held_out.extend_from_slice(blob),
        }
    }

    /// Adds a piece of a file; a piece after the last one starts the file anew.
    pub fn file_piece(&mut self, piece: FilePiece, blob: &[u8]) {
        let (bytes, whole) = self.files.entry(piece.name).or_default();
        if std::mem::replace(whole, piece.last) {
            bytes.clear();
        }
        bytes.extend_from_slice(blob);
    }

    /// The records of a set.
    pub fn records(&self, set: RecordSet) -> Result<Vec<Record>, InputError> {
        let bytes = match set {
            RecordSet::Train => &self.train,
            RecordSet::HeldOut => &self.held_out,
        };
        let lines = bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
        lines
            .map(|(index, line)| {
                // serde's message would quote the line.
                serde_json::from_slice(line).map_err(|_| InputError::Record { set, line: index + 1 })
            })
            .collect()
    }

    /// A whole file.
    pub fn file(&self, name: &str) -> Result<&[u8], InputError> {
        match self.files.get(name) {
            Some((bytes, true)) => Ok(bytes),
            _ => Err(InputError::File(name.to_owned())),
        }
    }
}

/// Why a task ended without its result.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// What was sent.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The model, its tokenizer or its template.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The records.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The held-out records.
    #[error("held-out records: {0}")]
    HeldOut(DataError),
    /// The adapter.
    #[error(transparent)]
    Adapt(#[from] AdaptError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The numbers.
    #[error("the {what} became {value} at step {step}; {rows}; lower `training.learning_rate`, or look at these rows")]
    Numeric {
        /// `loss` or `gradient`.
        what: &'static str,
        /// NaN or an infinity.
        value: f64,
        /// The optimiser step, from 1.
        step: u64,
        /// The rows of its batch.
        rows: String,
    },
    /// The held-out loss, measured between steps.
    #[error("the held-out loss {of} is {value}: {remedy}")]
    HeldOutLoss {
        /// Of the base, of the adapter, after which step.
        of: String,
        /// NaN or an infinity.
        value: f64,
        /// What to do.
        remedy: &'static str,
    },
    /// libtorch.
    #[error("libtorch failed: {0}")]
    Torch(String),
    /// The daemon is gone.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl From<tch::TchError> for TaskError {
    fn from(error: tch::TchError) -> Self {
        // A C++ exception carries a backtrace behind its first line; only that line is for people.
        TaskError::Torch(error.to_string().lines().next().unwrap_or("unknown error").to_owned())
    }
}

impl TaskError {
    /// As the daemon is told.
    pub fn failure(&self) -> Failure {
        Failure { kind: self.kind(), message: self.to_string() }
    }

    fn kind(&self) -> FailureKind {
        match self {
            TaskError::Model(_) => FailureKind::Model,
            TaskError::Data(_) | TaskError::HeldOut(_) | TaskError::Input(InputError::Record { .. }) => {
                FailureKind::Data
            }
            TaskError::Adapt(AdaptError::Target { .. }) => FailureKind::Recipe,
            TaskError::Adapt(AdaptError::NonFinite(_)) | TaskError::Numeric { .. } | TaskError::HeldOutLoss { .. } => {
                FailureKind::Numeric
            }
            TaskError::Adapt(_) | TaskError::Checkpoint(_) | TaskError::Input(InputError::File(_)) => {
                FailureKind::Adapter
            }
            TaskError::Torch(text) if text.contains("memory") => FailureKind::Memory,
            TaskError::Torch(_) | TaskError::Frame(_) => FailureKind::Internal,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pieces_may_cut_a_record_anywhere() {
        let text = "{\"row\":1,\"messages\":[]}\n{\"row\":2,\"messages\":[]}\n";
        for at in 0..text.len() {
            let mut inputs = Inputs::default();
            inputs.records_piece(RecordSet::Train, &text.as_bytes()[..at]);
            inputs.records_piece(RecordSet::Train, &text.as_bytes()[at..]);
            let rows: Vec<u64> = inputs.records(RecordSet::Train).unwrap().iter().map(|r| r.row).collect();
            assert_eq!(rows, [1, 2]);
        }
    }

    #[test]
    fn a_bad_line_is_named_and_not_quoted() {
        let mut inputs = Inputs::default();
        inputs.records_piece(RecordSet::HeldOut, b"{\"row\":1,\"messages\":[]}\n{\"row\":\"secret\"}\n");
        let error = inputs.records(RecordSet::HeldOut).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_file_is_there_only_when_whole() {
        let mut inputs = Inputs::default();
        let piece = |last| FilePiece { name: "checkpoint".into(), last };
        inputs.file_piece(piece(false), b"ab");
        assert!(inputs.file("checkpoint").is_err());
        inputs.file_piece(piece(true), b"c");
        assert_eq!(inputs.file("checkpoint").unwrap(), b"abc");
    }
}
