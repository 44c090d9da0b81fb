//! Telephone, fax and pager numbers: the North American form, the international
//! form with `+`, and any grouping of 7 to 15 digits beside a cue.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

static NORTH_AMERICAN: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?:^|(?u-i:[^0-9A-Za-z.-]))(?P<value>(?:(?:\+|00)?1[-. ])?(?:\([0-9]{3}\) ?|[0-9]{3}[-. ])[0-9]{3}[-. ][0-9]{4}",
        r"(?: ?(?:x|ext\.?|extension) ?[0-9]{1,6})?)\b",
    ))
});
static INTERNATIONAL: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r"(?:^|(?u-i:[^0-9A-Za-z]))(?P<value>(?:\+|001-)[0-9]{1,3}(?:[-. ]?\(?[0-9]{1,5}\)?){2,6}(?:x[0-9]{1,6})?)\b",
    )
});
static AFTER_CUE: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?i)\b(?:phone|telephone|tel|call|cell|mobile|fax|pager|beeper|reach|text|answering|dial|number)\b",
        r"(?: (?:me|him|her|us|them|at|on|is|number|no|back|to))*[.:#]*\s*",
        r"(?P<value>\(?[0-9]{1,5}\)?(?:[-. ]{1,2}\(?[0-9]{2,9}\)?){1,5}(?: ?x[0-9]{1,6})?)\b",
    ))
});
static BEFORE_CUE: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r"(?im)(?:^|[\s,;(])(?P<value>\(?[0-9]{1,5}\)?(?:[-. ]?\(?[0-9]{2,9}\)?){1,5}(?:x[0-9]{1,6})?)[ -](?:office|fax|cell|mobile|home phone|pager)\b",
    )
});

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if span::has_digits(text, 7) {
        for pattern in [&NORTH_AMERICAN, &INTERNATIONAL, &AFTER_CUE, &BEFORE_CUE] {
            span::collect(pattern, text, Kind::Phone, is_dialable, out);
        }
    }
}

/// Seven to fifteen digits (ITU-T E.164), an extension not counted.
fn is_dialable(value: &str) -> bool {
    let number = value.split(['x', 'e']).next().unwrap_or(value);
    (7..=15).contains(&span::digits(number).count())
}
