//! Payment card numbers: 13 to 19 digits that pass Luhn's checksum (ISO/IEC 7812).

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

static CARD: LazyLock<Regex> = LazyLock::new(|| span::pattern(r"\b(?P<value>[2-6][0-9]{3}(?:[ -]?[0-9]){9,15})\b"));

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if span::has_digits(text, 13) {
        span::collect(&CARD, text, Kind::Card, passes_luhn, out);
    }
}

fn passes_luhn(value: &str) -> bool {
    let digits: Vec<u32> = span::digits(value).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, &digit)| match (index % 2, digit) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => 2 * digit - 9,
            (_, digit) => 2 * digit,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::passes_luhn;

    #[test]
    fn checksum_decides() {
        assert!(passes_luhn("4111 1111 1111 1111"));
        assert!(!passes_luhn("4111 1111 1111 1112"));
    }
}
