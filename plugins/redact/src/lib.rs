//! `redact`: finds what identifies a person and puts a typed token in its place.
//!
//! One file a kind of finding, each a pure `find(text) -> spans`; this file runs
//! them, settles overlaps and writes the record anew. What always holds:
//! - Time is linear in the record: `regex` never backtracks, and what is written
//!   by hand moves forward only.
//! - The same entity gets the same token throughout a record (`Dr. Kumar` in the
//!   question and `Kumar` in the note are both `[NAME_1]`), so a note still says
//!   who did what.
//! - Medicine stays: eponyms (`Crohn's disease`), doses (`10/325 mg`), readings
//!   (`120/80`) and levels (`T4-5`) are no findings; `tests` below hold that.
//!
//! The kinds follow HIPAA's Safe Harbor list (45 CFR 164.514(b)(2)) as far as
//! text without a dictionary of all names and places can show them. It is no
//! proof of anonymity: the measured recall is in `tests/recall.rs`.

mod address;
mod age;
mod card;
mod date;
mod email;
mod entity;
mod iban;
mod identifier;
mod ip;
mod mrn;
mod name;
mod name_words;
mod phone;
mod span;
mod speaker;
mod ssn;
mod url;

use cloister_plugin_sdk::{Cleaner, Description, Finding, Message, Outcome, export_cleaner};
use entity::Entities;
pub use span::{Kind, Span};

/// The plugin.
pub struct Redact;

export_cleaner!(Redact);

impl Cleaner for Redact {
    fn describe() -> Description {
        Description {
            name: "redact".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Replaces names, dates, contact details, numbers that identify and ages \
                      over 89 by typed tokens."
                .into(),
            gives: Kind::ALL.map(|kind| kind.label().to_owned()).into(),
        }
    }

    fn clean(mut messages: Vec<Message>) -> Outcome {
        let texts: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        let spans = find_all(&texts);
        let mut entities = Entities::default();
        let mut findings = Vec::new();
        for (index, (message, spans)) in messages.iter_mut().zip(&spans).enumerate() {
            message.content = replace(index, &message.content, spans, &mut entities, &mut findings);
        }
        Outcome::Kept { messages, findings }
    }
}

/// What identifies somebody in each text of one record: sorted, never overlapping.
///
/// The texts are looked at together because a name that is introduced in one of
/// them (`I am Doctor Kumar`) is known in the others, where it may stand bare.
pub fn find_all(texts: &[&str]) -> Vec<Vec<Span>> {
    let mut found: Vec<Vec<Span>> = texts.iter().map(|text| find(text)).collect();
    let known = name::known_words(texts, &found);
    for (text, spans) in texts.iter().zip(&mut found) {
        name::find_known(text, &known, spans);
        *spans = span::settle(core::mem::take(spans));
    }
    found
}

/// Every detector over one text. Order is precedence: of two overlapping spans
/// the earlier detector's is kept, so the more specific ones come first.
fn find(text: &str) -> Vec<Span> {
    let detectors: [fn(&str, &mut Vec<Span>); 15] = [
        email::find,
        url::find,
        ip::find,
        iban::find,
        card::find,
        ssn::find,
        mrn::find,
        identifier::find,
        date::find,
        phone::find,
        address::find,
        age::find,
        name::find_introduced,
        speaker::find,
        name::find_given,
    ];
    let mut spans = Vec::new();
    for detect in detectors {
        detect(text, &mut spans);
    }
    spans
}

/// `text` with each span replaced by its entity's token; says so in `findings`.
fn replace(message: usize, text: &str, spans: &[Span], entities: &mut Entities, findings: &mut Vec<Finding>) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut copied = 0;
    for span in spans {
        let replacement = entities.token(span.kind, &text[span.start..span.end]);
        cleaned.push_str(&text[copied..span.start]);
        cleaned.push_str(&replacement);
        copied = span.end;
        findings.push(Finding {
            kind: span.kind.label().into(),
            message: offset(message),
            start: offset(span.start),
            end: offset(span.end),
            replacement,
        });
    }
    cleaned.push_str(&text[copied..]);
    cleaned
}

/// WebAssembly memory ends at 4 GiB, so an offset always fits.
fn offset(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
