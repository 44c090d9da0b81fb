//! What the engine's tests share: the tiny model, records, and the daemon's side of a task as a list.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::PathBuf;

use cloister_engine::model::{Decoder, LoadOptions, ModelFiles, Quantization, Tokenizer};
use cloister_engine::task::{Inputs, TaskIo};
use cloister_wire::engine::{FilePiece, FromEngine, RecordSet};
use cloister_wire::frame::FrameError;
use cloister_wire::recipe::Recipe;
use cloister_wire::record::{Message, Record};
use tch::{Device, Kind};

pub const NF4: Quantization = Quantization::Nf4 { double: true };

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn decoder(quantization: Quantization) -> Decoder {
    let files = ModelFiles::open_folder(&fixture("tiny")).unwrap();
    Decoder::load(&files, &LoadOptions { device: Device::Cpu, quantization, kind: Kind::Float }).unwrap()
}

pub fn tokenizer() -> Tokenizer {
    Tokenizer::load(&ModelFiles::open_folder(&fixture("tiny")).unwrap()).unwrap()
}

/// A task for the tiny base: the three names, then the given lines of TOML.
pub fn recipe(rest: &str) -> Recipe {
    Recipe::parse(&format!("name = \"notes\"\nbase = \"tiny\"\ndataset = \"visits\"\nseed = 4\n{rest}")).unwrap()
}

/// Questions whose answers follow from them: something to learn.
pub fn records(rows: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    rows.map(|row| {
        let word = ["ache", "fever", "cough", "rash"][row as usize % 4];
        let messages =
            vec![Message::new("user", format!("{row}: has {word}")), Message::new("assistant", format!("has {word}."))];
        Record { row, messages }
    })
    .collect()
}

pub fn inputs(train: &[Record], held_out: &[Record]) -> Inputs {
    let mut inputs = Inputs::default();
    for (set, records) in [(RecordSet::Train, train), (RecordSet::HeldOut, held_out)] {
        for record in records {
            inputs.records_piece(set, &[serde_json::to_vec(record).unwrap(), b"\n".to_vec()].concat());
        }
    }
    inputs
}

/// The daemon's side: keeps what is sent, and asks to stop when told.
#[derive(Default)]
pub struct Daemon {
    pub messages: Vec<FromEngine>,
    pub files: std::collections::BTreeMap<String, Vec<u8>>,
    open: Option<String>,
    /// Asks to stop when it has been asked so often whether to.
    pub stop_at: Option<usize>,
    asked: usize,
}

impl TaskIo for Daemon {
    fn send(&mut self, message: FromEngine, blob: &[u8]) -> Result<(), FrameError> {
        if let FromEngine::File(FilePiece { name, last }) = &message {
            if self.open.as_ref() != Some(name) {
                self.files.insert(name.clone(), Vec::new());
            }
            self.files.get_mut(name).unwrap().extend_from_slice(blob);
            self.open = (!last).then(|| name.clone());
        }
        self.messages.push(message);
        Ok(())
    }

    fn stopped(&mut self) -> bool {
        self.asked += 1;
        self.stop_at.is_some_and(|at| self.asked > at)
    }

    fn peak_rss_bytes(&self) -> u64 {
        1
    }
}

impl Daemon {
    pub fn stopping_at(stop_at: usize) -> Self {
        Daemon { stop_at: Some(stop_at), ..Daemon::default() }
    }

    /// The losses of the steps that were reported.
    pub fn losses(&self) -> Vec<f64> {
        let loss = |message: &FromEngine| match message {
            FromEngine::Progress(progress) => progress.loss,
            _ => None,
        };
        self.messages.iter().filter_map(loss).collect()
    }
}

pub fn send_file(inputs: &mut Inputs, name: &str, bytes: &[u8]) {
    inputs.file_piece(FilePiece { name: name.into(), last: true }, bytes);
}
