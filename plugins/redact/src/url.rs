//! Web addresses: with a scheme, or starting with `www.`.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

static URL: LazyLock<Regex> =
    LazyLock::new(|| span::pattern(r#"(?i)\b(?P<value>(?:(?:https?|ftp)://|www\.)[a-z0-9][!#-&*-;=?-~]*[a-z0-9/])"#));

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if text.contains("://") || text.contains("www.") || text.contains("WWW.") {
        span::collect(&URL, text, Kind::Url, |_| true, out);
    }
}
