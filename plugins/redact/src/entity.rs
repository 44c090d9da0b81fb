//! Which token stands for which entity within one record.
//!
//! Tokens are numbered by first appearance. Names are compared by their words, so
//! that `Kumar` and `Anil Kumar` share a token while `Anil Kumar` and `Maya Kumar`
//! do not; everything else is compared by its letters and digits.

use crate::span::Kind;

/// The entities of one record.
#[derive(Default)]
pub(crate) struct Entities {
    known: Vec<(Kind, Vec<String>)>,
}

impl Entities {
    /// The token for `text`, for example `[NAME_1]`.
    pub(crate) fn token(&mut self, kind: Kind, text: &str) -> String {
        let words = normalise(kind, text);
        let same_kind = |(index, entry): (usize, &(Kind, Vec<String>))| {
            (entry.0 == kind && same(kind, &entry.1, &words)).then_some(index)
        };
        let index = match self.known.iter().enumerate().find_map(same_kind) {
            Some(index) => {
                // A fuller form teaches the entity its other words.
                if words.len() > self.known[index].1.len() {
                    self.known[index].1 = words;
                }
                index
            }
            None => {
                self.known.push((kind, words));
                self.known.len() - 1
            }
        };
        let number = self.known[..=index].iter().filter(|e| e.0 == kind).count();
        format!("[{}_{number}]", kind.label().to_ascii_uppercase())
    }
}

fn normalise(kind: Kind, text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase);
    if kind == Kind::Name { words.collect() } else { vec![words.collect()] }
}

fn same(kind: Kind, known: &[String], words: &[String]) -> bool {
    if kind != Kind::Name || (known.len() > 1 && words.len() > 1) {
        return known == words;
    }
    known.iter().any(|word| words.contains(word))
}
