//! The one source of chance in training: a counter-based generator, so that what is drawn depends only on
//! the seed and on what it is drawn for, never on how much was drawn before or on the machine.
//!
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The key is the
//! seed; half of the counter names the purpose (a digest of its label), the other half counts.

use ring::digest;

/// What is drawn for one purpose under one seed.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    purpose: [u32; 2],
    block: u64,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of a purpose, such as `order 3` or a module's path.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, purpose.as_bytes());
        let word = |at: usize| {
            digest.as_ref()[at..at + 4].iter().rev().fold(0u32, |word, &byte| (word << 8) | u32::from(byte))
        };
        Stream { key: halves(seed), purpose: [word(0), word(4)], block: 0, words: [0; 4], used: 4 }
    }

    /// The next 32 bits.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            let [low, high] = halves(self.block);
            self.words = philox([low, high, self.purpose[0], self.purpose[1]], self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// The next 64 bits.
    pub fn long(&mut self) -> u64 {
        u64::from(self.word()) | (u64::from(self.word()) << 32)
    }

    /// Evenly in `-bound .. bound`, a multiple of `bound / 2^23` so that every machine rounds alike.
    pub fn symmetric(&mut self, bound: f32) -> f32 {
        let steps = (self.word() >> 8) as f32; // 24 bits: exact in a float32
        (steps / 8_388_608.0 - 1.0) * bound
    }

    /// Evenly in `0 .. below` (which is above 0), without bias: Lemire's rejection.
    pub fn below(&mut self, below: u32) -> u32 {
        let threshold = below.wrapping_neg() % below;
        loop {
            let product = u64::from(self.word()) * u64::from(below);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1) as usize;
            items.swap(last, other);
        }
    }
}

fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b] = [halves(u64::from(counter[0]) * 0xD251_1F53), halves(u64::from(counter[2]) * 0xCD9E_8D57)];
        counter = [b[1] ^ counter[1] ^ key[0], b[0], a[1] ^ counter[3] ^ key[1], a[0]];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the authors' Random123 (`kat_vectors`).
    #[test]
    fn philox_gives_its_authors_answers() {
        let zero = philox([0; 4], [0; 2]);
        assert_eq!(zero, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_differs_by_purpose_and_seed() {
        let shuffled = |seed, purpose| {
            let mut items: Vec<u32> = (0..100).collect();
            Stream::new(seed, purpose).shuffle(&mut items);
            items
        };
        let mut sorted = shuffled(1, "a");
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(shuffled(1, "a"), shuffled(1, "a"));
        assert_ne!(shuffled(1, "a"), shuffled(1, "b"));
        assert_ne!(shuffled(1, "a"), shuffled(2, "a"));
    }

    #[test]
    fn symmetric_values_fill_their_range_evenly() {
        let mut stream = Stream::new(7, "values");
        let values: Vec<f32> = (0..20_000).map(|_| stream.symmetric(0.5)).collect();
        assert!(values.iter().all(|v| (-0.5..0.5).contains(v)));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.01 && (square - 1.0 / 12.0).abs() < 0.003, "{mean} {square}");
    }
}
