//! From a Hugging Face folder to a decoder that computes: `files` (descriptors, mapped) → `config`
//! (config.json, checked) → `weights` (safetensors, checked) → `linear`, `rope`, `decoder` (the forward
//! pass) and, beside them, `tokenizer` and `template` (text ↔ ids, chats).
//!
//! The forward has no padding: the tokens of a batch are concatenated and a batch is a list of segments.

mod cache;
pub mod config;
pub mod decoder;
mod error;
pub mod files;
mod inspect;
pub mod linear;
pub mod rope;
mod template;
pub mod tokenizer;
pub mod weights;

pub use cache::KvCache;
pub use config::ModelConfig;
pub use decoder::{Batch, Decoder, LoadOptions, ModelInfo, ModuleInfo, Quantization, Segment};
pub use error::ModelError;
pub(crate) use error::first_line;
pub use files::ModelFiles;
pub use inspect::inspect;
pub use tokenizer::Tokenizer;
