//! The process really gave up its rights: read from the kernel, and tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
};

use cloister_sandbox::harden::{Profile, harden};
use cloister_wire::sandbox::{Limits, PluginWorld};
use common::Sandbox;

const PROBE: &str = "CLOISTER_SANDBOX_TEST_PROBE";

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

#[test]
fn files_are_denied_and_the_network_and_other_programs_are_fatal() {
    assert!(probe("open").success(), "opening a file was not answered with EPERM");
    assert!(probe("thread").success(), "threads still start");
    for fatal in ["socket", "exec", "pidfd"] {
        assert_eq!(probe(fatal).signal(), Some(libc::SIGSYS), "`{fatal}` did not end the process");
    }
}

/// Runs `what` in a process of its own, after hardening.
fn probe(what: &str) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "probe_that_the_test_above_runs_in_a_child", "--nocapture"]).env(PROBE, what);
    child.output().unwrap().status
}

#[test]
fn probe_that_the_test_above_runs_in_a_child() {
    let Ok(what) = std::env::var(PROBE) else { return };
    harden(&Profile::SANDBOX).unwrap();
    match what.as_str() {
        "open" => {
            let denied = std::fs::File::open("/etc/passwd").unwrap_err();
            assert_eq!(denied.raw_os_error(), Some(libc::EPERM));
        }
        "thread" => assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7),
        "socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
        "exec" => drop(std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/true"))),
        "pidfd" => {
            let _ = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        }
        other => panic!("no probe `{other}`"),
    }
}
