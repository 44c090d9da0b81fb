//! An adapter as the forward pass sees it: for each linear layer it touches, a pair of low-rank matrices.
//!
//! How adapters come to be lies beside this file: `lora` draws a new one for a recipe's targets, `peft`
//! writes and reads PEFT's two files, `blob` is the safetensors writer under both it and the checkpoints.

pub mod blob;
mod error;
pub mod lora;
pub mod peft;

use std::collections::BTreeMap;

pub use error::AdaptError;

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
    /// Module path → pair, in the order in which they are saved. An absent module is left as the base has it.
    pub modules: BTreeMap<String, LoraPair>,
}

impl LoraPair {
    /// What the pair adds to a layer's output for the rows `x` (`[rows, in_features]` → `[rows, out_features]`).
    pub fn delta(&self, x: &Tensor, training: bool) -> Tensor {
        let wanted = self.a.kind();
        let x = if training && self.dropout > 0.0 { x.dropout(self.dropout, true) } else { x.shallow_clone() };
        x.to_kind(wanted).matmul(&self.a.tr()).matmul(&self.b.tr()) * self.scale
    }
}

impl Adapter {
    /// Every tensor with its name in PEFT's files, in a fixed order.
    pub fn tensors(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.modules.iter().flat_map(|(path, pair)| [(peft::name_a(path), &pair.a), (peft::name_b(path), &pair.b)])
    }

    /// How many numbers it has.
    pub fn parameters(&self) -> u64 {
        self.tensors().map(|(_, tensor)| tensor.numel() as u64).sum()
    }

    /// The first tensor that holds a NaN or an infinity.
    pub fn non_finite(&self) -> Option<String> {
        self.tensors().find(|(_, tensor)| !all_finite(tensor)).map(|(name, _)| name)
    }
}

/// Whether no element is a NaN or an infinity.
pub(crate) fn all_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) != 0
}
