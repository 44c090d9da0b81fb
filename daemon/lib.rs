//! The daemon as a library, so that tests and benches reach its parts. Start at `app`.

pub mod api;
pub mod app;
pub mod config;
pub mod harden;
pub mod init;
pub mod logging;
pub mod notify;
