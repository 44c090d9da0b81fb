//! The shipped guests give in the sandbox what they give natively.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cloister_plugin_sdk::{Cleaner, Message as Plain, Outcome as PlainOutcome, Scorer};
use cloister_wire::{
    record::{Message, Record},
    sandbox::{Limits, PluginWorld, RecordResult},
};
use common::Sandbox;

fn records() -> Vec<Record> {
    let record = |row, user: &str, answer: &str| Record {
        row,
        messages: vec![Message::new("user", user), Message::new("assistant", answer)],
    };
    vec![
        record(
            1,
            "Hello, I'm Doctor Müller-Lüdenscheidt. Call (555) 123-4567.",
            "Seen by Dr. Müller-Lüdenscheidt on 07/31/2008.",
        ),
        record(2, "Type 2 diabetes, HbA1c 7.2, 120/80.", "Nothing to hide."),
        record(3, "élan vital — mail to a.b@example.org, MRN: 00123456", "A ninety-two year old, SSN 308-63-0237."),
    ]
}

fn plain(record: &Record) -> Vec<Plain> {
    record.messages.iter().map(|m| Plain::new(m.role.as_str(), m.content.as_str())).collect()
}

#[test]
fn redact_gives_what_it_gives_natively_and_its_offsets_fit_the_original() {
    let (mut sandbox, description) = Sandbox::with("redact", PluginWorld::Cleaner, Limits::default());
    assert_eq!((description.name.as_str(), description.gives.len()), ("redact", redact::Kind::ALL.len()));
    let (outcomes, kept) = sandbox.run(&records());
    for ((record, outcome), kept) in records().iter().zip(&outcomes).zip(&kept) {
        let RecordResult::Kept { findings } = &outcome.result else { panic!("{outcome:?}") };
        let PlainOutcome::Kept { messages, findings: native } = redact::Redact::clean(plain(record)) else {
            panic!("dropped natively")
        };
        assert_eq!(plain(kept), messages);
        let fields = findings.iter().map(|f| (f.kind.clone(), f.message, f.start, f.end, f.replacement.clone()));
        let native = native.into_iter().map(|f| (f.kind, f.message, f.start, f.end, f.replacement));
        assert_eq!(fields.collect::<Vec<_>>(), native.collect::<Vec<_>>());
    }
    let RecordResult::Kept { findings } = &outcomes[0].result else { panic!("dropped") };
    let original = records().remove(0);
    let texts: Vec<&str> = findings
        .iter()
        .map(|f| &original.messages[f.message as usize].content[f.start as usize..f.end as usize])
        .collect();
    assert_eq!(texts, ["Müller-Lüdenscheidt", "(555) 123-4567", "Müller-Lüdenscheidt", "07/31/2008"]);
}

#[test]
fn quality_gives_what_it_gives_natively() {
    let (mut sandbox, _) = Sandbox::with("quality", PluginWorld::Scorer, Limits::default());
    let (outcomes, kept) = sandbox.run(&records());
    assert!(kept.is_empty(), "a scorer returns no records");
    for (record, outcome) in records().iter().zip(outcomes) {
        let native = quality::Quality::score(&plain(record));
        let RecordResult::Scored { scores, fingerprint } = outcome.result else { panic!("not scored") };
        assert_eq!(fingerprint, native.fingerprint);
        assert_eq!(scores.len(), native.scores.len());
        for ((name, value), (native_name, native_value)) in scores.iter().zip(&native.scores) {
            // The frame's JSON is read back to within the last bit, not to it.
            assert!(name == native_name && (value - native_value).abs() < 1e-12, "{name}: {value} and {native_value}");
        }
    }
}

/// Every record is an instance of its own, so what an instance costs is what a data set costs.
#[test]
fn two_hundred_dialogues_are_cleaned_within_a_minute() {
    let turn = "Doctor: Hello, I am Doctor Kumar. How are you feeling today?\nPatient: Better since March 3rd. I am ninety \
                two, call (555) 123-4567.\nDoctor: Any fever or chills, cough, chest pain or congestion?\nPatient: No.\n";
    let records: Vec<Record> = (1..=200)
        .map(|row| Record {
            row,
            messages: vec![Message::new("user", turn.repeat(5)), Message::new("assistant", turn)],
        })
        .collect();
    let (mut sandbox, _) = Sandbox::with("redact", PluginWorld::Cleaner, Limits::default());
    let start = std::time::Instant::now();
    let (outcomes, kept) = sandbox.run(&records);
    println!("200 dialogues in {:?}", start.elapsed());
    assert_eq!((outcomes.len(), kept.len()), (200, 200));
    assert!(start.elapsed().as_secs() < 60, "took {:?}", start.elapsed());
}
