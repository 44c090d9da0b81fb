//! Quantising to 4 bits on the CPU: the same codes and scales as the libtorch path of `nf4`, to the byte,
//! in one pass over the weight and on every core.

use super::nf4::{BLOCK, LEVELS};

const BLOCK_SIZE: usize = BLOCK as usize;
/// Blocks that one thread takes at least; below twice this, one thread does all.
const BLOCKS_A_THREAD: usize = 4096;
/// What bitsandbytes divides by where a block is all zero.
const LEAST: f32 = 1e-38;

/// Halfway between neighbouring levels, in float32; a value on one goes to the lower level.
const MIDPOINTS: [f32; 15] = {
    let mut midpoints = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        midpoints[i] = (LEVELS[i] + LEVELS[i + 1]) / 2.0;
        i += 1;
    }
    midpoints
};

/// An element from its bytes.
pub(super) type Element<const N: usize> = fn([u8; N]) -> f32;

/// bfloat16 is the upper half of a float32.
pub(super) fn bfloat16(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

pub(super) fn float32(bytes: [u8; 4]) -> f32 {
    f32::from_le_bytes(bytes)
}

/// The packed indices and the blocks' absmax of a flat weight, given as the bytes of its elements.
pub(super) fn pack<const N: usize>(bytes: &[u8], element: Element<N>, threads: usize) -> (Vec<u8>, Vec<f32>) {
    let (elements, _) = bytes.as_chunks::<N>();
    let blocks = elements.len().div_ceil(BLOCK_SIZE);
    let mut packed = vec![0; elements.len().div_ceil(2)];
    let mut absmax = vec![0.0; blocks];
    let each = blocks.div_ceil(threads.max(1)).max(BLOCKS_A_THREAD);
    std::thread::scope(|scope| {
        let parts = elements.chunks(each * BLOCK_SIZE).zip(packed.chunks_mut(each * BLOCK_SIZE / 2));
        let mut parts = parts.zip(absmax.chunks_mut(each));
        let last = parts.next_back();
        for ((elements, packed), absmax) in parts {
            scope.spawn(move || pack_part(elements, element, packed, absmax));
        }
        if let Some(((elements, packed), absmax)) = last {
            pack_part(elements, element, packed, absmax);
        }
    });
    (packed, absmax)
}

/// Some whole blocks, and perhaps the short one at the end.
fn pack_part<const N: usize>(elements: &[[u8; N]], element: Element<N>, packed: &mut [u8], absmax: &mut [f32]) {
    let blocks = elements.chunks(BLOCK_SIZE).zip(packed.chunks_mut(BLOCK_SIZE / 2)).zip(absmax);
    for ((elements, packed), absmax) in blocks {
        let mut values = [0.0; BLOCK_SIZE];
        values.iter_mut().zip(elements).for_each(|(value, bytes)| *value = element(*bytes));
        *absmax = match elements.len() {
            BLOCK_SIZE => whole_block(&values, packed),
            _ => short_block(&values, packed),
        };
    }
}

fn whole_block(values: &[f32; BLOCK_SIZE], packed: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let reciprocal = 1.0 / absmax.max(LEAST);
    write(&values.map(|value| value * reciprocal), packed);
    absmax
}

/// As bitsandbytes: the short block divides where whole ones multiply, and stores the clamped absmax. What is
/// missing is zero.
fn short_block(values: &[f32; BLOCK_SIZE], packed: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(LEAST, |most, value| most.max(value.abs()));
    write(&values.map(|value| value / absmax), packed);
    absmax
}

/// Nearest levels of values scaled to ±1: how many midpoints lie below each. Loops over midpoints outside, so
/// that the compiler compares many values at once.
fn write(scaled: &[f32; BLOCK_SIZE], packed: &mut [u8]) {
    let mut codes = [0_i32; BLOCK_SIZE];
    for midpoint in MIDPOINTS {
        for (code, value) in codes.iter_mut().zip(scaled) {
            *code += i32::from(*value > midpoint);
        }
    }
    for (byte, pair) in packed.iter_mut().zip(codes.chunks_exact(2)) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
}
