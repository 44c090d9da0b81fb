//! The whole story in one sitting: ingest → clean → check → seal → train → evaluate → approve → serve, and the end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use kit::{Kit, NOT_FOUND};

#[test]
fn confidential_records_become_a_served_adapter_and_are_gone_when_shredded() {
    let kit = Kit::equipped();

    // ingest: the records are labelled, and nobody can look at them or train on them yet.
    kit.import("visits", &kit::dialogues(40));
    let visits = kit.json("sam", &["dataset", "show", "visits"]);
    assert_eq!((&visits["state"], &visits["records_in"]), (&"raw".into(), &40.into()));
    let recipe = kit.recipe("notes", kit::QUICK);
    kit.denied("tess", &["train", &recipe], "deidentify-before-training");

    // clean, check, seal: identifiers are replaced, policy clears the dataset, the vault seals it.
    kit.ok("sam", &["dataset", "clean", "visits"]);
    let visits = kit.json("sam", &["dataset", "show", "visits"]);
    assert_eq!(visits["state"], "sealed");
    assert_eq!(visits["cleaning"]["residual_findings"], 0);
    assert!(visits["cleaning"]["findings"].as_object().unwrap().values().any(|count| count.as_u64() > Some(0)));
    assert_eq!(kit.json("tess", &["dataset", "check", "visits"])["cleared"], true);

    // train: an adapter comes out, sealed, with the label of what it learnt from.
    kit.ok("tess", &["train", &recipe]);
    let adapter = kit.json("tess", &["adapter", "show", "notes"]);
    assert_eq!((&adapter["label"], &adapter["trained_by"]), (&"phi".into(), &"tess".into()));
    assert_eq!(adapter["summary"]["steps"], 6);
    let summary = &adapter["summary"];
    assert!(summary["held_out_after"].as_f64().unwrap() < summary["held_out_before"].as_f64().unwrap(), "{summary}");

    // evaluate: base against adapter on the same records.
    kit.evaluate("notes");
    let figures = kit.json("tess", &["adapter", "show", "notes"])["evaluation"]["figures"].clone();
    assert!(figures["adapter"]["loss"].as_f64().unwrap() < figures["base"]["loss"].as_f64().unwrap(), "{figures}");

    // approve: two people, and neither of them trained it.
    kit.denied("ann", &["serve", "notes"], "two-approvals-before-serving");
    kit.denied("tess", &["adapter", "approve", "notes"], "trainer-does-not-approve");
    kit.ok("ann", &["adapter", "approve", "notes"]);
    kit.denied("ann", &["serve", "notes"], "two-approvals-before-serving");
    kit.ok("bob", &["adapter", "approve", "notes"]);

    // serve: a user gets an answer, twice the same.
    kit.ok("ann", &["serve", "notes"]);
    let chat =
        ["chat", "notes", "-m", "Doctor: Any allergies? Patient: No.", "--temperature", "0", "--max-tokens", "12"];
    let answer = kit.ok("uma", &chat);
    assert!(!answer.trim().is_empty());
    assert_eq!(kit.ok("uma", &chat), answer);

    // the audit log saw it all, and holds together.
    let audit = kit.json("ada", &["audit", "verify"]);
    assert_eq!(audit["verified"], true);
    assert!(audit["records"].as_u64().unwrap() > 20, "{audit}");

    // the end: the records' key is destroyed, and nothing can bring them back.
    let key = &visits["object"]["key"];
    assert!(kit.json("alice", &["key", "status"])["keys"].as_array().unwrap().contains(key));
    kit.ok("sam", &["dataset", "rm", "visits", "--yes"]);
    assert!(!kit.json("alice", &["key", "status"])["keys"].as_array().unwrap().contains(key));
    kit.refused("sam", &["dataset", "sample", "visits"], NOT_FOUND, &["visits"]);

    // the adapter has a key of its own, and goes when it is told to.
    kit.ok("alice", &["undeploy", "notes"]);
    kit.ok("alice", &["adapter", "rm", "notes", "--yes"]);
    kit.refused("ann", &["serve", "notes"], NOT_FOUND, &["notes"]);
}
