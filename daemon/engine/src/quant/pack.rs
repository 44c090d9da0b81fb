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

/// The packed indices and the blocks' absmax of a flat weight.
pub(super) fn pack(values: &[f32], threads: usize) -> (Vec<u8>, Vec<f32>) {
    let blocks = values.len().div_ceil(BLOCK_SIZE);
    let mut packed = vec![0; values.len().div_ceil(2)];
    let mut absmax = vec![0.0; blocks];
    let each = blocks.div_ceil(threads.max(1)).max(BLOCKS_A_THREAD);
    std::thread::scope(|scope| {
        let parts = values.chunks(each * BLOCK_SIZE).zip(packed.chunks_mut(each * BLOCK_SIZE / 2));
        let mut parts = parts.zip(absmax.chunks_mut(each));
        let last = parts.next_back();
        for ((values, packed), absmax) in parts {
            scope.spawn(move || pack_part(values, packed, absmax));
        }
        if let Some(((values, packed), absmax)) = last {
            pack_part(values, packed, absmax);
        }
    });
    (packed, absmax)
}

/// Some whole blocks, and perhaps the short one at the end.
fn pack_part(values: &[f32], packed: &mut [u8], absmax: &mut [f32]) {
    let blocks = values.chunks(BLOCK_SIZE).zip(packed.chunks_mut(BLOCK_SIZE / 2)).zip(absmax);
    for ((values, packed), absmax) in blocks {
        match <&[f32; BLOCK_SIZE]>::try_from(values) {
            Ok(block) => *absmax = whole_block(block, packed),
            Err(_) => *absmax = short_block(values, packed),
        }
    }
}

fn whole_block(values: &[f32; BLOCK_SIZE], packed: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let reciprocal = 1.0 / absmax.max(LEAST);
    write(&values.map(|value| value * reciprocal), packed);
    absmax
}

/// As bitsandbytes: the short block divides where whole ones multiply, and stores the clamped absmax. What is
/// missing counts as zero.
fn short_block(values: &[f32], packed: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0.0_f32, |most, value| most.max(value.abs())).max(LEAST);
    let mut scaled = [0.0; BLOCK_SIZE];
    scaled.iter_mut().zip(values).for_each(|(scaled, value)| *scaled = value / absmax);
    write(&scaled, packed);
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
