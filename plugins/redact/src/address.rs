//! Street addresses and the parts of them that stand alone: suites, post-office
//! boxes and postal codes. Streets are known by their suffix, or by a cue such as
//! `lives at` where the suffix is missing or foreign.

use std::sync::LazyLock;

use regex::Regex;

use crate::span::{self, Kind, Span};

macro_rules! state {
    () => {
        r"(?:A[AEKLPRZ]|C[AOT]|D[CE]|F[LM]|G[AU]|HI|I[ADLN]|K[SY]|LA|M[ADEHINOPST]|N[CDEHJMVY]|O[HKR]|P[ARW]|RI|S[CD]|T[NX]|UT|V[AIT]|W[AIVY])"
    };
}
macro_rules! unit {
    () => {
        r"(?i:suite|ste\.?|apt\.?|apartment|unit|room) ?#?[0-9]+[A-Za-z]?"
    };
}

static STREET: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"\b(?P<value>[0-9]{1,6}[A-Za-z]?(?: [0-9]{1,6})?(?: (?:[NSEW]\.?|North|South|East|West))?(?: (?:(?u-i:[A-Z\u{80}-\u{10ffff}])(?u-i:[A-Za-z'.\u{80}-\u{10ffff}-])*|[0-9]{1,3}(?:st|nd|rd|th))){1,4}? ",
        r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Court|Way|Place|Pl|Terrace|Circle|Cir|Highway|Hwy|Parkway|Pkwy|Square|Trail|Crescent|Close)\b\.?",
        r"(?:,?\s+",
        unit!(),
        r")?(?:,? [A-Z][a-z]+(?: [A-Z][a-z]+)?,? ",
        state!(),
        r"(?: [0-9]{5}(?:-[0-9]{4})?)?)?)",
    ))
});
static UNIT: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(r"\b(?P<value>(?i:suite|ste\.|apt\.?|apartment|p\.? ?o\.? box) ?#?[0-9]+[A-Za-z]?)\b")
});
static MILITARY: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r"\b(?P<value>(?:(?:PSC|CMR|Unit) [0-9]+,? Box [0-9]+,?\s+|USN?S [A-Z][a-z]+,?\s+)?(?:APO|FPO|DPO),? A[AEP] [0-9]{5})\b",
    )
});
static AFTER_CUE: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?i)\b(?:(?:lives?|living|lived|resides?|residing|moved|sent|delivered|located|arrived) (?:at|to|on)|address(?:\s+(?:is|to|with)|\s*:)(?: the same:)?|home:)\s+",
        r"(?P<value>[0-9]{1,6}(?-i: (?u-i:[0-9A-Z\u{80}-\u{10ffff}])(?u-i:[0-9A-Za-z'.\u{80}-\u{10ffff}-])*| (?:de|la|le|du|van|der|di|da|of))+)",
    ))
});
static ZIP: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?:\b",
        state!(),
        r"|(?i:zip(?: ?code)?|postal code|postcode)(?: is|:)?)[ ,]*\s{0,2}(?P<value>[0-9]{5}(?:-[0-9]{4})?)\b",
    ))
});

/// What each pattern cannot match without.
const MILITARY_CUES: [&str; 3] = ["apo", "fpo", "dpo"];
const SUFFIXES: [&str; 24] = [
    " st",
    " ave",
    " road",
    " rd",
    " boulevard",
    " blvd",
    " lane",
    " ln",
    " drive",
    " court",
    " way",
    " pl",
    " terrace",
    " cir",
    " highway",
    " hwy",
    " parkway",
    " pkwy",
    " square",
    " trail",
    " crescent",
    " close",
    " street",
    " avenue",
];
const PLACES: [&str; 12] = [
    "live ", "lives ", "lived ", "living ", "resid", "moved ", "sent ", "deliver", "located", "arrived", "address",
    "home:",
];
const UNITS: [&str; 5] = ["suite", "ste.", "apt", "apartment", "box"];

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    let numbered = span::has_digits(text, 1);
    let detectors = [(&MILITARY, &MILITARY_CUES[..]), (&STREET, &SUFFIXES), (&AFTER_CUE, &PLACES), (&UNIT, &UNITS)];
    for (pattern, cues) in detectors {
        if numbered && span::mentions(text, cues) {
            span::collect(pattern, text, Kind::Address, |_| true, out);
        }
    }
    if span::has_digits(text, 5) {
        span::collect(&ZIP, text, Kind::Zip, |_| true, out);
    }
}
