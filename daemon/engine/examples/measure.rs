//! Loads a model folder and says what it costs: `measure DIR [none|nf4] [threads]`. With one thread it counts the
//! processor's seconds and not the clock's, so that a busy machine does not change the figures.
#![allow(missing_docs)]

use std::time::Instant;

use anyhow::Context;
use cloister_engine::generate::{Event, Request, Scheduler};
use cloister_engine::memory::PeakRss;
use cloister_engine::model::{Decoder, LoadOptions, ModelFiles, Quantization, Tokenizer};
use cloister_wire::engine::Sampling;
use tch::Device;

const ANSWER: u32 = 64;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().context("usage: measure DIR [none|nf4] [threads]")?;
    let quantization = match arguments.get(1).map(String::as_str) {
        Some("none") => Quantization::None,
        _ => Quantization::Nf4 { double: true },
    };
    tch::set_num_threads(arguments.get(2).map_or(Ok(2), |n| n.parse())?);
    let peak = PeakRss::open()?;
    let files = ModelFiles::open_folder(folder.as_ref())?;
    let start = seconds()?;
    let decoder = Decoder::load(&files, &LoadOptions::new(Device::Cpu, quantization))?;
    let tokenizer = Tokenizer::load(&files)?;
    let info = decoder.info();
    println!("load: {:.2} s, {} M parameters", seconds()? - start, info.parameters / 1_000_000);
    println!("weights {} MB, peak RSS {} MB", info.weight_bytes >> 20, peak.bytes() >> 20);
    let prefill = tokens_per_second(&decoder, &tokenizer, 1, 256, 1)?;
    println!("prefill of 256 tokens: {prefill:.0} tokens/s");
    for sequences in [1, 4, 8, 16] {
        let decode = tokens_per_second(&decoder, &tokenizer, sequences, 8, ANSWER)?;
        println!("{sequences} sequences side by side: {decode:.1} tokens/s");
    }
    println!("peak RSS {} MB", peak.bytes() >> 20);
    Ok(())
}

/// Tokens a second: of the prompt when one token is asked for, else of the answers.
fn tokens_per_second(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    sequences: u64,
    prompt: u32,
    answer: u32,
) -> anyhow::Result<f64> {
    let mut scheduler = Scheduler::new(decoder, tokenizer);
    for id in 0..sequences {
        let prompt = (0..prompt).map(|i| 100 + (i * 7 + id as u32) % 900).collect();
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, max_tokens: Some(answer), stop: Vec::new(), seed: 0 };
        scheduler.submit(Request { id, adapter: None, prompt, sampling })?;
    }
    let start = seconds()?;
    let mut written = 0;
    while !scheduler.is_idle() {
        for event in scheduler.step()? {
            if let Event::Finished { completion_tokens, .. } = event {
                written += completion_tokens;
            }
        }
    }
    let tokens = if answer == 1 { u64::from(prompt) } else { written };
    Ok(tokens as f64 / (seconds()? - start))
}

/// Seconds that the main thread has computed, or with several threads the clock's.
fn seconds() -> anyhow::Result<f64> {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    if tch::get_num_threads() > 1 {
        return Ok(START.get_or_init(Instant::now).elapsed().as_secs_f64());
    }
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds: u64 = text.split_whitespace().next().context("no schedstat")?.parse()?;
    Ok(nanoseconds as f64 / 1e9)
}
