//! What `tch` lacks, through the C++ of `shim/`.

use tch::{Kind, Tensor};

use crate::quant::Nf4Weight;

/// `x [rows, in]` times a 16-bit weight `[out, in]`, transposed.
pub fn narrow_linear(x: &Tensor, weight: &Tensor) -> Tensor {
    x.linear(&weight.to_kind(x.kind()), None::<&Tensor>)
}

/// `x [rows, in]` times a 4-bit weight `[out, in]`, transposed.
pub fn nf4_linear(x: &Tensor, weight: &Nf4Weight) -> Tensor {
    x.linear(&weight.dequantize(x.kind()), None::<&Tensor>)
}

/// Kind helper for callers that only hold a weight.
pub fn kind_of(x: &Tensor) -> Kind {
    x.kind()
}
