//! Loss on records that are not trained on.

use tch::TchError;

use super::data::Example;
use super::loss;
use super::plan::Plan;
use super::step::Packed;
use crate::adapt::Adapter;
use crate::model::{Batch, Decoder};

/// What was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Summed negative log-likelihood of the learnt tokens, in nats.
    pub sum: f64,
    /// How many they are.
    pub tokens: u64,
}

impl Measured {
    /// Mean over the tokens.
    pub fn loss(&self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }
}

/// Measures the examples with an adapter, or the base alone. `go_on` is called after each micro-batch with
/// the number of its examples; when it says no, there is no result.
pub fn measure<E: From<TchError>>(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    examples: &[Example],
    plan: &Plan,
    mut go_on: impl FnMut(usize) -> Result<bool, E>,
) -> Result<Option<Measured>, E> {
    let mut measured = Measured::default();
    for range in plan.micro_batches(examples.iter().map(|e| e.ids.len())) {
        let some = &examples[range];
        measured.sum += tch::no_grad(|| sum(decoder, adapter, some))?;
        measured.tokens += some.iter().map(|e| e.learnt() as u64).sum::<u64>();
        if !go_on(some.len())? {
            return Ok(None);
        }
    }
    Ok(Some(measured))
}

fn sum(decoder: &Decoder, adapter: Option<&Adapter>, examples: &[Example]) -> Result<f64, TchError> {
    let packed = Packed::new(examples, decoder.device());
    let mut batch = Batch::new(packed.segments(adapter));
    let mut x = decoder.embed(&packed.ids);
    for layer in 0..decoder.config().layers {
        x = decoder.block(layer, &x, &mut batch);
    }
    loss::total(decoder, &x, &packed.targets)
}
