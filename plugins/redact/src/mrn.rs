//! Medical record, chart and patient numbers. A bare number says nothing, so a
//! cue must stand before it.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

static MRN: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?i)\b(?:mrn|mr ?#|medical record(?: (?:number|no\.?|id|#))?",
        r"|(?:chart|patient|hospital|case|encounter|visit|accession|specimen)(?:(?:'|’)s)?[ -]?(?:number|no\.|id|identifier|#))",
        r"\s*(?:[:#=-]|is|was|of)*\s*#?(?P<value>[a-z]{0,4}[-/]?[0-9][a-z0-9]*(?:[-/][a-z0-9]+)*)\b",
    ))
});

/// What the pattern starts with.
const CUES: [&str; 12] = [
    "mrn",
    "mr#",
    "mr #",
    "record",
    "chart",
    "patient",
    "hospital",
    "case",
    "encounter",
    "visit",
    "accession",
    "specimen",
];

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if span::has_digits(text, 3) && span::mentions(text, &CUES) {
        let accept = |value: &str| span::digits(value).count() >= 4;
        span::collect(&MRN, text, Kind::Mrn, accept, out);
    }
}
