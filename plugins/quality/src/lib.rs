//! `quality`: numbers that say whether a record is worth learning from.
//!
//! It judges and never decides: a recipe or a policy sets the thresholds. Each score is one function in its own file,
//! bounded and finite for every text, in time linear in the text. What the scores mean is in [`SCORES`].

mod fingerprint;
mod language;
mod repetition;

use cloister_plugin_sdk::{Description, Message, Scorer, Scores, export_scorer};

/// The plugin.
pub struct Quality;

export_scorer!(Quality);

/// Every score: its name, and what it says.
pub const SCORES: [(&str, &str); 7] = [
    ("words", "words in the whole record"),
    ("answer_words", "words in the last message, which is the one that is learnt"),
    ("repetition", "share of four-word runs that have stood before; 0 none, towards 1 a loop"),
    ("redundancy", "share of bytes that a compressor would copy from earlier ones; 0 to 1"),
    ("letters", "share of characters that are letters or spaces; ordinary prose has over 0.9"),
    ("language", "share of words that are built like words of a language; noise and base64 come near 0"),
    ("english", "share of words that are English function words; English prose has 0.3 to 0.6"),
];

impl Scorer for Quality {
    fn describe() -> Description {
        Description {
            name: "quality".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Scores length, repetition and language, and fingerprints duplicates.".into(),
            gives: SCORES.map(|(name, _)| name.to_owned()).into(),
        }
    }

    fn score(messages: &[Message]) -> Scores {
        let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        let text = contents.join("\n");
        let words: Vec<&str> = text.split_whitespace().collect();
        let answer_words = contents.last().map_or(0, |answer| answer.split_whitespace().count());
        let values = [
            words.len() as f64,
            answer_words as f64,
            repetition::repeated_runs(&words),
            repetition::redundancy(text.as_bytes()),
            language::letters(&text),
            language::word_likeness(&words),
            language::english(&words),
        ];
        Scores {
            scores: SCORES.iter().zip(values).map(|((name, _), value)| ((*name).to_owned(), value)).collect(),
            fingerprint: Some(fingerprint::of(&contents)),
        }
    }
}

/// `part` of `whole`, and 0 of nothing.
fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests;
