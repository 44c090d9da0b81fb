//! What can be wrong with a model folder. Each message names the file and says what to do.

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that every model folder has is not among those handed over.
    #[error("`{file}` is missing from the model folder; {remedy}")]
    MissingFile {
        /// The file looked for.
        file: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A file cannot be read or mapped.
    #[error("`{file}` cannot be read: {source}; check the disk and import the model again")]
    Io {
        /// The file that failed.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `config.json` cannot be used.
    #[error("config.json: {reason}")]
    Config {
        /// Which key, and what to do.
        reason: String,
    },
    /// A family that the engine does not know.
    #[error("config.json: model_type `{model_type}` is not supported; this engine loads {known}")]
    UnknownFamily {
        /// What the file says.
        model_type: String,
        /// What would be accepted.
        known: String,
    },
    /// A weight file is damaged or not what it says it is.
    #[error("`{file}`: {reason}")]
    Weights {
        /// The file.
        file: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A tensor is absent, of another shape, or holds what it should not.
    #[error("`{file}`: tensor `{tensor}` {reason}")]
    Tensor {
        /// The file that holds it, or should.
        file: String,
        /// Its name.
        tensor: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The folder's digest is not the one recorded at import.
    #[error("the weights' digest is {found}, the catalog recorded {expected}; import the model again under a new name")]
    Digest {
        /// What the catalog says.
        expected: String,
        /// What was read now.
        found: String,
    },
    /// The tokenizer or its template cannot be used.
    #[error("`{file}`: {reason}")]
    Tokenizer {
        /// The file.
        file: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The device asked for is not there.
    #[error("device `{wanted}` cannot be used: {reason}")]
    Device {
        /// As configured.
        wanted: String,
        /// Why, and what to write.
        reason: String,
    },
    /// libtorch refused; its text may hold shapes and never data.
    #[error("libtorch failed: {0}")]
    Torch(String),
}

impl From<tch::TchError> for ModelError {
    fn from(error: tch::TchError) -> Self {
        ModelError::Torch(first_line(&error.to_string()))
    }
}

/// A C++ exception carries a backtrace behind its first line; only that line is for people.
pub(crate) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("unknown error").to_owned()
}
