//! Cloister's daemon, as a library that its two binaries and its tests share. Start reading at `app`.

pub mod access;
pub mod api;
pub mod app;
pub mod catalog;
pub mod config;
pub mod harden;
pub mod init;
pub mod logging;
pub mod notify;
pub mod policy;
