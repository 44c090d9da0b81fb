//! The record: what a file's row becomes at ingest, and what every later stage reads.

use serde::{Deserialize, Serialize};

/// One example: a conversation whose last message is the answer to learn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Row in the source file, counted from 1; errors and reports name it.
    pub row: u64,
    /// In order; the last one has the role `assistant`.
    pub messages: Vec<Message>,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Plain text.
    pub content: String,
}

impl Message {
    /// A message from its two parts.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

impl Record {
    /// The messages before the answer, and the answer.
    ///
    /// `None` when the last message is not the assistant's.
    pub fn split_answer(&self) -> Option<(&[Message], &Message)> {
        let (answer, prompt) = self.messages.split_last()?;
        (answer.role == "assistant").then_some((prompt, answer))
    }
}
