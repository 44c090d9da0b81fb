//! The real `cloister-engine` over a socket pair: confined, says the kernel; a whole task runs confined; and where it
//! cannot be confined, it does not run. What a profile denies is tried in `cloister-confine`'s own tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kit;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use cloister_engine::adapt::peft;
use cloister_wire::engine::{
    EvaluateTask, FilePiece, FromEngine, Generate, Open, Prompt, RecordSet, Sampling, ToEngine, TrainTask,
};
use cloister_wire::frame::{Channel, Frame};
use cloister_wire::recipe::Quantization;
use kit::{Daemon, fixture, recipe, records};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const ENGINE: &str = env!("CARGO_BIN_EXE_cloister-engine");
/// Set in the child that takes a part of the kernel away and then becomes the engine.
const WITHOUT: &str = "CLOISTER_ENGINE_TEST_WITHOUT";

struct Engine {
    channel: Channel,
    child: Child,
}

impl Engine {
    fn start() -> Self {
        Self::of(&mut Command::new(ENGINE))
    }

    /// On a kernel that lacks `part`.
    fn without(part: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self::of(command.args(["--exact", "becomes_an_engine_on_a_lesser_kernel", "--nocapture"]).env(WITHOUT, part))
    }

    fn of(command: &mut Command) -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        command.stdin(Stdio::from(OwnedFd::from(theirs.into_stream()))).stdout(Stdio::null()).stderr(Stdio::piped());
        Self { channel: ours, child: command.spawn().unwrap() }
    }

    fn send(&mut self, message: &ToEngine, blob: &[u8]) {
        self.channel.send_with(message, blob, &[]).unwrap();
    }

    fn recv(&mut self) -> Frame<FromEngine> {
        match self.channel.recv().unwrap() {
            Some(Frame { message: FromEngine::Failed(failure), .. }) => panic!("the task failed: {failure:?}"),
            frame => frame.expect("the engine answers"),
        }
    }

    fn open_tiny(&mut self) {
        let folder = std::fs::read_dir(fixture("tiny")).unwrap().map(|entry| entry.unwrap().path());
        let paths: Vec<_> = folder.filter(|path| path.is_file()).collect();
        let files = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        let opened: Vec<File> = paths.iter().map(|path| File::open(path).unwrap()).collect();
        let descriptors: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
        let open = Open { files, device: "cpu".into(), quantization: Quantization::default(), threads: 2 };
        self.channel.send_with(&ToEngine::Open(open), &[], &descriptors).unwrap();
    }

    fn send_records(&mut self, set: RecordSet, rows: std::ops::RangeInclusive<u64>) {
        let lines: Vec<String> = records(rows).iter().map(|record| serde_json::to_string(record).unwrap()).collect();
        self.send(&ToEngine::Records { set }, lines.join("\n").as_bytes());
    }

    fn send_adapter(&mut self, trained: &Daemon) {
        for name in [peft::CONFIG_FILE, peft::WEIGHTS_FILE] {
            self.send(&ToEngine::File(FilePiece { name: name.into(), last: true }), &trained.files[name]);
        }
    }

    /// What the kernel says of it.
    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// Whether it succeeded, and what it said on standard error.
    fn end(mut self) -> (bool, String) {
        self.channel.shutdown();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().success(), said)
    }
}

fn assert_confined(engine: &Engine) {
    let status = engine.proc("status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!((field("Seccomp:").as_str(), field("Seccomp_filters:").as_str()), ("2", "3"));
    let limits = engine.proc("limits");
    for (name, value) in [("Max core file size", "0"), ("Max file size", "0"), ("Max open files", "192")] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().collect::<Vec<_>>()[..2], [value, value], "{line}");
    }
}

/// Every thread, those of libtorch included.
fn assert_every_thread_is_filtered(engine: &Engine) {
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", engine.child.id())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
        threads += 1;
    }
    assert!(threads > 1, "the reader at least has a thread of its own");
}

fn train() -> Daemon {
    let mut engine = Engine::start();
    engine.open_tiny();
    let recipe = recipe("[lora]\nrank = 4\ndropout = 0.1\n[training]\nbatch_size = 4\nmax_steps = 3\n");
    engine.send(&ToEngine::Train(TrainTask { recipe, resume: false }), &[]);
    engine.send_records(RecordSet::Train, 1..=12);
    engine.send_records(RecordSet::HeldOut, 13..=16);
    engine.send(&ToEngine::Begin, &[]);
    let mut kept = Daemon::default();
    loop {
        let Frame { message, blob, .. } = engine.recv();
        let ended = matches!(message, FromEngine::Trained(_));
        if matches!(message, FromEngine::Opened(_)) {
            assert_confined(&engine);
            assert_every_thread_is_filtered(&engine);
        }
        cloister_engine::task::TaskIo::send(&mut kept, message, &blob).unwrap();
        if ended {
            assert!(engine.end().0);
            return kept;
        }
    }
}

fn evaluate(trained: &Daemon) {
    let mut engine = Engine::start();
    engine.open_tiny();
    engine.send(&ToEngine::Evaluate(EvaluateTask { generate: 2, max_tokens: 8 }), &[]);
    engine.send_records(RecordSet::HeldOut, 13..=16);
    engine.send_adapter(trained);
    engine.send(&ToEngine::Begin, &[]);
    while !matches!(engine.recv().message, FromEngine::Evaluated(_)) {}
    assert!(engine.end().0);
}

fn serve(trained: &Daemon) {
    let mut engine = Engine::start();
    engine.open_tiny();
    engine.send(&ToEngine::Serve, &[]);
    engine.send_adapter(trained);
    engine.send(&ToEngine::AddAdapter { adapter: "notes".into() }, &[]);
    while !matches!(engine.recv().message, FromEngine::AdapterReady { .. }) {}
    let sampling = Sampling { temperature: 0.7, top_p: 0.9, max_tokens: Some(8), stop: Vec::new(), seed: 1 };
    let prompt = Prompt::Text("has".into());
    engine.send(&ToEngine::Generate(Generate { id: 1, adapter: Some("notes".into()), prompt, sampling }), &[]);
    while !matches!(engine.recv().message, FromEngine::Finished { id: 1, .. }) {}
    assert_confined(&engine);
    engine.end();
}

#[test]
fn a_whole_task_of_each_kind_runs_confined() {
    let trained = train();
    evaluate(&trained);
    serve(&trained);
}

#[test]
fn an_engine_is_confined_before_it_is_sent_a_byte() {
    let engine = Engine::start();
    // Confined is what it waits for input as; loading libtorch takes a while.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !engine.proc("status").contains("Seccomp_filters:\t3") && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_confined(&engine);
}

#[test]
fn an_engine_that_cannot_be_confined_says_so_and_ends() {
    let mut engine = Engine::without("seccomp");
    let answer = engine.channel.recv::<FromEngine>().unwrap().expect("a reason").message;
    let FromEngine::Failed(failure) = answer else { panic!("{answer:?}") };
    assert!(failure.message.contains("refuses to run unconfined: the system-call filter"), "{}", failure.message);
    assert!(engine.channel.recv::<FromEngine>().unwrap().is_none(), "it has ended");
    let (succeeded, said) = engine.end();
    assert!(!succeeded && said.contains("refusing to run unconfined"), "{said}");
}

#[test]
fn an_engine_without_landlock_warns_once_and_works() {
    let mut engine = Engine::without("landlock");
    engine.open_tiny();
    engine.send(&ToEngine::Inspect, &[]);
    assert!(matches!(engine.recv().message, FromEngine::Inspected(_)));
    let (_, said) = engine.end();
    assert_eq!(said.matches("does not enforce landlock").count(), 1, "{said}");
}

#[test]
fn becomes_an_engine_on_a_lesser_kernel() {
    let Ok(part) = std::env::var(WITHOUT) else { return };
    let calls: &[i64] = match part.as_str() {
        "seccomp" => &[libc::SYS_seccomp],
        _ => &[libc::SYS_landlock_create_ruleset],
    };
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, missing, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
    panic!("{}", Command::new(ENGINE).exec());
}
