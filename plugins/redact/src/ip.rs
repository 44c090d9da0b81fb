//! IPv4 and IPv6 addresses. The pattern is wide; `std`'s parser decides.

use std::{net::IpAddr, sync::LazyLock};

use regex::Regex;

use crate::span::{self, Kind, Span};

static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r"(?i)(?:^|(?u-i:[^0-9A-Za-z.:]))(?P<value>[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7})\b",
    )
});

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    // Both kinds of address have at least three separators with hexadecimal digits right before them.
    let separators = text.as_bytes().windows(2).filter(|w| w[0].is_ascii_hexdigit() && matches!(w[1], b'.' | b':'));
    if span::has_digits(text, 1) && separators.count() >= 3 {
        span::collect(&ADDRESS, text, Kind::Ip, is_address, out);
    }
}

fn is_address(value: &str) -> bool {
    match value.parse() {
        Ok(IpAddr::V4(_)) => true,
        // `::` and `1::` are valid but say nothing; a real one has four groups.
        Ok(IpAddr::V6(_)) => value.split(':').filter(|group| !group.is_empty()).count() >= 4,
        Err(_) => false,
    }
}
