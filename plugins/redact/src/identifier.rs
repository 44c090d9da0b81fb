//! Other numbers that identify a person, after a cue: driver's licences,
//! passports, policies, accounts, members, device serial numbers.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

static IDENTIFIER: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?i)\b(?:licen[cs]e|passport|policy|account|acct\.?|member(?:ship)?|insurance|beneficiary|group|serial|medicare|medicaid|npi|dea)",
        r"(?: (?:number|no\.?|id|#))?\s*(?:[:#=]|is|was)*\s*#?(?P<value>[a-z]{0,4}-?[0-9][a-z0-9]*(?:-[a-z0-9]+)*)\b",
    ))
});

/// What the pattern starts with.
const CUES: [&str; 13] = [
    "licen",
    "passport",
    "policy",
    "account",
    "acct",
    "member",
    "insurance",
    "beneficiary",
    "group",
    "serial",
    "medic",
    "npi",
    "dea",
];

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if span::has_digits(text, 4) && span::mentions(text, &CUES) {
        let accept = |value: &str| span::digits(value).count() >= 6;
        span::collect(&IDENTIFIER, text, Kind::Id, accept, out);
    }
}
