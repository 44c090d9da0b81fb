//! Bad input of every kind gets one line with the place and what to do, the exit code of the design, and leaves the
//! state as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use std::fs;
use std::path::Path;
use std::process::Command;

use kit::{CONFLICT, FAILED, Kit, NOT_FOUND};
use serde_json::Value;

#[test]
fn a_model_that_cannot_be_read_is_refused_and_leaves_nothing() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &[&str]); 7] = [
        ("missing", |at| fs::remove_file(at.join("model.safetensors")).unwrap(), &["safetensors"]),
        ("truncated", truncate_weights, &["model.safetensors"]),
        ("garbled", |at| fs::write(at.join("model.safetensors"), [0xff; 4096]).unwrap(), &["model.safetensors"]),
        ("shape", |at| set(at, "intermediate_size", 512), &["mlp"]),
        ("family", |at| set(at, "model_type", "mamba2"), &["mamba2"]),
        ("config", |at| fs::write(at.join("config.json"), "{").unwrap(), &["config.json"]),
        ("pickle", pickle, &["pickle"]),
    ];
    let kit = Kit::start();
    for (name, spoil, words) in cases {
        let folder = kit.desk().join(name);
        kit::copy_model(&folder);
        spoil(&folder);
        kit.refused("alice", &["model", "import", &kit::path(&folder), "--name", name], FAILED, words);
        assert_eq!(kit.inventory()["models"], serde_json::json!([]), "after `{name}`");
    }
    // A model of the same name can still be imported, so nothing was left in the way.
    kit.ok("alice", &["model", "import", &kit::path(&kit::base_model()), "--name", "truncated"]);
}

#[test]
fn a_records_file_that_cannot_be_used_is_refused_by_row() {
    let good = "section_header,section_text,dialogue\nCC,Cough.,Doctor: Hello?\n";
    let cases: [(&str, Vec<u8>, &[&str]); 6] = [
        ("ragged", format!("{good}CC,Cough.\n").into_bytes(), &["2"]),
        ("utf8", [good.as_bytes(), b"CC,Co\xff\xfegh.,Doctor: Hello?\n"].concat(), &["2", "UTF-8"]),
        ("empty", format!("{good}CC,  ,Doctor: Hello?\n").into_bytes(), &["2", "empty"]),
        ("long", format!("{good}CC,Cough.,{}\n", "x".repeat(1 << 20)).into_bytes(), &["2"]),
        ("column", b"section_header,text,dialogue\nCC,Cough.,Doctor: Hello?\n".to_vec(), &["section_text"]),
        ("nothing", b"section_header,section_text,dialogue\n".to_vec(), &["no"]),
    ];
    let kit = Kit::start();
    for (name, content, words) in cases {
        let file = kit.file("records.csv", content);
        kit.refused("sam", &kit::import_arguments(&file, name), FAILED, words);
        assert_eq!(kit.inventory()["datasets"], serde_json::json!([]), "after `{name}`");
    }
    let gone = kit::path(&kit.desk().join("gone.csv"));
    kit.refused("sam", &kit::import_arguments(&gone, "gone"), NOT_FOUND, &["gone.csv"]);
}

#[test]
fn bad_rows_are_skipped_and_reported_when_asked_for() {
    let kit = Kit::start();
    let file =
        kit.file("records.csv", "section_header,section_text,dialogue\nCC,Cough.,Hello?\nCC,,Hello?\nCC,Pain.,Hm?\n");
    let mut arguments = kit::import_arguments(&file, "some");
    arguments.push("--skip-bad-rows");
    kit.ok("sam", &arguments);
    let some = kit.json("sam", &["dataset", "show", "some"]);
    assert_eq!((&some["records_in"], &some["skipped"][0]["row"]), (&2.into(), &2.into()), "{some}");
}

#[test]
fn a_recipe_that_cannot_work_is_refused_before_anything_is_loaded() {
    let kit = Kit::equipped();
    kit.dataset("visits", 24);
    let cases: [(&str, &str, &[&str]); 4] = [
        ("key", "[lora]\nrnak = 4\n", &["rnak", "line"]),
        ("rank", "[lora]\nrank = 0\n", &["lora.rank"]),
        ("target", "[lora]\ntargets = [\"no_such_proj\"]\n", &["no_such_proj"]),
        ("toml", "[lora\n", &["line"]),
    ];
    for (name, more, words) in cases {
        kit.refused("tess", &["train", &kit.recipe(name, more)], FAILED, words);
    }
    let recipe = kit.recipe("absent", kit::QUICK);
    kit.refused("tess", &["train", &recipe, "--set", "base=nobody"], NOT_FOUND, &["nobody"]);
    kit.refused("tess", &["train", &recipe, "--set", "dataset=nothing"], NOT_FOUND, &["nothing"]);
    assert_eq!(kit.inventory()["adapters"], serde_json::json!([]));
}

#[test]
fn a_dataset_of_which_nothing_is_left_is_refused() {
    let kit = Kit::equipped();
    kit.import("visits", &kit::dialogues(24));
    kit.refused("sam", &["dataset", "clean", "visits", "--min", "words=1000000000"], FAILED, &["nothing"]);
    assert_eq!(kit.json("sam", &["dataset", "show", "visits"])["state"], "raw", "a failed cleaning changes nothing");
    kit.ok("sam", &["dataset", "clean", "visits"]);

    // After masking and dropping: no example fits into so few tokens.
    let recipe = kit.recipe("notes", kit::QUICK);
    let arguments = ["train", &recipe, "--set", "training.max_length=8"];
    kit.refused("tess", &arguments, FAILED, &["max_length"]);
    assert_eq!(kit.inventory()["adapters"], serde_json::json!([]));
}

#[test]
fn a_name_is_never_a_path_and_is_taken_once() {
    let kit = Kit::start();
    let file = kit.file("records.csv", kit::dialogues(3));
    for name in ["../etc", "a/b", "A", ""] {
        let answer = kit.cloister("sam", &kit::import_arguments(&file, name));
        assert!([1, 2].contains(&answer.code), "{name}: {answer:?}");
    }
    kit.ok("sam", &kit::import_arguments(&file, "visits"));
    kit.refused("sam", &kit::import_arguments(&file, "visits"), CONFLICT, &["visits"]);
    assert_eq!(kit.inventory()["datasets"], serde_json::json!(["visits"]));
}

#[test]
fn a_certificate_of_another_appliance_or_a_revoked_one_opens_no_door() {
    let (kit, other) = (Kit::start(), Kit::start());
    // The other's certificate and key, with this appliance's CA, so that the refusal is the daemon's.
    let stranger = other.identity("sam");
    fs::copy(kit.identity("sam").join("ca.pem"), stranger.join("ca.pem")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister"));
    command.arg("--socket").arg(kit.socket()).arg("--identity").arg(&stranger).arg("status");
    let output = command.output().unwrap();
    let said = kit::appliance::text(&output.stderr);
    assert!(!output.status.success() && said.starts_with("cloister: "), "{said}");
    assert!(said.contains("certificate"), "{said}");

    kit.ok("alice", &["user", "revoke", "sam"]);
    assert_ne!(kit.cloister("sam", &["status"]).code, 0);
    kit.ok("alice", &["status"]);
}

#[test]
fn a_second_daemon_on_the_same_folder_ends_at_once() {
    let kit = Kit::start();
    let output = kit.cloisterd().arg("run").output().unwrap();
    let said = kit::appliance::text(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(&kit::path(&kit.state())), "it does not say which folder is taken: {said}");
    kit.ok("alice", &["status"]);
    // Nor does a second `init` make new keys over the old.
    let output = kit.cloisterd().args(["init", "--admin", "eve"]).output().unwrap();
    assert!(!output.status.success());
    kit.ok("alice", &["status"]);
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_its_line() {
    let kit = Kit::start();
    let text = fs::read_to_string(kit.config()).unwrap();
    let lines = text.lines().count();
    let file = kit.file("wrong.toml", format!("{text}no_such_key = 1\n"));
    let output = Command::new(env!("CARGO_BIN_EXE_cloisterd")).args(["--config", &file, "run"]).output().unwrap();
    let said = kit::appliance::text(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("no_such_key") && said.contains(&format!("line {}", lines + 1)), "{said}");
}

#[test]
fn a_full_disk_refuses_the_import_and_fails_the_job_and_both_work_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path()) else {
        println!("skipped: a full disk: mounting a small file system needs root's rights");
        return;
    };
    let mut kit = Kit::start_in(folder, "");
    kit.equip();
    kit.dataset("visits", 24);

    // Importing: far more than there is room for.
    let desk = tempfile::tempdir().unwrap();
    let large = desk.path().join("large.csv");
    fs::write(&large, kit::dialogues(24) + &"CC,Cough.,Doctor: Hello?\n".repeat(3_000_000)).unwrap();
    let before = kit.inventory();
    kit.refused("sam", &kit::import_arguments(&kit::path(&large), "large"), FAILED, &["space"]);
    assert_eq!(kit.inventory(), before);

    // Checkpointing: the disk fills up while a job runs.
    let recipe = kit.recipe("notes", kit::LONG);
    let client = kit.spawn("tess", &["train", &recipe]);
    kit.wait_for_job("checkpoint", |job| job["checkpoint_step"].as_u64().is_some_and(|step| step >= 2));
    let ballast = kit.desk().join("ballast");
    fill(&ballast);
    let output = client.wait_with_output().unwrap();
    fs::remove_file(&ballast).unwrap();
    assert_eq!(output.status.code(), Some(FAILED), "{}", kit::appliance::text(&output.stderr));
    let job = kit.last_job().unwrap();
    assert_eq!(job["state"]["state"], "failed", "{job}");
    assert!(job["state"]["reason"].as_str().unwrap().contains("space"), "{job}");

    kit.restart();
    kit.ok("tess", &["job", "resume", job["id"].as_str().unwrap()]);
    kit.wait_for_job("end", |job| job["state"]["state"] == "done");
    assert_eq!(kit.json("tess", &["adapter", "show", "notes"])["summary"]["steps"], 60);
    assert_eq!(kit.json("ada", &["audit", "verify"])["verified"], true);
}

fn truncate_weights(model: &Path) {
    let file = fs::File::options().write(true).open(model.join("model.safetensors")).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length / 2).unwrap();
}

fn pickle(model: &Path) {
    fs::remove_file(model.join("model.safetensors")).unwrap();
    fs::write(model.join("pytorch_model.bin"), b"\x80\x02}q\x00.").unwrap();
}

fn set(model: &Path, key: &str, value: impl Into<Value>) {
    let file = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config[key] = value.into();
    fs::write(file, config.to_string()).unwrap();
}

/// Writes until nothing more fits.
fn fill(file: &Path) {
    use std::io::Write;
    let mut file = fs::File::create(file).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![0x55; size]).is_ok() {}
    }
}

/// A file system with room for a model and a few adapters.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon's files may be open for a moment yet.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
