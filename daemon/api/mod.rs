//! What is behind the door: the administration for the CLI, OpenAI's API, and counters.

pub mod admin;
pub mod body;
pub mod house;
pub mod listener;
pub mod metrics;
pub mod openai;
#[cfg(test)]
mod testing;
pub mod upload;
