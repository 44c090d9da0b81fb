//! Dates and the parts of dates finer than a year: numeric, with a month's name,
//! and as they are spoken (`July thirty first`). A year alone stays, as Safe
//! Harbor allows; so does a weekday.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

/// The full names and, where a number follows, the abbreviations.
macro_rules! month {
    () => {
        r"(?:jan(?:uary|\.)?|feb(?:ruary|\.)?|mar(?:ch|\.)?|apr(?:il|\.)?|may|june?\.?|july?\.?|aug(?:ust|\.)?|sept?(?:ember|\.)?|oct(?:ober|\.)?|nov(?:ember|\.)?|dec(?:ember|\.)?)"
    };
}
macro_rules! ordinal_word {
    () => {
        concat!(
            r"(?:(?:twenty|thirty)[ -])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)",
            r"|tenth|eleventh|twelfth|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth",
        )
    };
}
macro_rules! year {
    () => {
        r"(?:1[89]|20)[0-9]{2}"
    };
}
macro_rules! time {
    () => {
        r"(?:[ T,]{1,2}[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?: ?[ap]\.?m\b)?)?"
    };
}

static NUMERIC: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?i)\b(?P<value>(?:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}",
        r"|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:1[89]|20)[0-9]{2}|[0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{2}",
        r"|(?:0?[1-9]|1[0-2])/(?:19|20)[0-9]{2})",
        time!(),
        r")\b",
    ))
});
static AFTER_CUE: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r"(?i)\b(?:dated|dob:?|(?:seen|born|admitted|discharged|performed|done|started|visit) on|since)\s+(?P<value>[0-9]{1,2}/[0-9]{1,2})(?:(?u-i:[^0-9/])|$)",
    )
});
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?i)\b(?P<value>",
        // July 31, 2008; July 31st; July thirty first
        month!(),
        r"\s+(?:the )?(?:[0-9]{1,2}(?:st|nd|rd|th)?\b|(?:",
        ordinal_word!(),
        r")\b)(?:,?\s+(?:of )?",
        year!(),
        r"\b|,? o[h]? (?:one|two|three|four|five|six|seven|eight|nine)\b)?",
        // 31 July 2008; the tenth of July; 31-Jul-2008
        r"|(?:[0-9]{1,2}(?:st|nd|rd|th)?|(?:",
        ordinal_word!(),
        r"))(?: of |[ -])",
        month!(),
        r"\b(?:,?[ -](?:of )?",
        year!(),
        r"\b)?",
        // July 2008
        r"|",
        month!(),
        r",?\s+(?:of )?",
        year!(),
        r"\b)",
    ))
});
/// A month alone counts after a word that makes it a date; `may` and `march` are
/// verbs too, so those two only with their capital.
static MONTH: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"\b(?i:in|since|last|this|of|by|until|from|early|late|mid|next)[ -]",
        r"(?P<value>January|February|March|April|May|June|July|August|September|October|November|December)\b",
    ))
});

const MONTH_STEMS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    if span::has_digits(text, 4) && text.contains(['/', '-', '.']) {
        span::collect(&NUMERIC, text, Kind::Date, is_calendar, out);
    }
    if span::has_digits(text, 2) && text.contains('/') {
        span::collect(&AFTER_CUE, text, Kind::Date, is_calendar, out);
    }
    let lower = text.to_ascii_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphabetic());
    if words.any(|word| MONTH_STEMS.iter().any(|stem| word.starts_with(stem))) {
        span::collect(&NAMED, text, Kind::Date, is_day_of_month, out);
        span::collect(&MONTH, text, Kind::Date, |_| true, out);
    }
}

/// Whether the numbers can be a date in some order: this is what keeps `10/325`,
/// `24-48-72` and version numbers apart from dates.
fn is_calendar(value: &str) -> bool {
    let date = value.split([' ', 'T', 't', ',']).next().unwrap_or(value);
    let separators: Vec<char> = date.chars().filter(|c| !c.is_ascii_digit()).collect();
    let parts: Vec<u32> = date.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
    let day_and_month = |a: u32, b: u32| (1..=31).contains(&a) && (1..=31).contains(&b) && (a <= 12 || b <= 12);
    match *parts.as_slice() {
        [month, year] if year > 1800 => (1..=12).contains(&month),
        [a, b] => day_and_month(a, b),
        _ if separators.windows(2).any(|pair| pair[0] != pair[1]) => false,
        [year, a, b] if year > 1800 => year < 2100 && day_and_month(a, b),
        [a, b, _] => day_and_month(a, b),
        _ => false,
    }
}

/// `may 500 mg` and `sat 92` are no dates: a day is at most 31, and a lower-case
/// `may` or `mar` is a word unless an ordinal or a year follows.
fn is_day_of_month(value: &str) -> bool {
    let number: String = value.chars().filter(char::is_ascii_digit).take(4).collect();
    let day = match number.len() {
        1 | 2 => number.parse().unwrap_or(0),
        _ => 1,
    };
    let verb = value.starts_with("may ") || value.starts_with("march ") || value.starts_with("mar ");
    (1..=31).contains(&day) && !(verb && value.bytes().filter(u8::is_ascii_digit).count() < 3)
}
