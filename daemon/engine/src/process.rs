//! The engine as a process: one connection, one model, one task. A thread reads frames, so that `Ping` and
//! `Stop` are heard while the task computes; the task itself runs on the main thread.
//!
//! INVARIANT: whatever goes wrong in a task, a panic of libtorch included, ends as one `Failed` message.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use cloister_wire::engine::{Failure, FailureKind, FromEngine, ModelInfo, Open, ToEngine};
use cloister_wire::frame::{Channel, Frame, FrameError};
use cloister_wire::recipe::BaseFormat;

use crate::memory::PeakRss;
use crate::model::{Decoder, LoadOptions, ModelError, ModelFiles, Quantization, Tokenizer, first_line, inspect};
use crate::task::{Inputs, TaskError, TaskIo};
use crate::{device, evaluate, generate, train};

/// What the process took hold of before it was confined.
#[derive(Debug)]
pub struct Resources {
    /// Its own memory figures.
    pub peak_rss: PeakRss,
    /// Processors it may use.
    pub cores: usize,
}

/// Serves one connection to its end. Says whether the task succeeded.
pub fn run(channel: Channel, resources: Resources) -> Result<bool, FrameError> {
    let reader = channel.try_clone()?;
    let shared =
        Arc::new(Shared { writer: Mutex::new(channel), stop: AtomicBool::new(false), peak_rss: resources.peak_rss });
    let (sender, frames) = self::channel();
    let listener = shared.clone();
    // The thread ends with the connection, and the process with the task: nobody waits for it.
    std::thread::spawn(move || listen(reader, &listener, &sender));
    let mut io = Io { shared };
    let task = AssertUnwindSafe(|| task(&mut io, &frames, resources.cores));
    let failure = match catch_unwind(task) {
        Ok(Ok(())) => return Ok(true),
        Ok(Err(TaskError::Frame(error))) => return Err(error),
        Ok(Err(error)) => error.failure(),
        Err(payload) => panicked(payload.as_ref()),
    };
    io.send(FromEngine::Failed(failure), &[])?;
    Ok(false)
}

/// What both threads hold.
#[derive(Debug)]
struct Shared {
    writer: Mutex<Channel>,
    stop: AtomicBool,
    peak_rss: PeakRss,
}

impl Shared {
    fn send(&self, message: &FromEngine, blob: &[u8]) -> Result<(), FrameError> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).send_with(message, blob, &[])
    }
}

struct Io {
    shared: Arc<Shared>,
}

impl TaskIo for Io {
    fn send(&mut self, message: FromEngine, blob: &[u8]) -> Result<(), FrameError> {
        self.shared.send(&message, blob)
    }

    fn stopped(&mut self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn peak_rss_bytes(&self) -> u64 {
        self.shared.peak_rss.bytes()
    }
}

/// Hands frames to the task, answers `Ping`, notes `Stop`. A connection that ends or breaks stops the task.
fn listen(mut reader: Channel, shared: &Shared, frames: &Sender<Frame<ToEngine>>) {
    loop {
        let frame = match reader.recv::<ToEngine>() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                log::error!("the connection broke: {error}");
                break;
            }
        };
        let handed = match frame.message {
            ToEngine::Ping => shared.send(&FromEngine::Pong { peak_rss_bytes: shared.peak_rss.bytes() }, &[]).is_ok(),
            ToEngine::Stop => {
                shared.stop.store(true, Ordering::Relaxed);
                true
            }
            _ => frames.send(frame).is_ok(),
        };
        if !handed {
            break;
        }
    }
    shared.stop.store(true, Ordering::Relaxed);
}

/// A panic carries libtorch's message: shapes and places, and a backtrace, of which the first line is kept.
fn panicked(payload: &(dyn std::any::Any + Send)) -> Failure {
    let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
    let message = first_line(text.unwrap_or("the engine panicked"));
    let memory = message.contains("memory");
    let kind = if memory { FailureKind::Memory } else { FailureKind::Internal };
    Failure { kind, message }
}

fn task(io: &mut Io, frames: &Receiver<Frame<ToEngine>>, cores: usize) -> Result<(), TaskError> {
    let Some((open, files)) = opened(frames)? else { return Ok(()) };
    let threads = if open.threads == 0 { cores } else { open.threads as usize };
    tch::set_num_threads(threads.clamp(1, 1024) as i32);
    let Ok(frame) = frames.recv() else { return Ok(()) };
    if matches!(frame.message, ToEngine::Inspect) {
        return Ok(io.send(FromEngine::Inspected(inspected(&open, &files)?), &[])?);
    }
    let model = Model::load(&open, &files)?;
    // The weights are read; the descriptors are not needed any more.
    drop(files);
    io.send(FromEngine::Opened(model.info(&open)), &[])?;
    match frame.message {
        ToEngine::Train(task) => match inputs(frames)? {
            Some(inputs) => train::run(io, &model.decoder, &model.tokenizer, &task, &inputs),
            None => Ok(()),
        },
        ToEngine::Evaluate(task) => match inputs(frames)? {
            Some(inputs) => evaluate::run(io, &model.decoder, &model.tokenizer, &task, &inputs),
            None => Ok(()),
        },
        ToEngine::Serve => generate::serve::run(io, &model.decoder, &model.tokenizer, frames),
        _ => Err(unexpected("a task is to be named after `Open`")),
    }
}

fn unexpected(what: &'static str) -> TaskError {
    TaskError::Frame(FrameError::Protocol(what))
}

/// The first message, with its descriptors; `None` when the daemon left before.
fn opened(frames: &Receiver<Frame<ToEngine>>) -> Result<Option<(Open, ModelFiles)>, TaskError> {
    let Ok(frame) = frames.recv() else { return Ok(None) };
    let ToEngine::Open(open) = frame.message else { return Err(unexpected("`Open` comes first")) };
    if open.files.len() != frame.descriptors.len() {
        return Err(unexpected("`Open` names as many files as it passes descriptors"));
    }
    let files = open.files.iter().cloned().zip(frame.descriptors.into_iter().map(File::from));
    let files = ModelFiles::new(files);
    Ok(Some((open, files)))
}

/// Everything up to `Begin`; `None` when the daemon left before.
fn inputs(frames: &Receiver<Frame<ToEngine>>) -> Result<Option<Inputs>, TaskError> {
    let mut inputs = Inputs::default();
    while let Ok(frame) = frames.recv() {
        match frame.message {
            ToEngine::Records { set } => inputs.records_piece(set, &frame.blob),
            ToEngine::File(piece) => inputs.file_piece(piece, &frame.blob),
            ToEngine::Begin => return Ok(Some(inputs)),
            _ => return Err(unexpected("only records and files come before `Begin`")),
        }
    }
    Ok(None)
}

struct Model {
    decoder: Decoder,
    tokenizer: Tokenizer,
}

impl Model {
    fn load(open: &Open, files: &ModelFiles) -> Result<Self, ModelError> {
        let quantization = match open.quantization.base {
            BaseFormat::Nf4 => Quantization::Nf4 { double: open.quantization.double },
            BaseFormat::None => Quantization::None,
        };
        let options = LoadOptions::new(device::parse(&open.device)?, quantization);
        let tokenizer = Tokenizer::load(files)?;
        tokenizer.check_vocabulary(crate::model::ModelConfig::load(files)?.vocab_size)?;
        Ok(Model { decoder: Decoder::load(files, &options)?, tokenizer })
    }

    fn info(&self, open: &Open) -> ModelInfo {
        let info = self.decoder.info();
        ModelInfo {
            family: info.family.to_owned(),
            parameters: info.parameters,
            layers: info.layers as u32,
            hidden_size: info.hidden_size as u32,
            vocabulary: info.vocab_size as u32,
            context: info.context as u32,
            chat_template: self.tokenizer.has_template(),
            device: device::name(self.decoder.device()),
            format: open.quantization.base,
            weight_bytes: info.weight_bytes,
        }
    }
}

/// Reads every tensor and the tokenizer, and keeps none of it.
fn inspected(open: &Open, files: &ModelFiles) -> Result<ModelInfo, ModelError> {
    let (config, summary) = inspect(files)?;
    let tokenizer = Tokenizer::load(files)?;
    tokenizer.check_vocabulary(config.vocab_size)?;
    Ok(ModelInfo {
        family: config.family.model_type.to_owned(),
        parameters: summary.parameters,
        layers: config.layers as u32,
        hidden_size: config.hidden_size as u32,
        vocabulary: config.vocab_size as u32,
        context: config.max_positions as u32,
        chat_template: tokenizer.has_template(),
        device: device::name(device::parse(&open.device)?),
        format: BaseFormat::None,
        weight_bytes: summary.bytes,
    })
}
