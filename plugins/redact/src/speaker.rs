//! Speaker labels that are names (`Anna:` at the start of a line). A label that is
//! a role (`Doctor:`) or a heading of a clinical note (`Allergies:`) stays.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::Regex;

use crate::{
    name_words::LABELS,
    span::{self, Kind, Span},
};

static LABEL: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r#"(?m)^[ \t>]*(?P<value>[A-Z](?u-i:[A-Za-z'\u{80}-\u{10ffff}-])+(?: [A-Z](?u-i:[A-Za-z'.\u{80}-\u{10ffff}-])*){0,2})[ \t]?:[ \t]*(?P<quote>\\?(?:"|“))?"#,
    )
});
static ROLE: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(r"(?m)^[ \t>]*(?:Doctor|Patient|Nurse|Guest[_ ]\w+|Interviewer|Clinician|Therapist|Physician):")
});

pub(crate) fn find(text: &str, out: &mut Vec<Span>) {
    let mut seen: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    let mut quoted: Vec<&str> = Vec::new();
    for captures in LABEL.captures_iter(text) {
        let Some(label) = captures.name("value").filter(|label| !is_role_or_heading(label.as_str())) else {
            continue;
        };
        seen.entry(label.as_str()).or_default().push(Span::new(label.range(), Kind::Name));
        if captures.name("quote").is_some() {
            quoted.push(label.as_str());
        }
    }
    if seen.is_empty() {
        return;
    }
    let dialogue = ROLE.is_match(text);
    // Headings hardly ever repeat within a note; speakers do.
    for (label, spans) in seen {
        if dialogue || spans.len() > 1 || quoted.contains(&label) {
            out.extend(spans);
        }
    }
}

fn is_role_or_heading(label: &str) -> bool {
    label.split([' ', '-']).any(|word| LABELS.has(word))
}
