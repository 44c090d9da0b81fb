//! Whatever ends when it should not (daemon, engine, sandbox, index), nothing is lost, and jobs go on by themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use std::time::{Duration, Instant};

use kit::Kit;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

/// Issue 2: a restart within 5 s finds everything.
const RESTART: Duration = Duration::from_secs(5);

#[test]
fn a_restart_finds_everything_as_it_was() {
    let mut kit = Kit::equipped();
    kit.dataset("visits", 24);
    kit.train("notes");
    let (before, jobs) = (kit.inventory(), kit.json("tess", &["job", "list"]));
    kit.stop().unwrap();
    let begun = Instant::now();
    kit.start().unwrap();
    assert!(begun.elapsed() < RESTART, "the restart took {:?}", begun.elapsed());
    assert_eq!(kit.inventory(), before);
    assert_eq!(kit.json("tess", &["job", "list"]), jobs);
    assert!(!kit.ok("sam", &["dataset", "sample", "visits"]).trim().is_empty());
}

#[test]
fn the_index_may_be_lost() {
    let mut kit = Kit::equipped();
    kit.dataset("visits", 24);
    kit.train("notes");
    let before = kit.inventory();
    kit.stop().unwrap();
    let index = kit.state().join("index");
    assert!(index.is_dir(), "the index is not where this test looks for it");
    std::fs::remove_dir_all(&index).unwrap();
    kit.start().unwrap();
    assert_eq!(kit.inventory(), before);

    // And when it is there, and is nonsense.
    kit.kill9().unwrap();
    for entry in std::fs::read_dir(&index).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        std::fs::write(entry.path(), [0x5a; 4096]).unwrap();
    }
    kit.start().unwrap();
    assert_eq!(kit.inventory(), before);
}

#[test]
fn a_daemon_killed_in_mid_training_resumes_and_the_adapter_is_the_same_to_the_byte() {
    let mut kit = Kit::equipped();
    kit.dataset("visits", 24);
    kit.ok("tess", &["train", &kit.recipe("whole", kit::LONG)]);

    let mut client = kit.spawn("tess", &["train", &kit.recipe("broken", kit::LONG)]);
    wait_for_checkpoint(&kit, 4);
    kit.kill9().unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    kit.start().unwrap();
    let job = wait_for_end(&kit);
    assert_eq!(job["state"]["state"], "done", "{job}");
    assert!(job["attempts"].as_u64().unwrap() >= 2, "it did not begin anew: {job}");
    assert_same_adapter(&kit);
}

#[test]
fn an_engine_killed_in_mid_training_costs_nothing_but_the_steps_since_the_checkpoint() {
    let kit = Kit::equipped();
    kit.dataset("visits", 24);
    kit.ok("tess", &["train", &kit.recipe("whole", kit::LONG)]);

    let client = kit.spawn("tess", &["train", &kit.recipe("broken", kit::LONG)]);
    wait_for_checkpoint(&kit, 4);
    let engine = kit.wait_for("engine", || kit.worker("cloister-engine"));
    kill_process(engine, Signal::KILL).unwrap();
    // The person who waits for it sees nothing of it but the delay.
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", kit::appliance::text(&output.stderr));
    let job = wait_for_end(&kit);
    assert!(job["attempts"].as_u64().unwrap() >= 2, "the engine was not replaced: {job}");
    assert_same_adapter(&kit);
}

#[test]
fn a_sandbox_killed_in_mid_cleaning_lets_no_record_through_uncleaned() {
    let kit = Kit::equipped();
    kit.import("visits", &kit::dialogues(400));
    let client = kit.spawn("sam", &["dataset", "clean", "visits"]);
    let sandbox = kit.wait_for("sandbox", || kit.worker("cloister-sandbox"));
    kill_process(sandbox, Signal::KILL).unwrap();
    client.wait_with_output().unwrap();
    let job = wait_for_end(&kit);
    let visits = kit.json("sam", &["dataset", "show", "visits"]);
    // Either way is right: begun again by itself, or failed and as raw as before.
    if job["state"]["state"] == "done" {
        assert_eq!(visits["state"], "sealed");
        assert_eq!(visits["cleaning"]["examined"], visits["records_in"], "{visits}");
        assert_eq!(visits["cleaning"]["residual_findings"], 0);
    } else {
        assert_eq!(visits["state"], "raw");
        kit.ok("sam", &["dataset", "clean", "visits"]);
    }
}

#[test]
fn sigterm_in_mid_training_makes_a_checkpoint_and_the_job_goes_on_after_the_start() {
    let mut kit = Kit::equipped();
    kit.dataset("visits", 24);
    kit.ok("tess", &["train", &kit.recipe("whole", kit::LONG)]);

    let mut client = kit.spawn("tess", &["train", &kit.recipe("broken", kit::LONG)]);
    wait_for_checkpoint(&kit, 2);
    let status = kit.stop().unwrap();
    assert!(status.success(), "{status}");
    client.kill().unwrap();
    client.wait().unwrap();
    kit.start().unwrap();
    let job = wait_for_end(&kit);
    assert_eq!(job["state"]["state"], "done", "{job}");
    assert_same_adapter(&kit);
}

#[test]
fn a_cancelled_job_rests_until_it_is_resumed() {
    let mut kit = Kit::equipped();
    kit.dataset("visits", 24);
    let client = kit.spawn("tess", &["train", &kit.recipe("notes", kit::LONG)]);
    let job = wait_for_checkpoint(&kit, 2);
    let id = job["id"].as_str().unwrap();
    kit.ok("tess", &["job", "cancel", id]);
    assert!(!client.wait_with_output().unwrap().status.success(), "a cancelled training is no success");
    kit.restart();
    assert_eq!(kit.last_job().unwrap()["state"]["state"], "cancelled", "a restart is no resume");
    kit.ok("tess", &["job", "resume", id]);
    assert_eq!(wait_for_end(&kit)["state"]["state"], "done");
}

#[test]
fn a_kill_at_any_moment_leaves_a_state_that_starts() {
    let mut kit = Kit::equipped();
    for delay in [0, 3, 10, 30, 100, 300] {
        let name = format!("set-{delay}");
        let file = kit.file("set.csv", kit::dialogues(60));
        let mut client = kit.spawn("sam", &kit::import_arguments(&file, &name));
        std::thread::sleep(Duration::from_millis(delay));
        kit.kill9().unwrap();
        client.wait().unwrap();
        kit.start().unwrap();
        let datasets = kit.json("sam", &["dataset", "list"]);
        let found = datasets.as_array().unwrap().iter().find(|one| one["name"] == *name);
        assert!(found.is_none_or(|one| one["records_in"] == 60), "half of a dataset: {found:?}");
        assert_eq!(kit.json("ada", &["audit", "verify"])["verified"], true, "after a kill at {delay} ms");
    }
}

fn wait_for_checkpoint(kit: &Kit, step: u64) -> Value {
    kit.wait_for_job("checkpoint", |job| {
        job["state"]["state"] == "running" && job["checkpoint_step"].as_u64().is_some_and(|at| at >= step)
    })
}

fn wait_for_end(kit: &Kit) -> Value {
    kit.wait_for_job("end of the job", |job| {
        ["done", "failed", "cancelled"].contains(&job["state"]["state"].as_str().unwrap_or_default())
    })
}

/// `whole` was trained in one piece, `broken` was not.
fn assert_same_adapter(kit: &Kit) {
    let adapter = |name: &str| kit.json("tess", &["adapter", "show", name]);
    let (whole, broken) = (adapter("whole"), adapter("broken"));
    assert_eq!(whole["summary"]["steps"], broken["summary"]["steps"]);
    assert_eq!(whole["digest"], broken["digest"], "the resumed adapter differs from the one trained in one piece");
}
