//! International bank account numbers (ISO 13616), checksum mod 97 verified.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

static IBAN: LazyLock<Regex> =
    LazyLock::new(|| span::pattern(r"(?i)\b(?P<value>[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]){11,30})\b"));

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if !span::has_digits(text, 8) {
        return;
    }
    for found in IBAN.find_iter(text) {
        // Spaces belong to a printed IBAN and also follow it: the longest prefix
        // of whole groups that passes the checksum is the number.
        let mut end = found.as_str().len();
        loop {
            let value = &found.as_str()[..end];
            if is_iban(value) {
                out.push(Span::new(found.start()..found.start() + end, Kind::Iban));
                break;
            }
            match value.rfind([' ', '-']) {
                Some(shorter) => end = shorter,
                None => break,
            }
        }
    }
}

fn is_iban(value: &str) -> bool {
    let compact: Vec<u32> = value.chars().filter_map(|c| c.to_digit(36)).collect();
    if compact.len() < 15 || compact.len() > 34 {
        return false;
    }
    // The first four characters move to the end; a letter counts as two digits.
    let remainder = compact[4..]
        .iter()
        .chain(&compact[..4])
        .fold(0, |sum, &digit| (sum * if digit < 10 { 10 } else { 100 } + digit) % 97);
    remainder == 1
}

#[cfg(test)]
mod tests {
    use super::is_iban;

    #[test]
    fn checksum_decides() {
        assert!(is_iban("GB82 WEST 1234 5698 7654 32"));
        assert!(!is_iban("GB83 WEST 1234 5698 7654 32"));
    }
}
