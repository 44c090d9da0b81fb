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
    if text.bytes().filter(|b| matches!(b, b'.' | b':')).count() >= 2 && span::has_digits(text, 1) {
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
