//! Greedy answers for many prompts: some are computed side by side, and when one ends the next takes its
//! place. Neighbours are segments that cannot see each other.

use std::collections::VecDeque;

use tch::Tensor;

use crate::adapt::Adapter;
use crate::model::{Batch, Decoder, KvCache, ModelError, Segment, Tokenizer};

/// Answers computed side by side.
const SIDE_BY_SIDE: usize = 16;
/// Prompt tokens read in one pass, so that many long prompts do not multiply the activations.
const PROMPT_TOKENS_A_PASS: usize = 512;

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
    /// What the model has not read yet: the rest of the prompt, then the last token written.
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
        tch::no_grad(|| how.step(&mut running))?;
        for ended in running.extract_if(.., |sequence| how.has_ended(sequence)) {
            answers[ended.index] = how.tokenizer.decode(how.without_end(&ended.answer))?;
            if !go_on()? {
                return Ok(None);
            }
        }
    }
    Ok(Some(answers))
}

/// How many tokens each sequence reads in a pass, from how many it has pending: an answer being written one,
/// prompts together at most so many, the oldest first.
fn readings(pending: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut left = PROMPT_TOKENS_A_PASS;
    let share = |pending: usize| {
        let reading = if pending == 1 { 1 } else { pending.min(left) };
        left -= if pending == 1 { 0 } else { reading };
        reading
    };
    pending.into_iter().map(share).collect()
}

impl Answering<'_> {
    fn start(&self, index: usize, prompt: &str) -> Result<Running, ModelError> {
        let mut pending: Vec<i64> = self.tokenizer.encode(prompt)?.into_iter().map(i64::from).collect();
        // A prompt that leaves no room for an answer loses its beginning, as in training with `truncate`.
        let context = self.decoder.config().max_positions as usize;
        let room = context.saturating_sub(self.max_tokens).max(context / 2).max(1);
        if pending.len() > room {
            log::warn!(
                "question {} has {} tokens and lost the beginning beyond {room}: its answer needs the rest of the context",
                index + 1,
                pending.len()
            );
            pending.drain(1..1 + pending.len() - room);
        }
        Ok(Running { index, pending, cache: self.decoder.new_cache(), answer: Vec::new() })
    }

    /// One pass; every sequence that has now read all it had writes its likeliest next token.
    fn step(&self, running: &mut [Running]) -> Result<(), tch::TchError> {
        let readings = readings(running.iter().map(|sequence| sequence.pending.len()));
        let (mut ids, mut last, mut segments, mut writing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (sequence, reading) in running.iter_mut().zip(readings).filter(|(_, reading)| *reading > 0) {
            let Running { pending, cache, answer, .. } = sequence;
            ids.extend(pending.drain(..reading));
            if pending.is_empty() {
                last.push(ids.len() as i64 - 1);
                writing.push((pending, answer));
            }
            let start = cache.len();
            segments.push(Segment { len: reading as i64, start, cache: Some(cache), adapter: self.adapter });
        }
        let hidden = self.decoder.hidden(&Tensor::from_slice(&ids), &mut Batch::new(segments));
        if last.is_empty() {
            return Ok(());
        }
        let last = Tensor::from_slice(&last).to_device(self.decoder.device());
        let logits = self.decoder.logits(&hidden.f_index_select(0, &last)?);
        let next = Vec::<i64>::try_from(logits.f_argmax(-1, false)?)?;
        for ((pending, answer), id) in writing.into_iter().zip(next) {
            answer.push(id as u32);
            pending.push(id);
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_share_a_pass_and_answers_cost_nothing_of_it() {
        assert_eq!(readings([400, 1, 400, 1, 9]), [400, 1, 112, 1, 0]);
        assert_eq!(readings([2000, 3]), [512, 0]);
        assert!(readings([]).is_empty());
    }
}
