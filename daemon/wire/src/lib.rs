//! Every message that crosses a process, and the frames that carry it.
//!
//! Daemon, engine, sandbox and CLI share nothing else: whoever reads this crate has seen all that can pass
//! between them. Types here are plain data; what validates does so without IO.

pub mod admin;
pub mod engine;
pub mod frame;
pub mod recipe;
pub mod record;
pub mod sandbox;
