//! Greedy answers for many prompts: some are computed side by side, and when one ends the next takes its
//! place. Neighbours are segments that cannot see each other.

use std::collections::VecDeque;

use tch::Tensor;

use crate::adapt::Adapter;
use crate::model::{Batch, Decoder, KvCache, ModelError, Segment, Tokenizer};

/// Answers computed side by side.
const SIDE_BY_SIDE: usize = 16;

/// How to answer.
#[derive(Debug, Clone, Copy)]
pub struct Answering<'a> {
    /// The base.
    pub decoder: &'a Decoder,
    /// Text and ids.
    pub tokenizer: &'a Tokenizer,
    /// On top of the base.
    pub adapter: Option<&'a Adapter>,
    /// Longest answer.
    pub max_tokens: usize,
}

struct Running {
    index: usize,
    /// What the model reads next: the whole prompt first, then one token at a time.
    pending: Vec<i64>,
    cache: KvCache,
    answer: Vec<u32>,
}

/// The answers to prompts (rendered, generation prompt included), in their order. `go_on` is called as each
/// ends; when it says no, there is no result.
pub fn answer<E: From<ModelError> + From<tch::TchError>>(
    how: Answering<'_>,
    prompts: &[String],
    mut go_on: impl FnMut() -> Result<bool, E>,
) -> Result<Option<Vec<String>>, E> {
    let mut waiting: VecDeque<(usize, &String)> = prompts.iter().enumerate().collect();
    let mut running: Vec<Running> = Vec::new();
    let mut answers = vec![String::new(); prompts.len()];
    while !(waiting.is_empty() && running.is_empty()) {
        while let Some((index, prompt)) = (running.len() < SIDE_BY_SIDE).then(|| waiting.pop_front()).flatten() {
            running.push(how.start(index, prompt)?);
        }
        let next = tch::no_grad(|| how.step(&mut running))?;
        for (sequence, id) in running.iter_mut().zip(next) {
            sequence.take(id);
        }
        for ended in running.extract_if(.., |sequence| how.has_ended(sequence)) {
            answers[ended.index] = how.tokenizer.decode(how.without_end(&ended.answer))?;
            if !go_on()? {
                return Ok(None);
            }
        }
    }
    Ok(Some(answers))
}

impl Running {
    fn take(&mut self, id: i64) {
        self.answer.push(id as u32);
        self.pending = vec![id];
    }
}

impl Answering<'_> {
    fn start(&self, index: usize, prompt: &str) -> Result<Running, ModelError> {
        let mut pending: Vec<i64> = self.tokenizer.encode(prompt)?.into_iter().map(i64::from).collect();
        // A prompt that leaves no room for an answer loses its beginning, as in training with `truncate`.
        let context = self.decoder.config().max_positions as usize;
        let room = context.saturating_sub(self.max_tokens).max(context / 2).max(1);
        if pending.len() > room {
            pending.drain(1..1 + pending.len() - room);
        }
        Ok(Running { index, pending, cache: self.decoder.new_cache(), answer: Vec::new() })
    }

    /// Reads what is pending of every sequence and returns the likeliest next token of each.
    fn step(&self, running: &mut [Running]) -> Result<Vec<i64>, tch::TchError> {
        let ids: Vec<i64> = running.iter().flat_map(|sequence| sequence.pending.iter().copied()).collect();
        let lengths: Vec<i64> = running.iter().map(|sequence| sequence.pending.len() as i64).collect();
        let last = lengths.iter().scan(0, |end, len| {
            *end += len;
            Some(*end - 1)
        });
        let last = Tensor::from_slice(&last.collect::<Vec<i64>>()).to_device(self.decoder.device());
        let segments = running.iter_mut().zip(&lengths).map(|(sequence, &len)| Segment {
            len,
            start: sequence.cache.len(),
            cache: Some(&mut sequence.cache),
            adapter: self.adapter,
        });
        let mut batch = Batch::new(segments.collect());
        let hidden = self.decoder.hidden(&Tensor::from_slice(&ids).to_device(self.decoder.device()), &mut batch);
        let logits = self.decoder.logits(&hidden.f_index_select(0, &last)?);
        Vec::<i64>::try_from(logits.f_argmax(-1, false)?)
    }

    fn has_ended(&self, sequence: &Running) -> bool {
        let full = sequence.cache.len() + 1 >= self.decoder.config().max_positions;
        full || sequence.answer.len() >= self.max_tokens || self.ends(&sequence.answer)
    }

    fn ends(&self, answer: &[u32]) -> bool {
        answer.last().is_some_and(|id| self.tokenizer.eos_ids().contains(id))
    }

    fn without_end<'i>(&self, answer: &'i [u32]) -> &'i [u32] {
        &answer[..answer.len() - usize::from(self.ends(answer))]
    }
}
