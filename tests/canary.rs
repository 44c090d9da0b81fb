//! No plaintext of a record or an adapter reaches a disk: a canary goes through the whole story, and is looked for
//! in every byte of the appliance's folder, the log and the temporary folders, at every stage.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use std::time::SystemTime;

use kit::appliance::{self, random_letters};
use kit::{Kit, search};

#[test]
fn no_record_reaches_a_disk_in_plain_text_at_any_stage() {
    let begun = SystemTime::now();
    let mut kit = Kit::equipped();
    let canary = random_letters(24).unwrap();
    let look = |kit: &Kit, stage: &str| {
        let mut found = search::files_with(&canary, &kit.folder);
        for folder in ["/tmp", "/var/tmp", "/dev/shm"] {
            found.extend(search::files_with_since(&canary, folder.as_ref(), begun));
        }
        assert!(found.is_empty(), "after {stage}, the canary is in {found:?}");
        // The names of an adapter's tensors stand at the beginning of its file.
        let adapter = search::files_with("lora_A.weight", &kit.state());
        assert!(adapter.is_empty(), "after {stage}, an adapter lies open in {adapter:?}");
        assert!(search::count_files(&kit.folder) > 10, "there was hardly anything to search");
    };

    kit.import("visits", &kit::dialogues_with(40, &format!("Lives in {canary}.")));
    look(&kit, "import");
    kit.restart();
    look(&kit, "a restart with raw records");
    kit.ok("sam", &["dataset", "clean", "visits"]);
    look(&kit, "cleaning");
    // It did get in, and through the cleaner: otherwise its absence says nothing.
    assert!(kit.ok("sam", &["dataset", "sample", "visits", "-n", "40"]).contains(&canary));
    look(&kit, "a sample");
    kit.train("notes");
    look(&kit, "training");
    kit.release("notes");
    kit.ok("uma", &["chat", "notes", "-m", &format!("Who lives in {canary}?"), "--max-tokens", "8"]);
    look(&kit, "a chat that held it");
    kit.stop().unwrap();
    look(&kit, "the daemon's end");
    kit.start().unwrap();
    kit.ok("sam", &["dataset", "rm", "visits", "--yes"]);
    look(&kit, "shredding");
}

#[test]
fn a_failed_job_tells_no_record() {
    let kit = Kit::equipped();
    let canary = random_letters(24).unwrap();
    // A row that cannot be used, an answer too long to learn, an over-long prompt: each names rows, never text.
    let bad = kit.file("bad.csv", format!("section_header,section_text,dialogue\nGENHX,,{canary}\n"));
    let answer = kit.cloister("sam", &kit::import_arguments(&bad, "bad"));
    assert_ne!(answer.code, 0);
    assert!(!format!("{answer:?}").contains(&canary), "{answer:?}");

    kit.import("visits", &kit::dialogues_with(24, &format!("{canary} ").repeat(400)));
    kit.ok("sam", &["dataset", "clean", "visits", "--plugin", "redact"]);
    let refuse = kit::QUICK.replace("\"drop\"", "\"refuse\"");
    let answer = kit.cloister("tess", &["train", &kit.recipe("notes", &refuse)]);
    assert_eq!(answer.code, kit::FAILED, "{answer:?}");
    assert!(answer.stderr.contains("13"), "the over-long row is not named: {answer:?}");
    assert!(!format!("{answer:?}").contains(&canary));
    std::fs::remove_file(bad).unwrap();
    assert_eq!(search::files_with(&canary, &kit.folder), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_search_itself_finds_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let text = random_letters(24).unwrap();
    // Across the border of two pieces that are read, and in a name.
    let mut content = vec![b'.'; (1 << 20) - 7];
    content.extend_from_slice(text.as_bytes());
    std::fs::create_dir(folder.path().join("a")).unwrap();
    std::fs::write(folder.path().join("a/content"), content).unwrap();
    std::fs::write(folder.path().join(format!("{text}.csv")), "").unwrap();
    assert_eq!(search::files_with(&text, folder.path()).len(), 2);
    assert_eq!(appliance::text(text.as_bytes()), text);
}
