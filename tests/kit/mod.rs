//! The test kit: an appliance in a temporary folder, ready to be asked as any of its users.
//!
//! Everything goes through the real binaries, as a person would; nothing of the daemon is linked. A test says what
//! it needs: [`Kit::start`] for people alone, [`Kit::equipped`] for a base model and plugins as well.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "appliance.rs"]
pub(crate) mod appliance;
#[path = "search.rs"]
pub(crate) mod search;

use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use appliance::Appliance;
use serde_json::Value;
use tempfile::TempDir;

/// Exit codes of the CLI.
pub(crate) const FAILED: i32 = 1;
pub(crate) const DENIED: i32 = 3;
pub(crate) const NOT_FOUND: i32 = 4;
pub(crate) const CONFLICT: i32 = 5;
pub(crate) const UNAVAILABLE: i32 = 6;

/// Longest that any test waits for a job of its few records.
const PATIENCE: Duration = Duration::from_secs(120);

/// An appliance and its folder, both of which end with the test.
pub(crate) struct Kit {
    // Before the folder, so that the daemon has ended when that is removed.
    appliance: Appliance,
    folder: TempDir,
}

/// What `cloister` answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Kit {
    /// A running daemon with an administrator (alice), a steward (sam), a trainer who may approve as well (tess),
    /// two approvers (ann, bob), an auditor (ada) and a user (uma).
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "")
    }

    /// The same with a base model `demo` and the plugins.
    pub(crate) fn equipped() -> Self {
        let kit = Self::start();
        kit.equip();
        kit
    }

    /// The same in a folder of the test's own making, with more configuration.
    pub(crate) fn start_in(folder: TempDir, configuration: &str) -> Self {
        let appliance = Appliance::create(&binaries(), &folder.path().join("appliance"), configuration).unwrap();
        let mut kit = Self { appliance, folder };
        kit.appliance.start().unwrap();
        let people = [
            ("sam", &["steward"][..]),
            ("tess", &["trainer", "approver"]),
            ("ann", &["approver"]),
            ("bob", &["approver"]),
            ("ada", &["auditor"]),
            ("uma", &["user"]),
        ];
        people.iter().for_each(|(name, roles)| kit.appliance.add_user(name, roles).unwrap());
        kit
    }

    /// Imports the base model and installs the plugins.
    pub(crate) fn equip(&self) {
        self.ok("alice", &["model", "import", &path(&base_model()), "--name", "demo"]);
        for plugin in ["redact", "quality"] {
            self.ok("alice", &["plugin", "install", &path(&plugins().join(format!("{plugin}.wasm")))]);
        }
    }

    /// Ends the daemon in order and starts it again.
    pub(crate) fn restart(&mut self) {
        self.appliance.stop().unwrap();
        self.appliance.start().unwrap();
    }

    /// A folder outside of the appliance's, for what people bring.
    pub(crate) fn desk(&self) -> PathBuf {
        let desk = self.folder.path().join("desk");
        std::fs::create_dir_all(&desk).unwrap();
        desk
    }

    /// Puts a file on the desk and gives its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let file = self.desk().join(name);
        std::fs::write(&file, content).unwrap();
        path(&file)
    }

    /// Asks as a user, whatever comes of it.
    pub(crate) fn cloister(&self, user: &str, arguments: &[&str]) -> Answer {
        let output = self.appliance.run(user, arguments).unwrap();
        Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: appliance::text(&output.stdout),
            stderr: appliance::text(&output.stderr),
        }
    }

    /// Asks for what must succeed.
    pub(crate) fn ok(&self, user: &str, arguments: &[&str]) -> String {
        self.appliance.succeed(user, arguments).unwrap_or_else(|error| panic!("{error:#}\n{}", self.log_tail(20)))
    }

    /// Asks for what must succeed, with `--json`.
    pub(crate) fn json(&self, user: &str, arguments: &[&str]) -> Value {
        self.appliance.json(user, arguments).unwrap_or_else(|error| panic!("{error:#}\n{}", self.log_tail(20)))
    }

    /// Asks for what must be refused: with this code, in one line that holds all of `words`, and a remedy.
    #[track_caller]
    pub(crate) fn refused(&self, user: &str, arguments: &[&str], code: i32, words: &[&str]) -> Answer {
        let answer = self.cloister(user, arguments);
        let line = arguments.join(" ");
        assert_eq!(answer.code, code, "`cloister {line}` said {answer:?}");
        let error = answer.stderr.lines().find(|line| line.starts_with("cloister: "));
        let error = error.unwrap_or_else(|| panic!("`cloister {line}` gave no error line: {answer:?}"));
        for word in words {
            assert!(answer.stderr.contains(word), "`cloister {line}` does not say `{word}`: {}", answer.stderr);
        }
        assert!(error.len() < 600, "the error of `cloister {line}` is no line to read: {error}");
        answer
    }

    /// Asks for what policy must deny, by this rule.
    #[track_caller]
    pub(crate) fn denied(&self, user: &str, arguments: &[&str], rule: &str) {
        let answer = self.refused(user, arguments, DENIED, &[&format!("rule: {rule}")]);
        assert!(answer.stderr.contains("next: "), "the denial names no remedy: {}", answer.stderr);
    }

    /// Starts `cloister` as a user and leaves it running.
    pub(crate) fn spawn(&self, user: &str, arguments: &[&str]) -> Child {
        let mut command = self.appliance.command(user, arguments);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    }

    /// Imports so many dialogues as a dataset, and cleans it.
    pub(crate) fn dataset(&self, name: &str, rows: usize) {
        self.import(name, &dialogues(rows));
        self.ok("sam", &["dataset", "clean", name]);
    }

    /// Imports a CSV text with the columns of [`dialogues`].
    pub(crate) fn import(&self, name: &str, csv: &str) {
        let file = self.file(&format!("{name}.csv"), csv);
        self.ok("sam", &import_arguments(&file, name));
        // What a person brought is not the appliance's to keep.
        std::fs::remove_file(file).unwrap();
    }

    /// A small recipe on the desk: an adapter `name` of the dataset `visits`; `more` is TOML behind it.
    pub(crate) fn recipe(&self, name: &str, more: &str) -> String {
        let head = format!("name = \"{name}\"\nbase = \"demo\"\ndataset = \"visits\"\npurpose = \"clinical-notes\"\n");
        self.file(&format!("{name}.toml"), format!("{head}seed = 7\ndevice = \"cpu\"\n{more}"))
    }

    /// Trains a small adapter to its end.
    pub(crate) fn train(&self, name: &str) {
        self.ok("tess", &["train", &self.recipe(name, QUICK)]);
    }

    /// Evaluates, has two people approve, and serves.
    pub(crate) fn release(&self, adapter: &str) {
        self.evaluate(adapter);
        self.ok("ann", &["adapter", "approve", adapter]);
        self.ok("bob", &["adapter", "approve", adapter]);
        self.ok("ann", &["serve", adapter]);
    }

    /// Evaluates on what training held out.
    pub(crate) fn evaluate(&self, adapter: &str) {
        self.ok("tess", &["adapter", "evaluate", adapter, "--generate", "2", "--max-tokens", "16"]);
    }

    /// The newest job, as the contract has it.
    pub(crate) fn last_job(&self) -> Option<Value> {
        let jobs = self.json("tess", &["job", "list"]);
        jobs.as_array().and_then(|jobs| jobs.iter().max_by_key(|job| job["id"].as_str().map(number))).cloned()
    }

    /// Waits until the newest job answers to something, and gives it.
    pub(crate) fn wait_for_job(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.wait_for(what, || self.last_job().filter(&holds))
    }

    /// Waits until there is something.
    pub(crate) fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "no {what} after {PATIENCE:?}: {}", self.log_tail(20));
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Names of everything that exists, by kind.
    pub(crate) fn inventory(&self) -> Value {
        let names = |user: &str, kind: &str| -> Vec<Value> {
            let all = self.json(user, &[kind, "list"]);
            all.as_array().unwrap().iter().map(|one| one["name"].clone()).collect()
        };
        serde_json::json!({
            "models": names("alice", "model"),
            "datasets": names("sam", "dataset"),
            "adapters": names("tess", "adapter"),
            "plugins": names("alice", "plugin"),
            "users": names("alice", "user"),
        })
    }
}

impl Deref for Kit {
    type Target = Appliance;

    fn deref(&self) -> &Appliance {
        &self.appliance
    }
}

impl DerefMut for Kit {
    fn deref_mut(&mut self) -> &mut Appliance {
        &mut self.appliance
    }
}

/// Training that takes seconds.
pub(crate) const QUICK: &str = "held_out = 0.1\n[lora]\nrank = 4\nalpha = 8\n\
    [training]\nmax_steps = 6\nbatch_size = 4\nlearning_rate = 1e-3\nover_long = \"drop\"\n\
    evaluate_every = 0\ncheckpoint_every = 2\n";

/// Training that goes on until somebody does something about it, with a sealed checkpoint every two steps.
pub(crate) const LONG: &str = "held_out = 0.1\n[lora]\nrank = 4\nalpha = 8\n\
    [training]\nmax_steps = 60\nepochs = 1000\nbatch_size = 4\nlearning_rate = 1e-3\nover_long = \"drop\"\n\
    evaluate_every = 0\ncheckpoint_every = 2\n";

/// How a dialogue becomes a record.
pub(crate) const PROMPT: &str = "Write the {section_header} section.\n\n{dialogue}";

/// `cloister dataset import` of a file in the columns of [`dialogues`].
pub(crate) fn import_arguments<'a>(file: &'a str, name: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["dataset", "import", file, "--name", name, "--format", "csv", "--label", "phi"];
    arguments.extend(["--purpose", "clinical-notes", "--prompt", PROMPT, "--answer", "section_text"]);
    arguments
}

/// So many of the shorter dialogues of MTS-Dialog, as CSV.
pub(crate) fn dialogues(rows: usize) -> String {
    dialogues_with(rows, "")
}

/// The same, with a text at the end of one record's prompt and answer.
pub(crate) fn dialogues_with(rows: usize, mark: &str) -> String {
    let file = appliance::repository().join("packaging/demo/data/train.csv");
    let mut reader = csv::Reader::from_path(file).unwrap();
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["section_header", "section_text", "dialogue"]).unwrap();
    let all = reader.records().map(Result::unwrap);
    let short = all.filter(|row| (200..900).contains(&row[3].len()) && (20..400).contains(&row[2].len()));
    for (index, row) in short.take(rows).enumerate() {
        let mark = if index == rows / 2 { mark } else { "" };
        writer.write_record([&row[1], &format!("{} {mark}", &row[2]), &format!("{}\n{mark}", &row[3])]).unwrap();
    }
    String::from_utf8(writer.into_inner().unwrap()).unwrap()
}

/// The embedded base model.
pub(crate) fn base_model() -> PathBuf {
    appliance::repository().join("packaging/demo/model")
}

/// A copy of the base model in a folder, to be spoilt.
pub(crate) fn copy_model(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(base_model()).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Where cargo put `cloisterd`, and beside it the workers, which are other packages' binaries.
pub(crate) fn binaries() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_cloisterd")).parent().unwrap().to_path_buf();
    let mut missing = String::new();
    for worker in ["cloister-engine", "cloister-sandbox"] {
        if !folder.join(worker).exists() {
            write!(missing, " `{worker}`").unwrap();
        }
    }
    assert!(missing.is_empty(), "{} lacks{missing}: run `cargo xtask build` first", folder.display());
    folder
}

/// Where `cargo xtask plugins` puts its components.
pub(crate) fn plugins() -> PathBuf {
    let folder = binaries().parent().unwrap().join("plugins");
    assert!(folder.join("redact.wasm").exists(), "no plugins in {}: run `cargo xtask plugins` first", folder.display());
    folder
}

/// As an argument.
pub(crate) fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The number at the end of a job's id, such as `train-0001`: later jobs have greater ones.
fn number(id: &str) -> u64 {
    id.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
