//! What can be wrong with an adapter.

/// Why an adapter cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum AdaptError {
    /// A target of the recipe names no layer of this base.
    #[error(
        "`{target}` in `lora.targets` matches no linear layer of this base; choose from {choices}, or \"all-linear\""
    )]
    Target {
        /// As the recipe has it.
        target: String,
        /// What would match.
        choices: String,
    },
    /// `adapter_config.json` does not parse.
    #[error("adapter_config.json does not parse: {0}; save the adapter again with PEFT's `save_pretrained`")]
    Config(String),
    /// An adapter that the forward pass cannot reproduce exactly.
    #[error("adapter_config.json: {what} is not supported: {why}")]
    Unsupported {
        /// The key and its value.
        what: String,
        /// Why it is refused, and what would do.
        why: &'static str,
    },
    /// The weights file is damaged.
    #[error("adapter_model.safetensors is damaged ({0}); copy it again from where it was made")]
    Damaged(String),
    /// A tensor is absent, foreign, of a wrong shape or type, or not finite.
    #[error("adapter_model.safetensors: `{tensor}` {reason}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Trained on another base.
    #[error(
        "the adapter was trained on weights with digest {trained_on}, this base has {base}; use it with its own base"
    )]
    Base {
        /// From the adapter's file.
        trained_on: String,
        /// Of the loaded base.
        base: String,
    },
    /// Values that would make every answer a NaN.
    #[error(
        "`{0}` of the adapter holds a NaN or an infinity, so it is not written; lower the learning rate and train again"
    )]
    NonFinite(String),
    /// libtorch refused.
    #[error("libtorch failed: {0}")]
    Torch(#[from] tch::TchError),
}
