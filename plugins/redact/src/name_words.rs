//! Word lists of the name detectors: `words/*.txt`, lower-case, separated by white space.

use std::{collections::HashSet, sync::LazyLock};

/// A list of words; asked without regard to case.
pub(crate) struct Words(LazyLock<HashSet<&'static str>>);

impl Words {
    pub(crate) fn has(&self, word: &str) -> bool {
        self.0.contains(word.to_lowercase().as_str())
    }
}

macro_rules! words {
    ($file:literal) => {
        Words(LazyLock::new(|| include_str!(concat!("../words/", $file)).split_whitespace().collect()))
    };
}

/// Given names that are hardly ever anything else: known as names wherever they stand.
pub(crate) static GIVEN_NAMES: Words = words!("given_names.txt");
/// Names that are words, places or colours too: only names where a cue says so.
pub(crate) static AMBIGUOUS: Words = words!("ambiguous.txt");
/// Capitalised at the start of a sentence or by habit, and never part of a name.
pub(crate) static COMMON: Words = words!("common.txt");
/// What follows a name that has become a term of medicine or a place: `Crohn's disease`.
pub(crate) static EPONYM_NOUNS: Words = words!("eponym_nouns.txt");
/// Words of speaker labels and headings that are no names.
pub(crate) static LABELS: Words = words!("labels.txt");

/// What stands before a name that has become a part of the body or a place: `circle of Willis`.
pub(crate) const EPONYM_WHOLES: [&str; 29] = [
    "circle of",
    "sphincter of",
    "bundle of",
    "pouch of",
    "ligament of",
    "ampulla of",
    "tetralogy of",
    "islets of",
    "loop of",
    "duct of",
    "foramen of",
    "triangle of",
    "angle of",
    "space of",
    "canal of",
    "node of",
    "nodes of",
    "valve of",
    "vein of",
    "artery of",
    "fissure of",
    "organ of",
    "zone of",
    "line of",
    "crypts of",
    "glands of",
    "city of",
    "state of",
    "university of",
];
/// Lower-case words inside a name.
pub(crate) const PARTICLES: [&str; 18] = [
    "van", "von", "de", "der", "den", "la", "le", "del", "di", "da", "dos", "du", "el", "al", "bin", "ibn", "ter",
    "ten",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_lower_case_or_a_word_in_them_is_never_found() {
        for list in [&GIVEN_NAMES, &AMBIGUOUS, &COMMON, &EPONYM_NOUNS, &LABELS] {
            assert!(list.0.len() > 50 && list.0.iter().all(|word| list.has(word)));
        }
    }
}
