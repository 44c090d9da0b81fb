//! Continuous batching: every step is one forward pass over all active sequences, some reading their prompt,
//! others writing. Requests join and leave between steps; sequences with different adapters share a step.

use std::collections::VecDeque;
use std::rc::Rc;

use cloister_wire::engine::{FinishReason, Sampling};
use tch::{Kind, Tensor};

use super::sampler::Sampler;
use super::stop::StopFilter;
use crate::adapt::Adapter;
use crate::model::tokenizer::StreamState;
use crate::model::{Batch, Decoder, KvCache, ModelError, Segment, Tokenizer};

/// Sequences computed side by side; more wait.
const SIDE_BY_SIDE: usize = 16;
/// Prompt tokens read in one step, so that a long prompt does not hold up the answers being written.
const PROMPT_TOKENS_A_STEP: usize = 512;

/// One completion that is asked for.
#[derive(Debug)]
pub struct Request {
    /// Chosen by the caller; every event carries it.
    pub id: u64,
    /// On top of the base.
    pub adapter: Option<Rc<Adapter>>,
    /// What is continued.
    pub prompt: Vec<u32>,
    /// How.
    pub sampling: Sampling,
}

/// What happened to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More of its text.
    Text {
        /// The request.
        id: u64,
        /// Whole characters; never part of a stop text.
        text: String,
    },
    /// It has ended.
    Finished {
        /// The request.
        id: u64,
        /// Why.
        reason: FinishReason,
        /// Tokens read.
        prompt_tokens: u64,
        /// Tokens written, the one that ended the answer included.
        completion_tokens: u64,
    },
    /// The model's output for it is not a number; the other requests go on.
    Failed {
        /// The request.
        id: u64,
    },
}

/// Why a request cannot be begun; the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to continue.
    #[error("the prompt is empty; send at least one token")]
    Empty,
    /// There is no room for an answer.
    #[error("the prompt has {tokens} tokens, and the model's context is {context}; shorten it")]
    TooLong {
        /// Of the prompt.
        tokens: usize,
        /// Of the model.
        context: usize,
    },
    /// An answer of no tokens.
    #[error("`max_tokens` is 0; ask for at least one token")]
    NoTokens,
}

/// All requests of one model.
#[derive(Debug)]
pub struct Scheduler<'m> {
    decoder: &'m Decoder,
    tokenizer: &'m Tokenizer,
    waiting: VecDeque<Sequence>,
    active: Vec<Sequence>,
}

/// A request under way.
#[derive(Debug)]
struct Sequence {
    id: u64,
    adapter: Option<Rc<Adapter>>,
    /// Tokens that the model has not read yet: the rest of the prompt, then the last token written.
    pending: VecDeque<u32>,
    /// How many of them it reads in this step.
    reading: usize,
    cache: KvCache,
    prompt_tokens: u64,
    written: u64,
    /// Most tokens that may be written.
    room: u64,
    sampler: Sampler,
    stop: StopFilter,
    stream: StreamState,
}

impl<'m> Scheduler<'m> {
    /// With nothing to do.
    pub fn new(decoder: &'m Decoder, tokenizer: &'m Tokenizer) -> Self {
        Scheduler { decoder, tokenizer, waiting: VecDeque::new(), active: Vec::new() }
    }

    /// Whether there is nothing to compute.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// Takes a request; it begins with the next step that has room.
    pub fn submit(&mut self, request: Request) -> Result<(), Refusal> {
        let context = self.decoder.config().max_positions as usize;
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(Refusal::Empty);
        }
        if tokens >= context {
            return Err(Refusal::TooLong { tokens, context });
        }
        if request.sampling.max_tokens == Some(0) {
            return Err(Refusal::NoTokens);
        }
        let room = (context - tokens) as u64;
        self.waiting.push_back(Sequence {
            id: request.id,
            adapter: request.adapter,
            pending: request.prompt.into(),
            reading: 0,
            cache: self.decoder.new_cache(),
            prompt_tokens: tokens as u64,
            written: 0,
            room: request.sampling.max_tokens.map_or(room, |most| room.min(u64::from(most))),
            sampler: Sampler::new(&request.sampling),
            stop: StopFilter::new(&request.sampling.stop),
            stream: StreamState::default(),
        });
        Ok(())
    }

    /// Ends a request; `None` when there is none of that id (any more).
    pub fn cancel(&mut self, id: u64) -> Option<Event> {
        let waiting = self.waiting.iter().position(|s| s.id == id).and_then(|at| self.waiting.remove(at));
        let sequence = waiting.or_else(|| {
            let at = self.active.iter().position(|s| s.id == id)?;
            Some(self.active.remove(at))
        });
        Some(sequence?.finished(FinishReason::Cancelled))
    }

    /// One forward pass over what is active, and what came of it.
    pub fn step(&mut self) -> Result<Vec<Event>, ModelError> {
        self.admit();
        let Some(logits) = tch::no_grad(|| self.forward())? else { return Ok(Vec::new()) };
        let mut events = Vec::new();
        let tokenizer = self.tokenizer;
        let mut still = Vec::with_capacity(self.active.len());
        let mut rows = logits.chunks_exact(self.decoder.config().vocab_size as usize);
        for mut sequence in self.active.drain(..) {
            // A sequence whose prompt is not read to its end has no row.
            let Some(row) = sequence.pending.is_empty().then(|| rows.next()).flatten() else {
                still.push(sequence);
                continue;
            };
            let Some(id) = sequence.sampler.choose(row, sequence.written) else {
                events.push(Event::Failed { id: sequence.id });
                continue;
            };
            match sequence.advance(id, tokenizer, &mut events)? {
                Some(reason) => events.push(sequence.finished(reason)),
                None => still.push(sequence),
            }
        }
        self.active = still;
        Ok(events)
    }

    /// Lets waiting requests in and shares out this step's prompt tokens, oldest first.
    fn admit(&mut self) {
        while self.active.len() < SIDE_BY_SIDE
            && let Some(sequence) = self.waiting.pop_front()
        {
            self.active.push(sequence);
        }
        let mut budget = PROMPT_TOKENS_A_STEP;
        for sequence in &mut self.active {
            // One token costs nothing of the budget: it is an answer being written.
            let most = if sequence.pending.len() == 1 { 1 } else { budget };
            sequence.reading = sequence.pending.len().min(most);
            budget -= if sequence.pending.len() == 1 { 0 } else { sequence.reading };
        }
    }

    /// Logits, one row for each sequence that has now read all that it had, in order.
    fn forward(&mut self) -> Result<Option<Vec<f32>>, ModelError> {
        let (mut ids, mut last, mut segments) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in self.active.iter_mut().filter(|s| s.reading > 0) {
            ids.extend(sequence.pending.drain(..sequence.reading).map(i64::from));
            if sequence.pending.is_empty() {
                last.push(ids.len() as i64 - 1);
            }
            segments.push(Segment {
                len: sequence.reading as i64,
                start: sequence.cache.len(),
                cache: Some(&mut sequence.cache),
                adapter: sequence.adapter.as_deref(),
            });
        }
        if segments.is_empty() {
            return Ok(None);
        }
        let hidden = self.decoder.hidden(&Tensor::from_slice(&ids), &mut Batch::new(segments));
        if last.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let last = Tensor::from_slice(&last).to_device(hidden.device());
        let logits = self.decoder.logits(&hidden.index_select(0, &last)).to_kind(Kind::Float);
        Ok(Some(Vec::<f32>::try_from(logits.view([-1]))?))
    }
}

impl Sequence {
    /// Writes one token; says why the answer has ended, if it has.
    fn advance(
        &mut self,
        id: u32,
        tokenizer: &Tokenizer,
        events: &mut Vec<Event>,
    ) -> Result<Option<FinishReason>, ModelError> {
        self.written += 1;
        if tokenizer.eos_ids().contains(&id) {
            self.flush(tokenizer, events)?;
            return Ok(Some(FinishReason::Stop));
        }
        let text = self.stream.push(tokenizer, id)?;
        let (shown, stopped) = self.stop.push(&text);
        self.show(shown, events);
        if stopped {
            return Ok(Some(FinishReason::Stop));
        }
        if self.written >= self.room {
            let met = self.flush(tokenizer, events)?;
            return Ok(Some(if met { FinishReason::Stop } else { FinishReason::Length }));
        }
        self.pending.push_back(id);
        Ok(None)
    }

    /// Shows what was held back; says whether a stop text was met in it.
    fn flush(&mut self, tokenizer: &Tokenizer, events: &mut Vec<Event>) -> Result<bool, ModelError> {
        let (mut shown, stopped) = self.stop.push(&self.stream.finish(tokenizer)?);
        if !stopped {
            shown += &self.stop.finish();
        }
        self.show(shown, events);
        Ok(stopped)
    }

    fn show(&self, text: String, events: &mut Vec<Event>) {
        if !text.is_empty() {
            events.push(Event::Text { id: self.id, text });
        }
    }

    fn finished(&self, reason: FinishReason) -> Event {
        Event::Finished { id: self.id, reason, prompt_tokens: self.prompt_tokens, completion_tokens: self.written }
    }
}
