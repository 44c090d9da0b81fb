//! How a frozen weight is held, and the product with it. A layer asks for `forward`; whether the weight
//! is dense, kept in the file's 16 bits or 4-bit NormalFloat is decided at load and nowhere else.

pub mod kernel;
pub mod nf4;
mod pack;

use tch::{Kind, Tensor};

pub use nf4::Nf4Weight;

use crate::model::ModelError;
use crate::shim;

/// A frozen weight `[out_features, in_features]`.
#[derive(Debug)]
pub enum Weight {
    /// In the compute type.
    Dense(Tensor),
    /// In 16 bits where the compute type is float32: widened tile by tile.
    Narrow(Tensor),
    /// 4-bit NormalFloat.
    Nf4(Nf4Weight),
}

impl Weight {
    /// An embedding or output layer: 16-bit tables stay 16-bit when computing in float32.
    pub fn table(weight: Tensor, kind: Kind) -> Result<Self, ModelError> {
        let narrow = matches!(weight.kind(), Kind::BFloat16 | Kind::Half) && kind == Kind::Float;
        Ok(if narrow && weight.device() == tch::Device::Cpu { Weight::Narrow(weight) } else { Weight::Dense(weight.to_kind(kind)) })
    }

    /// `x [rows, in_features]` → `x @ weightᵀ`, differentiable in `x`. The weight gets no gradient, and no
    /// float copy of it outlives the call or is kept for backward.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Weight::Dense(weight) => x.linear(weight, None::<&Tensor>),
            Weight::Narrow(weight) => shim::narrow_linear(x, weight),
            Weight::Nf4(weight) => shim::nf4_linear(x, weight),
        }
    }

    /// The given rows (`ids [n]` → `[n, in_features]`), of a table.
    pub fn rows(&self, ids: &Tensor) -> Tensor {
        match self {
            Weight::Dense(weight) | Weight::Narrow(weight) => weight.index_select(0, ids),
            Weight::Nf4(weight) => weight.dequantize(Kind::Float).index_select(0, ids),
        }
    }

    /// The whole weight in `kind`.
    pub fn dense(&self, kind: Kind) -> Tensor {
        match self {
            Weight::Dense(weight) | Weight::Narrow(weight) => weight.to_kind(kind),
            Weight::Nf4(weight) => weight.dequantize(kind),
        }
    }

    /// Rows.
    pub fn out_features(&self) -> i64 {
        match self {
            Weight::Dense(weight) | Weight::Narrow(weight) => weight.size()[0],
            Weight::Nf4(weight) => weight.shape[0],
        }
    }

    /// Columns.
    pub fn in_features(&self) -> i64 {
        match self {
            Weight::Dense(weight) | Weight::Narrow(weight) => weight.size()[1],
            Weight::Nf4(weight) => weight.shape[1],
        }
    }

    /// Bytes that the weight occupies.
    pub fn bytes(&self) -> u64 {
        match self {
            Weight::Dense(weight) | Weight::Narrow(weight) => bytes(weight),
            Weight::Nf4(weight) => weight.bytes(),
        }
    }
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}
