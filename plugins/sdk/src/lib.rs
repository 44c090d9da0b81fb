//! What a plugin is written against: the guest's side of `wit/plugin.wit`.
//!
//! A plugin is a plain library: it implements [`Cleaner`] or [`Scorer`] on a unit
//! struct and names it once in [`export_cleaner!`] or [`export_scorer!`]. The
//! types here are ordinary Rust, so `cargo test -p NAME` runs a plugin's tests
//! natively; the component's exports exist only in a WebAssembly build.
//!
//! What always holds: a plugin sees one record and returns a value. It can reach
//! nothing else, because neither world has an import.

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message of `role` that says `content`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What a plugin says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The plugin's name, as in its manifest.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence: what it does.
    pub summary: String,
    /// The kinds of findings, or the names of scores, that it gives.
    pub gives: Vec<String>,
}

/// Something that was found and replaced: where and what kind, never the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// One of [`Description::gives`].
    pub kind: String,
    /// Which message, counted from 0.
    pub message: u32,
    /// First byte in the original content.
    pub start: u32,
    /// One past the last byte in the original content.
    pub end: u32,
    /// What stands there now.
    pub replacement: String,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Kept, perhaps rewritten: same number of messages, same roles.
    Kept {
        /// The record as it is now.
        messages: Vec<Message>,
        /// What was replaced, in the order of the original text.
        findings: Vec<Finding>,
    },
    /// Dropped, for a short reason code such as `too-short`.
    Dropped(String),
}

/// What a scorer thinks of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Name and finite value.
    pub scores: Vec<(String, f64)>,
    /// Equal for records that say the same.
    pub fingerprint: Option<u64>,
}

/// A plugin that rewrites or drops records.
pub trait Cleaner {
    /// What this plugin is.
    fn describe() -> Description;
    /// Cleans one record.
    fn clean(messages: Vec<Message>) -> Outcome;
}

/// A plugin that judges records.
pub trait Scorer {
    /// What this plugin is.
    fn describe() -> Description;
    /// Scores one record.
    fn score(messages: &[Message]) -> Scores;
}

/// Makes a [`Cleaner`] the component's export; nothing in a native build.
#[macro_export]
macro_rules! export_cleaner {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, missing_docs)] // generated: the canonical ABI's entry points
        mod exported_cleaner {
            use super::*;
            type Adapter = $crate::guest::CleanerAdapter<$plugin>;
            $crate::guest::cleaner::export!(Adapter with_types_in $crate::guest::cleaner);
        }
    };
}

/// Makes a [`Scorer`] the component's export; nothing in a native build.
#[macro_export]
macro_rules! export_scorer {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, missing_docs)] // generated: the canonical ABI's entry points
        mod exported_scorer {
            use super::*;
            type Adapter = $crate::guest::ScorerAdapter<$plugin>;
            $crate::guest::scorer::export!(Adapter with_types_in $crate::guest::scorer);
        }
    };
}
