//! The process really gave up its rights, says the kernel. What its profile denies is tried in `cloister-confine`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cloister_wire::sandbox::{Limits, PluginWorld};
use common::Sandbox;

#[test]
fn a_running_sandbox_is_confined_says_the_kernel() {
    let (sandbox, _) = Sandbox::with("quality", PluginWorld::Scorer, Limits::default());
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", sandbox.pid())).unwrap();
    let status = read("status");
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!((field("Seccomp:").as_str(), field("Seccomp_filters:").as_str()), ("2", "3"));
    let limits = read("limits");
    for (name, value) in [("Max core file size", "0"), ("Max file size", "0"), ("Max open files", "16")] {
        let line = limits.lines().find(|l| l.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().next(), Some(value), "{line}");
    }
}
