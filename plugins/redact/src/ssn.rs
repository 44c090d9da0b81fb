//! US social security numbers: written with separators, or nine digits after a cue.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

static SEPARATED: LazyLock<Regex> = LazyLock::new(|| span::pattern(r"\b(?P<value>[0-9]{3}[- ][0-9]{2}[- ][0-9]{4})\b"));
static AFTER_CUE: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(r"(?i)\b(?:ssn|social security(?: (?:number|no\.?|#))?)[\s:#]*(?:is |was )?(?P<value>[0-9]{9})\b")
});

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if span::has_digits(text, 9) {
        span::collect(&SEPARATED, text, Kind::Ssn, is_issued, out);
    }
    if span::has_digits(text, 9) && span::mentions(text, &["ssn", "social"]) {
        span::collect(&AFTER_CUE, text, Kind::Ssn, |_| true, out);
    }
}

/// No number was ever issued with area 000 or 666, group 00 or serial 0000.
fn is_issued(value: &str) -> bool {
    let (area, group, serial) = (&value[..3], &value[4..6], &value[7..]);
    area != "000" && area != "666" && group != "00" && serial != "0000"
}
