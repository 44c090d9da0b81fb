//! Cloister's daemon, as a library that its two binaries and its tests share.

pub mod access;
pub mod catalog;
pub mod policy;
