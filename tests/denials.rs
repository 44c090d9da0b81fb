//! What policy refuses: each denial has exit code 3, names its rule and what to do, and leaves state as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::{CONFLICT, DENIED, Kit, NOT_FOUND};

#[test]
fn records_are_not_trained_on_or_shown_before_they_are_cleaned() {
    let kit = Kit::equipped();
    kit.import("visits", &kit::dialogues(24));
    kit.denied("tess", &["train", &kit.recipe("notes", kit::QUICK)], "deidentify-before-training");
    kit.denied("sam", &["dataset", "sample", "visits"], "sample-after-cleaning");
    let check = kit.cloister("tess", &["dataset", "check", "visits"]);
    assert_eq!(check.code, DENIED);
    assert!(check.stdout.contains("deidentify-before-training"), "{check:?}");
    assert!(kit.json("tess", &["job", "list"]).as_array().unwrap().is_empty(), "a denied job must not exist");
}

#[test]
fn cleaning_without_the_redactor_is_no_deidentification() {
    let kit = Kit::equipped();
    kit.import("visits", &kit::dialogues(24));
    kit.ok("sam", &["dataset", "clean", "visits", "--plugin", "quality"]);
    kit.denied("tess", &["train", &kit.recipe("notes", kit::QUICK)], "deidentify-before-training");
}

#[test]
fn records_serve_only_the_purpose_they_were_imported_for() {
    let kit = Kit::equipped();
    kit.dataset("visits", 24);
    let recipe = kit.recipe("notes", kit::QUICK);
    kit.denied("tess", &["train", &recipe, "--set", "purpose=marketing"], "purpose-limitation");
}

#[test]
fn very_few_records_are_not_learnt_from() {
    let kit = Kit::equipped();
    kit.dataset("visits", 12);
    kit.denied("tess", &["train", &kit.recipe("notes", kit::QUICK)], "hipaa-minimum-records");
}

#[test]
fn an_adapter_is_served_only_after_two_other_people_approved_its_evaluation() {
    let kit = Kit::equipped();
    kit.dataset("visits", 40);
    kit.train("notes");
    kit.denied("ann", &["adapter", "approve", "notes"], "evaluate-before-approval");
    kit.evaluate("notes");

    kit.denied("tess", &["adapter", "approve", "notes"], "trainer-does-not-approve");
    kit.ok("ann", &["adapter", "approve", "notes"]);
    kit.denied("ann", &["adapter", "approve", "notes"], "approve-once");
    kit.denied("ann", &["serve", "notes"], "two-approvals-before-serving");
    kit.denied(
        "alice",
        &["adapter", "export", "notes", "--out", &kit::path(&kit.desk().join("out"))],
        "two-approvals-before-export",
    );
    // To a user, what is not in service does not exist.
    kit.refused("uma", &["chat", "notes", "-m", "Hello"], NOT_FOUND, &["notes"]);
    assert!(kit.json("alice", &["status"])["deployed"].as_array().unwrap().is_empty());

    kit.ok("bob", &["adapter", "approve", "notes"]);
    kit.ok("ann", &["serve", "notes"]);
    assert_eq!(kit.json("alice", &["status"])["deployed"], serde_json::json!(["notes"]));
}

#[test]
fn everyone_does_only_what_their_role_allows() {
    let kit = Kit::equipped();
    kit.import("visits", &kit::dialogues(24));
    let file = kit.file("more.csv", kit::dialogues(24));
    let recipe = kit.recipe("notes", kit::QUICK);
    let model = kit::path(&kit::base_model());
    let attempts: [(&str, &[&str]); 8] = [
        ("uma", &kit::import_arguments(&file, "more")),
        ("tess", &["dataset", "clean", "visits"]),
        ("tess", &["dataset", "rm", "visits", "--yes"]),
        ("sam", &["train", &recipe]),
        ("sam", &["model", "import", &model, "--name", "second"]),
        ("tess", &["user", "add", "eve", "--role", "administrator", "--out", &kit::path(&kit.desk().join("eve"))]),
        ("alice", &["audit", "verify"]),
        ("uma", &["job", "list"]),
    ];
    let before = kit.inventory();
    for (user, arguments) in attempts {
        let answer = kit.cloister(user, arguments);
        assert_eq!(answer.code, DENIED, "{user} was let through: `cloister {}`: {answer:?}", arguments.join(" "));
    }
    assert_eq!(kit.inventory(), before);
    assert!(!kit.desk().join("eve").join("key.pem").exists());
}

#[test]
fn explain_names_the_same_rule_as_the_denial() {
    let kit = Kit::equipped();
    kit.import("visits", &kit::dialogues(24));
    kit.denied("tess", &["train", &kit.recipe("notes", kit::QUICK)], "deidentify-before-training");
    let why = kit.json("tess", &["policy", "explain", "Train", "visits", "--purpose", "clinical-notes"]);
    assert_eq!(why["allowed"], false);
    assert!(why["rules"].as_array().unwrap().contains(&"deidentify-before-training".into()), "{why}");
    assert!(why["remedy"].as_str().unwrap().contains("dataset clean visits"), "{why}");
}

#[test]
fn a_denial_is_in_the_audit_log_with_its_rule() {
    let kit = Kit::equipped();
    kit.import("visits", &kit::dialogues(24));
    kit.denied("tess", &["train", &kit.recipe("notes", kit::QUICK)], "deidentify-before-training");
    let tail = kit.json("ada", &["audit", "tail"]).to_string();
    assert!(tail.contains("deidentify-before-training") && tail.contains("tess"), "{tail}");
}

#[test]
fn records_that_a_job_learns_from_are_shredded_only_once_it_has_ended() {
    let kit = Kit::equipped();
    kit.dataset("visits", 24);
    kit.ok("tess", &["train", &kit.recipe("notes", kit::LONG), "--detach"]);
    kit.refused("sam", &["dataset", "rm", "visits", "--yes"], CONFLICT, &["job cancel"]);
    let job = kit.last_job().unwrap();
    kit.ok("tess", &["job", "cancel", job["id"].as_str().unwrap()]);
    kit.wait_for_job("the cancelling", |job| job["state"]["state"] == "cancelled");
    kit.ok("sam", &["dataset", "rm", "visits", "--yes"]);
    kit.refused("sam", &["dataset", "sample", "visits"], NOT_FOUND, &["visits"]);
}
