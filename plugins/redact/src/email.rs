//! E-mail addresses.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| span::pattern(r"(?i)\b(?P<value>[a-z0-9._%+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,24})\b"));

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if text.contains('@') {
        span::collect(&EMAIL, text, Kind::Email, |_| true, out);
    }
}
