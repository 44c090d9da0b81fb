//! How much of a text has been said before, in words and in bytes.

use std::collections::{HashMap, HashSet};

use crate::share;

/// Words in a run.
const RUN: usize = 4;
/// Shortest copy that counts: shorter ones occur by chance in any prose.
const COPY: usize = 16;

/// The share of four-word runs that occurred earlier in the text.
pub(crate) fn repeated_runs(words: &[&str]) -> f64 {
    let mut seen = HashSet::new();
    let repeated = words.windows(RUN).filter(|run| !seen.insert(*run)).count();
    share(repeated, words.len().saturating_sub(RUN - 1))
}

/// The share of bytes that lie in copies of at least [`COPY`] earlier bytes: greedy, as an LZ77 compressor finds them.
pub(crate) fn redundancy(bytes: &[u8]) -> f64 {
    let mut latest: HashMap<&[u8], usize> = HashMap::new();
    let (mut at, mut copied, mut indexed) = (0, 0, 0);
    while at + COPY <= bytes.len() {
        while indexed < at {
            latest.insert(&bytes[indexed..indexed + COPY], indexed);
            indexed += 1;
        }
        match latest.get(&bytes[at..at + COPY]) {
            Some(&from) => {
                let length = bytes[at..].iter().zip(&bytes[from..]).take_while(|(a, b)| a == b).count();
                copied += length;
                at += length;
                // The last window must fit; what lies beyond can start no copy.
                indexed = indexed.max(at.saturating_sub(COPY));
            }
            None => at += 1,
        }
    }
    share(copied, bytes.len())
}
