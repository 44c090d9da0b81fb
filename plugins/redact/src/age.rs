//! Ages over 89, in digits and in words. Younger ages are no identifier under
//! Safe Harbor, and medicine needs them.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

/// 90 to 129 in digits, or in words as speech-to-text writes them.
macro_rules! old {
    () => {
        concat!(
            r"(?P<value>9[0-9]|1[0-2][0-9]",
            r"|ninety(?:[ -](?:one|two|three|four|five|six|seven|eight|nine))?",
            r"|(?:a|one) hundred(?:(?: and)?[ -](?:one|two|three|four|five|six|seven|eight|nine|ten))?)",
        )
    };
}

static WITH_UNIT: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(r"(?i)\b", old!(), r"[ -]*(?:years?[ -]old|years? of age|y\.?/?o\b|yr\.?[ -]old)",))
});
static AFTER_CUE: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?i)\b(?:age[:d]?(?: of| is)?|i am|i(?:'|’)m|(?:s?he)(?: is|(?:'|’)s)|(?:just )?turned|turning)\s+",
        old!(),
        r"(?:[.,!?;]|\s+(?:now|and|next|last|this)\b|\s*$)",
    ))
});

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    let bytes = text.as_bytes();
    let nineties = bytes.windows(2).any(|w| w[0] == b'9' && w[1].is_ascii_digit());
    let hundreds = bytes.windows(3).any(|w| w[0] == b'1' && w[1..].iter().all(u8::is_ascii_digit));
    if nineties || hundreds || span::mentions(text, &["ninety", "hundred"]) {
        span::collect(&WITH_UNIT, text, Kind::Age, |_| true, out);
        span::collect(&AFTER_CUE, text, Kind::Age, |_| true, out);
    }
}
