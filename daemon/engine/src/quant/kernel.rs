//! The CPU's kernels over packed weights: portable code, and AVX2 where the processor has it. They are called
//! from libtorch's threads through the function pointers in [`KERNELS`], on disjoint parts of the output.
//!
//! INVARIANT: `fill` gives the same bits as the libtorch path (`level * absmax`, in float32), whichever of
//! the two implementations runs.

#![allow(unsafe_code)]

use std::slice::{from_raw_parts, from_raw_parts_mut};

use super::nf4::{BLOCK, LEVELS, NESTED_BLOCK};

/// A 4-bit weight as the shim passes it; `codes` is null when absmax is plain.
#[repr(C)]
#[derive(Debug)]
pub struct Nf4View {
    packed: *const u8,
    codes: *const u8,
    absmax: *const f32,
    map: *const f32,
    offset: f32,
}

type Nf4Fill = unsafe extern "C" fn(*const Nf4View, i64, i64, *mut f32);
type Nf4Rows = unsafe extern "C" fn(*const Nf4View, i64, i64, i64, *const f32, i64, *mut f32, i64);
type Bf16Rows = unsafe extern "C" fn(*const u16, i64, i64, i64, *const f32, i64, *mut f32, i64);

/// The table that the shim calls through.
#[repr(C)]
#[derive(Debug)]
pub struct Kernels {
    nf4_fill: Nf4Fill,
    nf4_rows: Nf4Rows,
    bf16_rows: Bf16Rows,
}

/// The kernels of this build.
pub static KERNELS: Kernels = Kernels { nf4_fill, nf4_rows, bf16_rows };

const BLOCK_SIZE: usize = BLOCK as usize;

/// The two levels of each possible byte, the high nibble's first.
static PAIRS: [[f32; 2]; 256] = pairs();

const fn pairs() -> [[f32; 2]; 256] {
    let mut table = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [LEVELS[byte >> 4], LEVELS[byte & 15]];
        byte += 1;
    }
    table
}

impl Nf4View {
    /// The scale of a block.
    ///
    /// # Safety
    /// The view's pointers are valid for every block up to this one.
    unsafe fn scale(&self, block: usize) -> f32 {
        // SAFETY: the caller vouches for the block; a code indexes a map of 256.
        unsafe {
            if self.codes.is_null() {
                return *self.absmax.add(block);
            }
            let value = *self.map.add(usize::from(*self.codes.add(block)));
            value * *self.absmax.add(block / NESTED_BLOCK as usize) + self.offset
        }
    }

    /// Dequantises elements `[start, start + out.len())` of the flat weight.
    ///
    /// # Safety
    /// The view holds at least that many elements.
    unsafe fn fill(&self, start: usize, out: &mut [f32]) {
        let wide = wide();
        let end = start + out.len();
        let mut at = start;
        while at < end {
            let block = at / BLOCK_SIZE;
            let stop = end.min((block + 1) * BLOCK_SIZE);
            let target = &mut out[at - start..stop - start];
            // SAFETY: `at..stop` lies within the weight, by the caller's word; `packed` holds two elements a byte.
            let (scale, bytes) =
                unsafe { (self.scale(block), from_raw_parts(self.packed.add(at / 2), stop.div_ceil(2) - at / 2)) };
            match (wide, <&mut [f32; BLOCK_SIZE]>::try_from(&mut *target)) {
                // SAFETY: `wide` says that the processor has AVX2; a whole block starts at an even element.
                #[cfg(target_arch = "x86_64")]
                (true, Ok(block)) => unsafe { avx2::fill_block(bytes, scale, block) },
                _ => fill_part(bytes, at % 2 == 1, scale, target),
            }
            at = stop;
        }
    }
}

/// Part of a block, beginning in the low nibble if `odd`.
fn fill_part(bytes: &[u8], odd: bool, scale: f32, out: &mut [f32]) {
    let (bytes, out) = match (odd, bytes.split_first(), out.split_first_mut()) {
        (true, Some((byte, bytes)), Some((first, out))) => {
            *first = PAIRS[usize::from(*byte)][1] * scale;
            (bytes, out)
        }
        (_, _, _) => (bytes, out),
    };
    let mut pairs = out.chunks_exact_mut(2);
    let mut rest = bytes.iter();
    for (pair, byte) in pairs.by_ref().zip(rest.by_ref()) {
        let [high, low] = PAIRS[usize::from(*byte)];
        pair[0] = high * scale;
        pair[1] = low * scale;
    }
    if let (Some(last), Some(byte)) = (pairs.into_remainder().first_mut(), rest.next()) {
        *last = PAIRS[usize::from(*byte)][0] * scale;
    }
}

/// Whether the processor has AVX2 and FMA.
fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Σ aᵢ·bᵢ, in lanes, so that the compiler can use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        // SAFETY: the processor has what the function needs.
        return unsafe { avx2::dot(a, b) };
    }
    let mut lanes = [0.0_f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

unsafe extern "C" fn nf4_fill(view: *const Nf4View, start: i64, count: i64, out: *mut f32) {
    // SAFETY: the shim passes a live view that holds the range, and a tile of `count` floats of its own.
    unsafe { (*view).fill(start as usize, from_raw_parts_mut(out, count as usize)) }
}

unsafe extern "C" fn nf4_rows(
    view: *const Nf4View,
    columns: i64,
    begin: i64,
    end: i64,
    x: *const f32,
    count: i64,
    y: *mut f32,
    stride: i64,
) {
    let columns = columns as usize;
    let mut row = vec![0.0; columns];
    for at in begin..end {
        // SAFETY: rows `begin..end` lie within the view; `x` is `[count, columns]`, `y` is `[count, stride]`, and
        // no other thread has these rows.
        unsafe {
            (*view).fill(at as usize * columns, &mut row);
            products(&row, x, count, y.offset(at as isize), stride);
        }
    }
}

unsafe extern "C" fn bf16_rows(
    weight: *const u16,
    columns: i64,
    begin: i64,
    end: i64,
    x: *const f32,
    count: i64,
    y: *mut f32,
    stride: i64,
) {
    let columns = columns as usize;
    let mut row = vec![0.0; columns];
    for at in begin..end {
        // SAFETY: as in `nf4_rows`; the weight holds `columns` elements a row.
        unsafe {
            widen(from_raw_parts(weight.add(at as usize * columns), columns), &mut row);
            products(&row, x, count, y.offset(at as isize), stride);
        }
    }
}

/// bfloat16 is the upper half of a float32.
fn widen(narrow: &[u16], out: &mut [f32]) {
    for (out, bits) in out.iter_mut().zip(narrow) {
        *out = f32::from_bits(u32::from(*bits) << 16);
    }
}

/// One weight row times each of `count` inputs.
///
/// # Safety
/// `x` holds `count` rows of `row.len()` floats; `y` may be written at `t * stride` for t below `count`.
unsafe fn products(row: &[f32], x: *const f32, count: i64, y: *mut f32, stride: i64) {
    for t in 0..count as usize {
        // SAFETY: by the caller's word.
        unsafe { *y.add(t * stride as usize) = dot(row, from_raw_parts(x.add(t * row.len()), row.len())) };
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    //! The same with 256-bit vectors.

    use std::arch::x86_64::*;

    use super::{BLOCK_SIZE, LEVELS};

    /// A whole block: 32 bytes → 64 floats. A half is 16 bytes → 32 floats.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fill_block(bytes: &[u8], scale: f32, out: &mut [f32; BLOCK_SIZE]) {
        let (low, high) = LEVELS.split_at(8);
        // SAFETY: each half of the 16 levels holds eight floats.
        let table = unsafe { [_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())] };
        let scale = _mm256_set1_ps(scale);
        let nibble = _mm_set1_epi8(15);
        for (bytes, out) in bytes.chunks_exact(16).zip(out.chunks_exact_mut(32)) {
            // SAFETY: the chunk holds 16 bytes.
            let packed = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
            let first = _mm_and_si128(_mm_srli_epi16(packed, 4), nibble);
            let second = _mm_and_si128(packed, nibble);
            let (begin, end) = (_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second));
            let eights = [begin, _mm_unpackhi_epi64(begin, begin), end, _mm_unpackhi_epi64(end, end)];
            for (codes, out) in eights.into_iter().zip(out.chunks_exact_mut(8)) {
                let values = _mm256_mul_ps(lookup(table, codes), scale);
                // SAFETY: the chunk holds eight floats.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
            }
        }
    }

    /// The levels of the first eight codes.
    #[target_feature(enable = "avx2,fma")]
    fn lookup(table: [__m256; 2], codes: __m128i) -> __m256 {
        let index = _mm256_cvtepu8_epi32(codes);
        let [low, high] = table.map(|half| _mm256_permutevar8x32_ps(half, index));
        // Bit 3 chooses the half of the table; moved to the sign, which is what the blend reads.
        _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)))
    }

    /// Σ aᵢ·bᵢ in 32 lanes, which the compiler keeps in four registers.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; 32];
        let (a_chunks, a_rest) = a.as_chunks::<32>();
        let (b_chunks, b_rest) = b.as_chunks::<32>();
        for (a, b) in a_chunks.iter().zip(b_chunks) {
            for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                *lane = a.mul_add(*b, *lane);
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        lanes.iter().sum::<f32>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_fills_agree_to_the_bit_from_any_start() {
        let packed: Vec<u8> = (0..200_u32).map(|i| (i * 37 % 256) as u8).collect();
        let absmax = [0.5_f32, 1.25, 3.0, 0.0, 7.5, 0.1, 2.0];
        let view = Nf4View {
            packed: packed.as_ptr(),
            codes: std::ptr::null(),
            absmax: absmax.as_ptr(),
            map: std::ptr::null(),
            offset: 0.0,
        };
        for (start, count) in [(0, 400), (1, 399), (63, 130), (64, 64), (65, 1), (127, 2), (320, 79)] {
            let mut out = vec![f32::NAN; count];
            // SAFETY: the ranges lie within 400 elements.
            unsafe { view.fill(start, &mut out) };
            for (i, value) in out.iter().enumerate() {
                let at = start + i;
                let level = PAIRS[usize::from(packed[at / 2])][at % 2];
                assert_eq!(value.to_bits(), (level * absmax[at / 64]).to_bits(), "element {at}");
            }
        }
    }

    #[test]
    fn a_dot_product_is_the_sum_whatever_the_length() {
        for len in [0, 1, 7, 8, 31, 32, 33, 200] {
            let a: Vec<f32> = (0..len).map(|i| i as f32 * 0.25 - 3.0).collect();
            let b: Vec<f32> = (0..len).map(|i| 1.0 - i as f32 * 0.5).collect();
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(dot(&a, &b)) - exact).abs() <= 1e-6 * exact.abs().max(1.0), "length {len}");
        }
    }
}
