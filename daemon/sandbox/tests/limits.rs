//! Whatever a plugin does, it ends at its limit, is named by row, and harms no other record.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use cloister_wire::sandbox::{FromSandbox, Limits, PluginWorld, RecordResult, ToSandbox};
use common::{Sandbox, failure, guest, quick, record};

fn hostile(limits: Limits) -> Sandbox {
    Sandbox::with("hostile", PluginWorld::Cleaner, limits).0
}

#[test]
fn each_misdeed_fails_its_own_record_and_the_others_go_on() {
    let mut sandbox = hostile(quick());
    let modes = ["loop", "memory", "output", "trap", "offset", "reshape"];
    let mut records: Vec<_> = modes.iter().enumerate().map(|(row, mode)| record(row as u64 + 1, mode)).collect();
    records.push(record(99, "harmless"));

    let (outcomes, kept) = sandbox.run(&records);

    let kinds: Vec<&str> = outcomes[..6].iter().map(|outcome| failure(outcome).split(':').next().unwrap()).collect();
    assert_eq!(kinds, ["fuel", "memory", "output", "trap", "invalid", "invalid"]);
    assert_eq!(outcomes.iter().map(|o| o.row).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 99]);
    assert_eq!(kept, [record(99, "harmless")]);
}

#[test]
fn an_endless_loop_ends_at_its_deadline() {
    let limits = Limits { fuel_per_record: u64::MAX, deadline_ms: 300, ..Limits::default() };
    let mut sandbox = hostile(limits);
    let start = Instant::now();
    let (outcomes, _) = sandbox.run(&[record(1, "loop")]);
    assert_eq!(failure(&outcomes[0]), "deadline: the plugin ran over 300 ms");
    assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn a_memory_bomb_leaves_the_process_small() {
    let mut sandbox = hostile(quick());
    sandbox.run(&(1..=20).map(|row| record(row, "memory")).collect::<Vec<_>>());
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
    let peak: u64 =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()).unwrap();
    assert!(peak < 400 << 10, "the process grew to {} MiB", peak >> 10);
}

#[test]
fn no_record_reaches_another_through_the_guest() {
    let records: Vec<_> = (1..=8).map(|row| record(row, "remember")).collect();
    let (outcomes, kept) = hostile(quick()).run(&records);
    assert!(outcomes.iter().all(|o| matches!(o.result, RecordResult::Kept { .. })));
    assert!(kept.iter().all(|r| r.messages[0].content == "seen 1"), "{kept:?}");
}

#[test]
fn what_is_no_plugin_is_refused() {
    let refused = |bytes: &[u8], world| match Sandbox::start().load(bytes, world, quick()) {
        FromSandbox::Refused { reason } => reason,
        other => panic!("not refused: {other:?}"),
    };
    let cleaner = PluginWorld::Cleaner;
    assert!(refused(b"garbage", cleaner).contains("no WebAssembly component"));
    assert!(refused(b"", cleaner).contains("no WebAssembly component"));
    assert!(refused(b"\0asm\x01\0\0\0", cleaner).contains("no WebAssembly component"), "a core module");
    let mut cut = guest("quality");
    cut.truncate(cut.len() / 2);
    assert!(refused(&cut, PluginWorld::Scorer).contains("no WebAssembly component"));
    assert!(refused(&guest("quality"), cleaner).contains("world `cleaner`"));
    assert!(refused(&vec![0; 17 << 20], cleaner).contains("bytes"));
    assert_eq!(refused(IMPORTS, cleaner), "the component imports `clock`, and a plugin may import nothing");
}

/// `(component (import "clock" (func)))`, assembled by hand: a type section with one function type, one import of it.
const IMPORTS: &[u8] = b"\0asm\x0d\0\x01\0\x07\x05\x01\x40\0\x01\0\x0a\x0a\x01\x00\x05clock\x01\x00";

#[test]
fn a_run_without_a_plugin_and_a_broken_batch_are_answers_not_ends() {
    let mut sandbox = Sandbox::start();
    let answer = sandbox.ask(&ToSandbox::Run { batch: 1 }, b"").message;
    assert!(matches!(answer, FromSandbox::Failed { reason } if reason.contains("load")));

    let mut sandbox = hostile(quick());
    let secret = br#"{"row": "Anna Schmidt", "messages": []}"#;
    let FromSandbox::Failed { reason } = sandbox.ask(&ToSandbox::Run { batch: 1 }, secret).message else {
        panic!("not refused")
    };
    assert!(reason.starts_with("line 1 of the batch is no record") && !reason.contains("Anna"), "{reason}");
    assert_eq!(sandbox.run(&[record(1, "still here")]).1.len(), 1);
}
