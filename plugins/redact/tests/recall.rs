//! What `redact` finds in labelled text, and how much of what it finds is right: a floor a kind.
//!
//! The text is a sample of presidio-research's generated corpus (see `fixtures/NOTICE.md`). It is harder than clinical
//! dialogue: names of 30 languages without any cue, addresses of countries without street suffixes, all in lower case
//! at times. `REDACT_CORPUS=FILE cargo test -p redact --test recall -- --nocapture` measures another file of that form.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;

use redact::{Kind, Span, find_all};

/// A label of the corpus, our kind for it, and the least recall and precision in per cent.
const FLOORS: [(&str, Kind, u32, u32); 11] = [
    ("PERSON", Kind::Name, 50, 93),
    ("DATE_TIME", Kind::Date, 80, 97),
    ("PHONE_NUMBER", Kind::Phone, 93, 97),
    ("EMAIL_ADDRESS", Kind::Email, 97, 97),
    ("DOMAIN_NAME", Kind::Url, 97, 97),
    ("IP_ADDRESS", Kind::Ip, 97, 97),
    ("US_SSN", Kind::Ssn, 97, 94),
    ("US_DRIVER_LICENSE", Kind::Id, 97, 97),
    ("CREDIT_CARD", Kind::Card, 97, 97),
    ("IBAN_CODE", Kind::Iban, 97, 97),
    ("ADDRESS", Kind::Address, 33, 95),
];

#[derive(Default, Debug)]
struct Tally {
    labelled: u32,
    recalled: u32,
    found: u32,
    right: u32,
}

#[test]
fn recall_and_precision_hold_their_floor() {
    let tallies = measure(&corpus());
    println!("{:<18}{:>9}{:>9}{:>9}{:>11}", "label", "labelled", "recall", "found", "precision");
    for (label, _, recall_floor, precision_floor) in FLOORS {
        let tally = &tallies[label];
        let (recall, precision) = (percent(tally.recalled, tally.labelled), percent(tally.right, tally.found));
        println!("{label:<18}{:>9}{recall:>8.1}%{:>9}{precision:>10.1}%", tally.labelled, tally.found);
        assert!(recall >= f64::from(recall_floor), "recall of {label} fell to {recall:.1} %");
        assert!(precision >= f64::from(precision_floor), "precision of {label} fell to {precision:.1} %");
    }
}

fn corpus() -> serde_json::Value {
    let path = std::env::var("REDACT_CORPUS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/presidio_sample.json").into());
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("`{path}` cannot be read: {e}"))).unwrap()
}

fn measure(corpus: &serde_json::Value) -> BTreeMap<&'static str, Tally> {
    let mut tallies: BTreeMap<&str, Tally> = FLOORS.iter().map(|floor| (floor.0, Tally::default())).collect();
    for example in corpus.as_array().unwrap() {
        let text = example["text"].as_str().unwrap();
        let labels = labels(example, text);
        let found = find_all(&[text]).remove(0);
        for (label, kind, ..) in FLOORS {
            count(tallies.get_mut(label).unwrap(), text, &found, &labels, label, kind);
        }
    }
    tallies
}

fn count(tally: &mut Tally, text: &str, found: &[Span], labels: &[(String, Span)], label: &str, kind: Kind) {
    for (_, truth) in labels.iter().filter(|(name, _)| name == label) {
        tally.labelled += 1;
        // Recalled: more than half of it is gone, whatever it was taken for.
        let gone: usize = found.iter().map(|span| overlap(span, truth)).sum();
        tally.recalled += u32::from(2 * gone > truth.end - truth.start);
    }
    for span in found.iter().filter(|span| span.kind == kind) {
        tally.found += 1;
        let right = labels.iter().any(|(name, truth)| name == label && overlap(span, truth) > 0);
        tally.right += u32::from(right);
        if !right && std::env::var("REDACT_SHOW").is_ok() {
            println!("{kind:?}: `{}` in `{}`", &text[span.start..span.end], text.replace('\n', " "));
        }
    }
}

/// The corpus counts characters; we count bytes.
fn labels(example: &serde_json::Value, text: &str) -> Vec<(String, Span)> {
    let mut bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    bytes.push(text.len());
    let at = |span: &serde_json::Value, key: &str| bytes[span[key].as_u64().unwrap() as usize];
    let spans = example["spans"].as_array().unwrap().iter();
    spans
        .map(|span| {
            let kind = Kind::Name; // only the range is read
            (span["type"].as_str().unwrap().to_owned(), Span { start: at(span, "start"), end: at(span, "end"), kind })
        })
        .collect()
}

fn overlap(a: &Span, b: &Span) -> usize {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

fn percent(part: u32, whole: u32) -> f64 {
    100.0 * f64::from(part) / f64::from(whole.max(1))
}
