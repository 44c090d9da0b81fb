//! What is behind the door.

pub mod body;
pub mod listener;
pub mod metrics;
pub mod openai;
#[cfg(test)]
mod testing;
