//! Forward and backward of one micro-batch: its examples are packed one behind the other, each a segment
//! that sees only itself, without a padding token. The gradients are added to those of the adapter's tensors.

use tch::{Device, TchError, Tensor};

use super::data::Example;
use super::loss::{self, Targets};
use crate::adapt::Adapter;
use crate::model::{Batch, Decoder, Segment};
use crate::random::Stream;

/// Examples packed for one forward pass.
#[derive(Debug)]
pub struct Packed {
    /// `[tokens]`
    pub ids: Tensor,
    /// Length of each example.
    pub lengths: Vec<i64>,
    /// What is learnt.
    pub targets: Targets,
}

/// What a pass computes with.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'p> {
    /// The frozen base.
    pub decoder: &'p Decoder,
    /// What is trained.
    pub adapter: &'p Adapter,
    /// Keep only the input of each block, and compute the block again in the backward pass.
    pub recompute: bool,
    /// Decides dropout; a new one for each micro-batch.
    pub seed: u64,
}

impl Packed {
    /// Packs examples.
    pub fn new<'e>(examples: impl IntoIterator<Item = &'e Example>, device: Device) -> Self {
        let (mut ids, mut lengths, mut rows, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for example in examples {
            let start = ids.len() as i64;
            rows.extend((example.learnt_from..example.ids.len()).map(|at| start + at as i64 - 1));
            tokens.extend(&example.ids[example.learnt_from..]);
            ids.extend(&example.ids);
            lengths.push(example.ids.len() as i64);
        }
        let tensor = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Packed { ids: tensor(&ids), lengths, targets: Targets { rows: tensor(&rows), tokens: tensor(&tokens) } }
    }

    /// The segments, each computed with this adapter.
    pub fn segments<'a>(&self, adapter: Option<&'a Adapter>) -> Vec<Segment<'a>> {
        self.lengths.iter().map(|&len| Segment { len, start: 0, cache: None, adapter }).collect()
    }
}

/// Adds the gradients of `summed loss / divisor` and returns that value.
pub fn learn(pass: Pass<'_>, packed: &Packed, divisor: f64) -> Result<f64, TchError> {
    let mut batch = Batch::training(packed.segments(Some(pass.adapter)));
    match pass.recompute {
        false => keeping(pass, packed, &mut batch, divisor),
        true => recomputing(pass, packed, &mut batch, divisor),
    }
}

fn keeping(pass: Pass<'_>, packed: &Packed, batch: &mut Batch<'_>, divisor: f64) -> Result<f64, TchError> {
    let mut x = pass.decoder.embed(&packed.ids);
    for layer in 0..pass.decoder.config().layers {
        x = pass.block(layer, &x, batch);
    }
    let (loss, gradient) = loss::with_gradient(pass.decoder, &x, &packed.targets, divisor)?;
    backward(&x, &gradient)?;
    Ok(loss)
}

fn recomputing(pass: Pass<'_>, packed: &Packed, batch: &mut Batch<'_>, divisor: f64) -> Result<f64, TchError> {
    let layers = pass.decoder.config().layers;
    let mut inputs = Vec::with_capacity(layers);
    let last = tch::no_grad(|| {
        let mut x = pass.decoder.embed(&packed.ids);
        for layer in 0..layers {
            let output = pass.block(layer, &x, batch);
            inputs.push(std::mem::replace(&mut x, output));
        }
        x
    });
    let (loss, mut gradient) = loss::with_gradient(pass.decoder, &last, &packed.targets, divisor)?;
    drop(last);
    while let Some(input) = inputs.pop() {
        let layer = inputs.len();
        // Nothing is trained before the first block.
        let input = input.detach().set_requires_grad(layer > 0);
        backward(&pass.block(layer, &input, batch), &gradient)?;
        gradient = input.f_grad()?;
    }
    Ok(loss)
}

/// `run_backward` seeds with ones, so the gradient that comes from above is multiplied in.
fn backward(output: &Tensor, gradient: &Tensor) -> Result<(), TchError> {
    // An adapter that touches no layer of this block leaves nothing to differentiate.
    if !output.requires_grad() {
        return Ok(());
    }
    (output * gradient).f_sum(tch::Kind::Float)?.f_backward()
}

impl Pass<'_> {
    fn block(&self, layer: usize, x: &Tensor, batch: &mut Batch<'_>) -> Tensor {
        if self.adapter.modules.values().any(|pair| pair.dropout > 0.0) {
            // The same masks when the block is computed again.
            tch::manual_seed(Stream::new(self.seed, &format!("dropout {layer}")).long() as i64);
        }
        self.decoder.block(layer, x, batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learnt_token_is_predicted_from_the_row_before_it() {
        let examples = [
            Example { row: 1, ids: vec![5, 6, 7], learnt_from: 1 },
            Example { row: 2, ids: vec![8, 9, 10, 11], learnt_from: 3 },
        ];
        let packed = Packed::new(&examples, Device::Cpu);
        assert_eq!(packed.ids, Tensor::from_slice(&[5i64, 6, 7, 8, 9, 10, 11]));
        assert_eq!(packed.targets.rows, Tensor::from_slice(&[0i64, 1, 5]));
        assert_eq!(packed.targets.tokens, Tensor::from_slice(&[6i64, 7, 11]));
    }
}
