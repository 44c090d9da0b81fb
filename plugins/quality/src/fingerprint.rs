//! One number for what a record says: equal when only case, spacing or punctuation differ.
//!
//! FNV-1a, 64 bits, over the letters and digits in lower case. Whoever writes the records could make two of them
//! collide on purpose; by accident, among a million records, it happens once in 40 million data sets.

const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The fingerprint of a conversation; where one message ends and the next begins counts.
pub(crate) fn of(contents: &[&str]) -> u64 {
    contents.iter().fold(OFFSET_BASIS, |hash, content| {
        let letters = content.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase);
        let hash = letters.fold(hash, |hash, letter| letter.encode_utf8(&mut [0; 4]).bytes().fold(hash, add));
        add(hash, 0)
    })
}

fn add(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(PRIME)
}
