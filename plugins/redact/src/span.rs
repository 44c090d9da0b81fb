//! Where something was found and what kind it is, and how overlaps are settled.

use regex::Regex;

/// What a finding is. The label is what a token and the audit log show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A person's name, without the title.
    Name,
    /// A date, or a part of one finer than a year.
    Date,
    /// A telephone, fax or pager number.
    Phone,
    /// An e-mail address.
    Email,
    /// A web address.
    Url,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A US social security number.
    Ssn,
    /// A medical record, chart or patient number.
    Mrn,
    /// A licence, policy, account or member number.
    Id,
    /// A street address or a part of one.
    Address,
    /// A postal code.
    Zip,
    /// A payment card's number, checksum verified.
    Card,
    /// A bank account number, checksum verified.
    Iban,
    /// An age over 89.
    Age,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::Name,
        Self::Date,
        Self::Phone,
        Self::Email,
        Self::Url,
        Self::Ip,
        Self::Ssn,
        Self::Mrn,
        Self::Id,
        Self::Address,
        Self::Zip,
        Self::Card,
        Self::Iban,
        Self::Age,
    ];

    /// The name in findings; tokens show it in capitals.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Date => "date",
            Self::Phone => "phone",
            Self::Email => "email",
            Self::Url => "url",
            Self::Ip => "ip",
            Self::Ssn => "ssn",
            Self::Mrn => "mrn",
            Self::Id => "id",
            Self::Address => "address",
            Self::Zip => "zip",
            Self::Card => "card",
            Self::Iban => "iban",
            Self::Age => "age",
        }
    }
}

/// A found stretch of text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
}

impl Span {
    pub(crate) fn new(range: core::ops::Range<usize>, kind: Kind) -> Self {
        Self { start: range.start, end: range.end, kind }
    }
}

/// Keeps the first found of any that overlap; the result is sorted.
pub(crate) fn settle(found: Vec<Span>) -> Vec<Span> {
    let mut kept: std::collections::BTreeMap<usize, Span> = std::collections::BTreeMap::new();
    for span in found {
        // What is kept never overlaps, so only the nearest neighbour that starts
        // before this span's end can touch it.
        let touches = kept.range(..span.end).next_back().is_some_and(|(_, before)| before.end > span.start);
        if !touches && span.start < span.end {
            kept.insert(span.start, span);
        }
    }
    kept.into_values().collect()
}

/// Compiles one of this crate's constant patterns.
#[allow(clippy::expect_used)] // constants: the test of each file compiles all of them
pub(crate) fn pattern(source: &str) -> Regex {
    regex::RegexBuilder::new(source).unicode(false).build().expect("a constant pattern compiles")
}

/// Adds the capture group `value` of each match of `pattern` that `accept` takes.
pub(crate) fn collect(pattern: &Regex, text: &str, kind: Kind, accept: impl Fn(&str) -> bool, out: &mut Vec<Span>) {
    for captures in pattern.captures_iter(text) {
        if let Some(value) = captures.name("value").filter(|v| accept(v.as_str())) {
            out.push(Span::new(value.range(), kind));
        }
    }
}

/// Whether `text` has a number of at least `count` digits, separators inside it not counted.
///
/// This and [`mentions`] are cheap looks before a pattern is used for the first time: every record gets an instance of
/// its own, and compiling all patterns costs it fifty times more than using them.
pub(crate) fn has_digits(text: &str, count: usize) -> bool {
    let mut run = 0;
    text.bytes().any(|byte| {
        run = match byte {
            b'0'..=b'9' => run + 1,
            b' ' | b'-' | b'.' | b'/' | b'(' | b')' | b':' | b'+' => run,
            _ => 0,
        };
        run >= count
    })
}

/// Whether `text` has one of `words`, which are lower-case, in any case.
pub(crate) fn mentions(text: &str, words: &[&str]) -> bool {
    let lower = text.to_ascii_lowercase();
    words.iter().any(|word| lower.contains(word))
}

/// The digits of `text`, as numbers.
pub(crate) fn digits(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.chars().filter_map(|c| c.to_digit(10))
}
