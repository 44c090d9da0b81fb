//! A real `cloister-sandbox` over a socket pair, and the guests that `cargo xtask plugins` built.
#![allow(missing_docs, unreachable_pub, dead_code)] // each test file uses its part

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use cloister_wire::{
    frame::{Channel, Frame, FrameError},
    record::{Message, Record},
    sandbox::{Description, FromSandbox, Limits, Outcome, PluginWorld, RecordResult, ToSandbox},
};

pub struct Sandbox {
    channel: Channel,
    child: Child,
}

impl Sandbox {
    pub fn start() -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_cloister-sandbox"))
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs.into_stream())))
            .stderr(Stdio::piped()) // a log that is a plain file would lift a limit
            .spawn()
            .unwrap();
        Self { channel: ours, child }
    }

    /// A sandbox with `name` loaded.
    pub fn with(name: &str, world: PluginWorld, limits: Limits) -> (Self, Description) {
        let mut sandbox = Self::start();
        match sandbox.load(&guest(name), world, limits) {
            FromSandbox::Loaded(description) => (sandbox, description),
            other => panic!("`{name}` was not loaded: {other:?}"),
        }
    }

    pub fn load(&mut self, component: &[u8], world: PluginWorld, limits: Limits) -> FromSandbox {
        self.ask(&ToSandbox::Load { world, limits }, component).message
    }

    /// The outcomes, and the records that were kept.
    pub fn run(&mut self, records: &[Record]) -> (Vec<Outcome>, Vec<Record>) {
        let lines: Vec<String> = records.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
        let answer = self.ask(&ToSandbox::Run { batch: 7 }, lines.join("\n").as_bytes());
        let FromSandbox::Ran { batch: 7, outcomes } = answer.message else { panic!("not run: {:?}", answer.message) };
        let kept = answer.blob.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        (outcomes, kept.map(|line| serde_json::from_slice(line).unwrap()).collect())
    }

    pub fn ask(&mut self, message: &ToSandbox, blob: &[u8]) -> Frame<FromSandbox> {
        self.channel.send_with(message, blob, &[]).unwrap();
        self.answer().unwrap().expect("the sandbox answers")
    }

    pub fn answer(&mut self) -> Result<Option<Frame<FromSandbox>>, FrameError> {
        self.channel.recv()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.channel.shutdown();
        let _ = self.child.wait();
    }
}

/// The component that `cargo xtask plugins` made of `name`.
pub fn guest(name: &str) -> Vec<u8> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")), PathBuf::from);
    let path = target.join("plugins").join(name).with_extension("wasm");
    std::fs::read(&path).unwrap_or_else(|e| panic!("`{}`: {e}; run `cargo xtask plugins` first", path.display()))
}

pub fn record(row: u64, content: &str) -> Record {
    Record { row, messages: vec![Message::new("user", content), Message::new("assistant", "Noted.")] }
}

/// The reason why the record of `outcome` failed.
pub fn failure(outcome: &Outcome) -> &str {
    match &outcome.result {
        RecordResult::Failed { reason } => reason,
        other => panic!("row {} did not fail: {other:?}", outcome.row),
    }
}

pub fn quick() -> Limits {
    Limits { fuel_per_record: 200_000_000, ..Limits::default() }
}
