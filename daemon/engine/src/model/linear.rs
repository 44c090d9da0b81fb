//! One frozen linear layer of the base, with the adapters of a batch's sequences added to their rows.

use tch::Tensor;

use super::decoder::Rows;
use crate::quant::Weight;

/// A frozen linear layer.
#[derive(Debug)]
pub struct Linear {
    /// Where it sits, as PEFT names it: `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// The frozen weight, `[out_features, in_features]`.
    pub weight: Weight,
    /// `[out_features]`, if the family has one here.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// `x [tokens, in_features]` → `[tokens, out_features]`: the frozen base, plus each run of rows' adapter.
    pub fn forward(&self, x: &Tensor, rows: &Rows) -> Tensor {
        let base = self.weight.forward(x);
        let base = match &self.bias {
            Some(bias) => base + bias,
            None => base,
        };
        self.adapted(x, base, rows)
    }

    fn adapted(&self, x: &Tensor, base: Tensor, rows: &Rows) -> Tensor {
        let touched = rows.runs.iter().any(|run| run.pair(&self.path).is_some());
        if !touched {
            return base;
        }
        let parts: Vec<Tensor> = rows
            .runs
            .iter()
            .map(|run| {
                let below = base.narrow(0, run.start, run.len);
                match run.pair(&self.path) {
                    Some(pair) => {
                        let delta = pair.delta(&x.narrow(0, run.start, run.len), rows.training);
                        below + delta.to_kind(base.kind())
                    }
                    None => below,
                }
            })
            .collect();
        match <[Tensor; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => Tensor::cat(&parts, 0),
        }
    }
}
