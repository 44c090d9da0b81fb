//! What fits into memory: how many tokens go into one forward pass, and whether activations are kept for the
//! backward pass or computed again.
//!
//! An estimate by counting what autograd saves, logged before the first step. The plan is part of a
//! checkpoint: another split of a step would round differently, and the resumed run would be another.

use std::ops::Range;

use cloister_wire::recipe::Recipe;
use serde::{Deserialize, Serialize};

use crate::model::Decoder;

/// On a CPU a pass of so many tokens hides the cost of widening 4-bit weights; more only costs memory
/// (about 4 MB a token on a model of half a billion parameters).
const CPU_TOKENS: usize = 512;
const GPU_TOKENS: usize = 8192;
/// A GPU's memory is not asked for; activations are kept up to this.
const GPU_BUDGET: u64 = 8 << 30;

/// How a step is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Compute blocks again in the backward pass.
    pub recompute: bool,
    /// Most tokens of one forward pass; a longer example goes alone.
    pub micro_tokens: usize,
    /// Most examples of one forward pass.
    pub micro_examples: usize,
}

/// Bytes that the activations of a pass take, by estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// With all of them kept.
    pub kept: u64,
    /// With only the blocks' inputs kept.
    pub recomputed: u64,
    /// What there is for them.
    pub budget: u64,
}

impl Plan {
    /// Chooses for examples of at most `longest` tokens.
    pub fn choose(decoder: &Decoder, recipe: &Recipe, longest: usize) -> (Self, Estimate) {
        let training = &recipe.training;
        let tokens = if decoder.device().is_cuda() { GPU_TOKENS } else { CPU_TOKENS };
        let (micro_tokens, micro_examples) = match training.micro_batch_size {
            Some(examples) => (usize::MAX, examples as usize),
            None => (tokens, usize::MAX),
        };
        let in_a_pass = match training.micro_batch_size {
            Some(examples) => longest.saturating_mul(examples as usize),
            None => longest.max(micro_tokens.min(longest * training.batch_size as usize)),
        };
        let estimate = estimate(decoder, recipe, in_a_pass as u64);
        let recompute = training.recompute.unwrap_or(estimate.kept > estimate.budget);
        (Plan { recompute, micro_tokens, micro_examples }, estimate)
    }

    /// For measuring only: nothing is kept.
    pub fn measuring(decoder: &Decoder) -> Self {
        let micro_tokens = if decoder.device().is_cuda() { GPU_TOKENS } else { CPU_TOKENS };
        Plan { recompute: false, micro_tokens, micro_examples: usize::MAX }
    }

    /// Cuts examples of these lengths, in order, into passes.
    pub fn micro_batches(&self, lengths: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut tokens = 0;
        for (index, length) in lengths.into_iter().enumerate() {
            match ranges.last_mut() {
                Some(last) if tokens + length <= self.micro_tokens && last.len() < self.micro_examples => {
                    last.end = index + 1;
                    tokens += length;
                }
                _ => {
                    ranges.push(index..index + 1);
                    tokens = length;
                }
            }
        }
        ranges
    }
}

fn estimate(decoder: &Decoder, recipe: &Recipe, tokens: u64) -> Estimate {
    let info = decoder.info();
    let width = |n: i64| n as u64;
    let (hidden, wide) = (width(info.hidden_size), width(info.intermediate_size));
    let (q, kv) = (width(info.heads * info.head_dim), width(info.kv_heads * info.head_dim));
    // Numbers that one block saves for a token: norms and their inputs, rotated halves, attention, the
    // gated product, and the adapter's inner rows.
    let block = 8 * hidden + 5 * q + 5 * kv + 5 * wide + 7 * u64::from(recipe.lora.rank);
    let layers = info.layers as u64;
    let size = if decoder.device().is_cuda() { 2 } else { 4 };
    Estimate {
        kept: tokens * block * layers * size,
        recomputed: tokens * (block + hidden * layers) * size,
        budget: if decoder.device().is_cuda() { GPU_BUDGET } else { quarter_of_memory() },
    }
}

fn quarter_of_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram as u64 * u64::from(info.mem_unit) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_hold_at_most_their_tokens_and_a_long_example_goes_alone() {
        let plan = Plan { recompute: false, micro_tokens: 10, micro_examples: usize::MAX };
        assert_eq!(plan.micro_batches([4, 6, 1, 30, 2, 3]), [0..2, 2..3, 3..4, 4..6]);
        let plan = Plan { micro_tokens: usize::MAX, micro_examples: 2, ..plan };
        assert_eq!(plan.micro_batches([4, 6, 1]), [0..2, 2..3]);
        assert!(plan.micro_batches([]).is_empty());
    }
}
