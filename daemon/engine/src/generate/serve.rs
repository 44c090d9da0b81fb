//! The scheduler behind the daemon's messages: one loop that takes what has arrived, computes one step and
//! sends what came of it. It ends when the daemon closes the connection.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};

use cloister_wire::engine::{FromEngine, Generate, Prompt, ToEngine};
use cloister_wire::frame::Frame;

use super::scheduler::{Event, Request, Scheduler};
use crate::adapt::Adapter;
use crate::evaluate::read_adapter;
use crate::model::{Decoder, ModelError, Tokenizer};
use crate::task::{Inputs, TaskError, TaskIo};

const NOT_A_NUMBER: &str = "the model's output is not a number: the adapter overflows its base; \
                            train it again with a lower `training.learning_rate`";

/// Serves until the connection closes.
pub fn run(
    io: &mut impl TaskIo,
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    frames: &Receiver<Frame<ToEngine>>,
) -> Result<(), TaskError> {
    let scheduler = Scheduler::new(decoder, tokenizer);
    let mut server = Server { io, decoder, tokenizer, scheduler, adapters: HashMap::new(), inputs: Inputs::default() };
    while let Some(frame) = server.next(frames) {
        if let Some(frame) = frame {
            server.take(frame)?;
            continue;
        }
        let events = server.scheduler.step()?;
        events.into_iter().try_for_each(|event| server.report(event))?;
    }
    Ok(())
}

struct Server<'s, Io> {
    io: &'s mut Io,
    decoder: &'s Decoder,
    tokenizer: &'s Tokenizer,
    scheduler: Scheduler<'s>,
    adapters: HashMap<String, Rc<Adapter>>,
    /// Files of the adapter that is being sent.
    inputs: Inputs,
}

impl<Io: TaskIo> Server<'_, Io> {
    /// What has arrived: a frame, `Some(None)` for nothing while there is work, `None` at the end.
    fn next(&self, frames: &Receiver<Frame<ToEngine>>) -> Option<Option<Frame<ToEngine>>> {
        if self.scheduler.is_idle() {
            return match frames.recv() {
                Ok(frame) => Some(Some(frame)),
                Err(RecvError) => None,
            };
        }
        match frames.try_recv() {
            Ok(frame) => Some(Some(frame)),
            Err(TryRecvError::Empty) => Some(None),
            Err(TryRecvError::Disconnected) => None,
        }
    }

    fn take(&mut self, frame: Frame<ToEngine>) -> Result<(), TaskError> {
        match frame.message {
            ToEngine::File(piece) => self.inputs.file_piece(piece, &frame.blob),
            ToEngine::AddAdapter { adapter } => self.add(adapter)?,
            ToEngine::RemoveAdapter { adapter } => drop(self.adapters.remove(&adapter)),
            ToEngine::Generate(generate) => self.generate(generate)?,
            ToEngine::Cancel { id } => {
                if let Some(event) = self.scheduler.cancel(id) {
                    self.report(event)?;
                }
            }
            // Nothing else is legal while serving, and nothing depends on it.
            _ => log::warn!("a message that has no meaning while serving was left aside"),
        }
        Ok(())
    }

    fn add(&mut self, adapter: String) -> Result<(), TaskError> {
        let inputs = std::mem::take(&mut self.inputs);
        let answer = match read_adapter(self.decoder, &inputs) {
            Ok(read) => {
                self.adapters.insert(adapter.clone(), Rc::new(read));
                FromEngine::AdapterReady { adapter }
            }
            Err(error) => FromEngine::AdapterRefused { adapter, reason: error.to_string() },
        };
        Ok(self.io.send(answer, &[])?)
    }

    fn generate(&mut self, generate: Generate) -> Result<(), TaskError> {
        let id = generate.id;
        if let Err(reason) = self.begin(generate) {
            self.io.send(FromEngine::Refused { id, reason }, &[])?;
        }
        Ok(())
    }

    fn begin(&mut self, generate: Generate) -> Result<(), String> {
        let adapter = match generate.adapter {
            None => None,
            Some(name) => match self.adapters.get(&name) {
                Some(adapter) => Some(adapter.clone()),
                None => return Err(format!("adapter `{name}` is not loaded; deploy it again")),
            },
        };
        let prompt = self.encode(&generate.prompt).map_err(|error| error.to_string())?;
        let request = Request { id: generate.id, adapter, prompt, sampling: generate.sampling };
        self.scheduler.submit(request).map_err(|refusal| refusal.to_string())
    }

    fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, ModelError> {
        match prompt {
            Prompt::Chat(messages) => self.tokenizer.encode(&self.tokenizer.render_chat(messages, true)?),
            Prompt::Text(text) => self.tokenizer.encode_prompt(text),
        }
    }

    fn report(&mut self, event: Event) -> Result<(), TaskError> {
        let message = match event {
            Event::Text { id, text } => FromEngine::Text { id, text },
            Event::Finished { id, reason, prompt_tokens, completion_tokens } => {
                FromEngine::Finished { id, reason, prompt_tokens, completion_tokens }
            }
            Event::Failed { id } => FromEngine::Refused { id, reason: NOT_A_NUMBER.to_owned() },
        };
        Ok(self.io.send(message, &[])?)
    }
}
