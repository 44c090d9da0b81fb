//! What is behind the door: the administration for the CLI, and OpenAI's API.

pub mod admin;
pub mod body;
pub mod house;
pub mod listener;
pub mod openai;
pub mod upload;
