//! The daemon. The story is in [`pipeline`], one file a verb; `daemon/ARCHITECTURE.md` is the map.
//!
//! Imports point one way: main → app → supervisor, api → pipeline → access, policy, audit, catalog, workers →
//! vault → wire. Siblings do not import each other.

pub mod access;
pub mod api;
pub mod app;
pub mod audit;
pub mod catalog;
pub mod config;
pub mod error;
pub mod harden;
pub mod init;
pub mod job;
pub mod logging;
pub mod notify;
pub mod pipeline;
pub mod policy;
pub mod supervisor;
pub mod workers;
