//! An adapter as the forward pass sees it: for each linear layer it touches, a pair of low-rank matrices.
//! How adapters are made, trained, saved and read lives beside this file; the forward only adds them.

use std::collections::HashMap;

use tch::Tensor;

/// One LoRA pair: `y += scale * dropout(x) @ aᵀ @ bᵀ` on the rows of the sequences that carry the adapter.
#[derive(Debug)]
pub struct LoraPair {
    /// `[rank, in_features]`
    pub a: Tensor,
    /// `[out_features, rank]`
    pub b: Tensor,
    /// α/r, or α/√r with `use_rslora`
    pub scale: f64,
    /// Probability of dropping an input element; acts only in a training batch.
    pub dropout: f64,
}

/// The low-rank pairs of one adapter, by module path (`model.layers.0.self_attn.q_proj`).
#[derive(Debug, Default)]
pub struct Adapter {
    /// Module path → pair. A module that is absent is left as the base has it.
    pub modules: HashMap<String, LoraPair>,
}

impl LoraPair {
    /// What the pair adds to a layer's output for the rows `x` (`[rows, in_features]` → `[rows, out_features]`).
    pub fn delta(&self, x: &Tensor, training: bool) -> Tensor {
        let wanted = self.a.kind();
        let x = if training && self.dropout > 0.0 { x.dropout(self.dropout, true) } else { x.shallow_clone() };
        x.to_kind(wanted).matmul(&self.a.tr()).matmul(&self.b.tr()) * self.scale
    }
}
