//! Whether a text looks like language: by its characters, by the build of its words, by English function words.

use crate::share;

/// The most frequent English function words, sorted: about half of any English prose.
const FUNCTION_WORDS: [&str; 96] = [
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been", "but",
    "by", "can", "could", "did", "do", "does", "for", "from", "get", "had", "has", "have", "he", "her", "here", "him",
    "his", "how", "i", "i'm", "if", "in", "into", "is", "it", "it's", "its", "just", "like", "me", "more", "my", "no",
    "not", "now", "of", "on", "one", "only", "or", "other", "our", "out", "over", "she", "so", "some", "than", "that",
    "the", "their", "them", "then", "there", "these", "they", "this", "to", "two", "up", "us", "very", "was", "we",
    "well", "were", "what", "when", "where", "which", "who", "will", "with", "would", "yeah", "yes", "you", "your",
    "yours", "yourself",
];
/// Longest run of consonants, and longest word, that languages written in Latin letters use with any frequency.
const CONSONANTS: usize = 5;
const LENGTH: usize = 24;

/// The share of characters that are letters or white space.
pub(crate) fn letters(text: &str) -> f64 {
    let ordinary = text.chars().filter(|c| c.is_alphabetic() || c.is_whitespace()).count();
    share(ordinary, text.chars().count())
}

/// The share of words that are built like words: letters in one case pattern, with vowels among them, of sane length.
pub(crate) fn word_likeness(words: &[&str]) -> f64 {
    share(words.iter().filter(|word| is_word_like(trim(word))).count(), words.len())
}

/// The share of words that are English function words.
pub(crate) fn english(words: &[&str]) -> f64 {
    let is_function_word = |word: &&&str| {
        let lower = trim(word).to_lowercase().replace('’', "'");
        FUNCTION_WORDS.binary_search(&lower.as_str()).is_ok()
    };
    share(words.iter().filter(is_function_word).count(), words.len())
}

fn trim(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

fn is_word_like(word: &str) -> bool {
    let length = word.chars().count();
    if length == 0 || length > LENGTH || !word.chars().all(|c| c.is_alphabetic() || matches!(c, '\'' | '’' | '-' | '/'))
    {
        return false;
    }
    // Scripts without case or vowels of ours are taken on trust.
    if !word.is_ascii() {
        return true;
    }
    if length > 4 && mixes_case(word) {
        return false;
    }
    let is_vowel = |c: char| "aeiouyAEIOUY".contains(c);
    let longest = word.split(|c: char| is_vowel(c) || !c.is_alphabetic()).map(str::len).max().unwrap_or(0);
    // Abbreviations (`BP`, `MRI`) have no vowel and are short.
    longest <= CONSONANTS && (length <= 4 || word.contains(is_vowel))
}

/// `aGVsbG8` and not `Hello`, `HELLO` or `McDonald`.
fn mixes_case(word: &str) -> bool {
    let rises = word.as_bytes().windows(2).filter(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase());
    rises.count() > 1
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_is_sorted_for_bisection() {
        assert!(super::FUNCTION_WORDS.is_sorted());
    }
}
