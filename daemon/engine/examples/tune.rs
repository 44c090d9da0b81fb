//! Trains and evaluates without the daemon, to measure: speed, memory, and what a recipe gives.
//!
//! usage: tune MODEL_FOLDER RECIPE.toml TRAIN.jsonl HELD_OUT.jsonl ANSWERS MAX_TOKENS
//! Both record files hold one `cloister_wire::record::Record` a line.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use cloister_engine::memory::PeakRss;
use cloister_engine::model::{Decoder, LoadOptions, ModelFiles, Quantization, Tokenizer};
use cloister_engine::task::{Inputs, TaskIo};
use cloister_engine::{device, evaluate, train};
use cloister_wire::engine::{EvaluateTask, FilePiece, FromEngine, RecordSet, TrainTask};
use cloister_wire::frame::FrameError;
use cloister_wire::recipe::{BaseFormat, Recipe};

struct Terminal {
    peak: PeakRss,
    files: BTreeMap<String, Vec<u8>>,
}

impl TaskIo for Terminal {
    fn send(&mut self, message: FromEngine, blob: &[u8]) -> Result<(), FrameError> {
        match message {
            FromEngine::File(piece) => self.files.entry(piece.name).or_default().extend_from_slice(blob),
            FromEngine::Progress(p) => println!(
                "step {}/{} loss {:.4} lr {:.2e} norm {:.2} {:.0} tokens/s {} MB, {:.0} s left",
                p.step,
                p.steps,
                p.loss.unwrap_or(f64::NAN),
                p.learning_rate,
                p.grad_norm,
                p.tokens_per_s,
                p.peak_rss_bytes >> 20,
                p.seconds_left
            ),
            FromEngine::Evaluating { .. } => {}
            other => println!("{other:?}"),
        }
        Ok(())
    }

    fn stopped(&mut self) -> bool {
        false
    }

    fn peak_rss_bytes(&self) -> u64 {
        self.peak.bytes()
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, recipe, train_file, held_out_file, answers, max_tokens] = arguments.as_slice() else {
        return Err(anyhow!("usage: tune MODEL_FOLDER RECIPE.toml TRAIN.jsonl HELD_OUT.jsonl ANSWERS MAX_TOKENS"));
    };
    let recipe = Recipe::parse(&std::fs::read_to_string(recipe).context("the recipe")?)?;
    let files = ModelFiles::open_folder(model.as_ref())?;
    let quantization = match recipe.quantization.base {
        BaseFormat::Nf4 => Quantization::Nf4 { double: recipe.quantization.double },
        BaseFormat::None => Quantization::None,
    };
    let decoder = Decoder::load(&files, &LoadOptions::new(device::parse(&recipe.device)?, quantization))?;
    let tokenizer = Tokenizer::load(&files)?;
    let mut inputs = Inputs::default();
    inputs.records_piece(RecordSet::Train, &std::fs::read(train_file)?);
    inputs.records_piece(RecordSet::HeldOut, &std::fs::read(held_out_file)?);

    let mut terminal = Terminal { peak: PeakRss::open()?, files: BTreeMap::new() };
    println!("loaded: {} MB", terminal.peak_rss_bytes() >> 20);
    train::run(&mut terminal, &decoder, &tokenizer, &TrainTask { recipe, resume: false }, &inputs)?;
    for (name, bytes) in std::mem::take(&mut terminal.files) {
        inputs.file_piece(FilePiece { name, last: true }, &bytes);
    }
    let task = EvaluateTask { generate: answers.parse()?, max_tokens: max_tokens.parse()? };
    let began = std::time::Instant::now();
    evaluate::run(&mut terminal, &decoder, &tokenizer, &task, &inputs)?;
    println!("evaluated in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}
