//! 4-bit NormalFloat with double quantisation, stored as bitsandbytes 0.50 stores it, to the byte.
//!
//! The weight is flattened row-major and cut into blocks of 64, the last may be short. A block keeps its
//! largest magnitude (`absmax`) and, an element, the index of the nearest of 16 levels. With double
//! quantisation the absmax values, less their mean, are themselves kept in 8 bits, in blocks of 256.
//!
//! Everything here is plain libtorch, so that it runs on any device; the CPU's kernels are in `kernel`
//! and are checked against this.

use tch::{Device, Kind, Tensor};

use super::pack;
use crate::model::ModelError;
use crate::shim;

/// Elements of a block that share an absmax.
pub const BLOCK: i64 = 64;
/// absmax values that share a nested absmax.
pub const NESTED_BLOCK: i64 = 256;

/// The 16 levels: quantiles of a normal distribution, scaled to ±1 (QLoRA, Dettmers et al. 2023).
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A weight in 4 bits.
#[derive(Debug)]
pub struct Nf4Weight {
    /// Two indices a byte, the first in the high nibble, `[(out * in + 1) / 2]`.
    pub packed: Tensor,
    /// The blocks' scales.
    pub absmax: Absmax,
    /// `[out_features, in_features]`
    pub shape: [i64; 2],
}

/// The blocks' scales, `[blocks]`.
#[derive(Debug)]
pub enum Absmax {
    /// In float32.
    Plain(Tensor),
    /// In 8 bits.
    Nested(NestedAbsmax),
}

/// 8-bit absmax values: `map[codes[i]] * absmax[i / 256] + offset`.
#[derive(Debug)]
pub struct NestedAbsmax {
    /// Indices into [`dynamic_map`], uint8 `[blocks]`.
    pub codes: Tensor,
    /// Their own scales, float32 `[(blocks + 255) / 256]`.
    pub absmax: Tensor,
    /// The mean that was subtracted.
    pub offset: f32,
    /// The dynamic map, float32 `[256]`, where the weight is.
    pub map: Tensor,
}

impl Nf4Weight {
    /// Quantises a weight `[out, in]` of any float type.
    pub fn quantize(weight: &Tensor, double: bool) -> Result<Self, ModelError> {
        let flat = weight.f_reshape([-1])?.f_to_kind(Kind::Float)?;
        let (packed, absmax) = match weight.device() {
            Device::Cpu => {
                let (packed, absmax) = pack::pack(&Vec::<f32>::try_from(&flat)?, tch::get_num_threads() as usize);
                (Tensor::from_slice(&packed), Tensor::from_slice(&absmax))
            }
            _ => by_operations(&flat)?,
        };
        Self::assemble(packed, absmax, double, weight)
    }

    /// The same by libtorch's operations, as every device but the CPU does it.
    pub fn quantize_by_operations(weight: &Tensor, double: bool) -> Result<Self, ModelError> {
        let (packed, absmax) = by_operations(&weight.f_reshape([-1])?.f_to_kind(Kind::Float)?)?;
        Self::assemble(packed, absmax, double, weight)
    }

    fn assemble(packed: Tensor, absmax: Tensor, double: bool, weight: &Tensor) -> Result<Self, ModelError> {
        let absmax = if double { Absmax::Nested(NestedAbsmax::quantize(&absmax)?) } else { Absmax::Plain(absmax) };
        let size = weight.size();
        Ok(Nf4Weight { packed, absmax, shape: [size[0], size[1]] })
    }

    /// The whole weight, `[out, in]`, in `kind`.
    pub fn dequantize(&self, kind: Kind) -> Tensor {
        shim::nf4_dequantize(self, kind)
    }

    /// Bytes that the weight occupies.
    pub fn bytes(&self) -> u64 {
        let scales = match &self.absmax {
            Absmax::Plain(absmax) => absmax.numel() * 4,
            Absmax::Nested(nested) => nested.codes.numel() + nested.absmax.numel() * 4,
        };
        (self.packed.numel() + scales) as u64
    }
}

impl NestedAbsmax {
    fn quantize(absmax: &Tensor) -> Result<Self, ModelError> {
        let offset = absmax.f_mean(Kind::Float)?;
        let centred = absmax.f_sub(&offset)?;
        let blocks = (centred.size()[0] + NESTED_BLOCK - 1) / NESTED_BLOCK;
        let padded = centred.f_constant_pad_nd([0, blocks * NESTED_BLOCK - centred.size()[0]])?;
        let rows = padded.f_view([blocks, NESTED_BLOCK])?;
        let own = rows.f_abs()?.f_amax([1], true)?;
        // A block of equal values centres to zero: it divides by nothing and every code is that of 0.
        let scaled = rows.f_div(&own.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?;
        let bounds = midpoints(&dynamic_map());
        let bounds = Tensor::from_slice(&bounds).to_device(absmax.device());
        let codes = scaled.f_bucketize(&bounds, true, false)?.f_to_kind(Kind::Uint8)?;
        Ok(NestedAbsmax {
            codes: codes.f_view([-1])?.f_narrow(0, 0, centred.size()[0])?.f_contiguous()?,
            absmax: own.f_view([-1])?,
            offset: offset.f_double_value(&[])? as f32,
            map: shim::map_tensor(absmax.device()),
        })
    }
}

/// Packed indices and float32 absmax of a flat float32 weight.
fn by_operations(flat: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
    let count = flat.size()[0];
    let whole = count / BLOCK * BLOCK;
    let blocks = flat.f_narrow(0, 0, whole)?.f_view([-1, BLOCK])?;
    let mut absmax = blocks.f_abs()?.f_amax([1], false)?;
    // As bitsandbytes: whole blocks multiply by a reciprocal, the short last one divides, and only the
    // latter stores the clamped absmax.
    let reciprocal = absmax.f_clamp_min(1e-38)?.f_reciprocal()?;
    let mut scaled = blocks.f_mul(&reciprocal.f_unsqueeze(1)?)?.f_view([-1])?;
    if whole < count {
        let rest = flat.f_narrow(0, whole, count - whole)?;
        let own = rest.f_abs()?.f_max()?.f_clamp_min(1e-38)?;
        scaled = Tensor::f_cat(&[scaled, rest.f_div(&own)?], 0)?;
        absmax = Tensor::f_cat(&[absmax, own.f_view([1])?], 0)?;
    }
    let scaled = scaled.f_clamp(-1.0, 1.0)?.f_constant_pad_nd([0, count % 2])?;
    let bounds = Tensor::from_slice(&midpoints(&LEVELS)).to_device(flat.device());
    Ok((pack_pairs(&scaled.f_bucketize(&bounds, true, false)?)?, absmax))
}

fn pack_pairs(codes: &Tensor) -> Result<Tensor, ModelError> {
    let pairs = codes.f_to_kind(Kind::Uint8)?.f_view([-1, 2])?;
    let high = pairs.f_select(1, 0)?.f_bitwise_left_shift_tensor_scalar(4)?;
    Ok(high.f_bitwise_or_tensor(&pairs.f_select(1, 1)?)?)
}

/// Halfway between neighbouring levels, in float32; a value on one goes to the lower level.
pub fn midpoints(levels: &[f32]) -> Vec<f32> {
    levels.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

/// The signed dynamic map of 8-bit quantisation (Dettmers, 2016): 256 levels, sorted, denser near zero.
/// For i in 0..=6 there are 2^i values ±10^(i-6) · midpoints of `linspace(0.1, 1, 2^i + 1)`, besides 0 and 1.
pub fn dynamic_map() -> Vec<f32> {
    let mut map = vec![0.0_f32, 1.0];
    const POWERS: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    for i in 0..7 {
        let count = 1_usize << i;
        let edge = |k: usize| linspace(0.1, 1.0, count + 1, k);
        for k in 0..count {
            let middle = (edge(k) + edge(k + 1)) / 2.0;
            let value = POWERS[i] * middle;
            map.extend([value, -value]);
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

/// `torch.linspace` in float32: counted from the nearer end, in one rounding, as its vectors do it.
fn linspace(start: f32, end: f32, steps: usize, k: usize) -> f32 {
    let step = (end - start) / (steps - 1) as f32;
    if k < steps / 2 { step.mul_add(k as f32, start) } else { (-step).mul_add((steps - 1 - k) as f32, end) }
}
