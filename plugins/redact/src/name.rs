//! Names of people: after titles, where somebody is introduced, greeted or signs,
//! by a common given name, and wherever a name that was introduced stands again.
//!
//! A cue is a small ASCII pattern; the name after it is read word by word
//! ([`read`]), in any alphabet. What looks like a name but belongs to medicine
//! (`Crohn's disease`, `circle of Willis`) is refused by the words around it.

use std::{collections::BTreeSet, ops::Range, sync::LazyLock};

use regex::Regex;

use crate::{
    name_words::{AMBIGUOUS, COMMON, EPONYM_NOUNS, EPONYM_WHOLES, GIVEN_NAMES, PARTICLES},
    span::{self, Kind, Span},
};

/// A full word or `Dr`/`Mr`/… may come in any case. A dot after a full word ends
/// a sentence (`Thank you, Doctor. Do …`), so only abbreviations take one.
static TITLE: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r"(?i)\b(?:(?:dr|mr|mrs|ms|prof|rev|fr|sr|capt|sgt|lt|col)\.?|doctor|mister|missus|miss|nurse|professor|reverend|sir|madam|sister|uncle|aunt|auntie|grandma|grandpa|judge|officer|attorney)[ \t]+",
    )
});

/// Before a name that may be any capitalised word.
static INTRODUCTION: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(concat!(
        r"(?i)\b(?:(?:my|his|her|first|last|full|maiden|partner(?:'|’)s|patient(?:'|’)s|doctor(?:'|’)s) name(?: is| was|(?:'|’)s|:)?",
        r"|(?m:^[ \t>]*(?:patient |full |provider |physician |attending |contact )?name[ \t]*:)",
        r"|(?:attending|referring physician|primary care physician|surgeon|dictated by|signed by|transcribed by|pcp)[ \t]*:",
        r"|goes by|named(?: him| her| them)?|a patient of",
        r"|my (?:colleague|resident|friend|daughter|son|wife|husband|mother|father|mom|dad|brother|sister|boyfriend|girlfriend|partner|grandson|granddaughter|neighbor|nephew|niece))[ \t]+",
    ))
});

/// Before a name that is followed by punctuation or `how`: `Hi Ryan, what …`.
static GREETING: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r"(?i)\b(?:hi|hello|hey|dear|bye|goodbye|good (?:morning|afternoon|evening)|thanks|thank you|take care|welcome(?: back)?|nice to meet you|see you)(?:,)?[ \t]+(?:there,? )?",
    )
});

/// What makes the word before it a name: `Anna Schmidt speaking`, `John Roe, MD`.
static CREDENTIAL: LazyLock<Regex> = LazyLock::new(|| {
    span::pattern(
        r",? (?:M\.?D\.?|D\.?O\.?|Ph\.?D\.?|R\.?N\.?|PA-C|N\.?P\.?|FACS|FACC|DDS|DPM|LCSW|CRNA|speaking|calling)(?:(?u-i:[^A-Za-z])|$)",
    )
});

/// What the pattern cannot match without.
const CREDENTIALS: [&str; 18] = [
    "MD", "M.D", "DO", "D.O", "PhD", "Ph.D", "RN", "R.N", "PA-C", "NP", "N.P", "FAC", "DDS", "DPM", "LCSW", "CRNA",
    "speaking", "calling",
];

/// Names that a cue in `text` introduces.
pub(crate) fn find_introduced(text: &str, out: &mut Vec<Span>) {
    for cue in TITLE.find_iter(text) {
        push(text, read(text, cue.end()), out);
    }
    for cue in INTRODUCTION.find_iter(text) {
        push(text, read(text, cue.end()), out);
    }
    for cue in GREETING.find_iter(text) {
        push(text, read(text, cue.end()).filter(|name| is_addressed(text, name)), out);
    }
    if !CREDENTIALS.iter().any(|credential| text.contains(credential)) {
        return;
    }
    for cue in CREDENTIAL.find_iter(text) {
        push(text, read_before(text, cue.start()), out);
    }
}

/// The words of all names found so far that may be searched for on their own.
pub(crate) fn known_words(texts: &[&str], found: &[Vec<Span>]) -> BTreeSet<String> {
    texts
        .iter()
        .zip(found)
        .flat_map(|(text, spans)| spans.iter().filter(|s| s.kind == Kind::Name).map(|s| &text[s.start..s.end]))
        .flat_map(|name| name.split([' ', '\t']))
        .filter(|word| word.chars().count() > 2 && !AMBIGUOUS.has(word) && !COMMON.has(word) && is_capitalised(word))
        .map(str::to_owned)
        .collect()
}

/// The known words wherever they stand again.
pub(crate) fn find_known(text: &str, known: &BTreeSet<String>, out: &mut Vec<Span>) {
    if known.is_empty() {
        return;
    }
    for word in words(text) {
        let bare = strip_possessive(text, word);
        if known.contains(&text[bare.clone()]) {
            push(text, Some(bare), out);
        }
    }
}

/// Common given names, with the surname that follows.
pub(crate) fn find_given(text: &str, out: &mut Vec<Span>) {
    let mut read_to = 0;
    for word in words(text) {
        let bare = &text[strip_possessive(text, word.clone())];
        // All capitals are an abbreviation (`ANA`), all small an ordinary word.
        let is_given = is_title_case(bare) && GIVEN_NAMES.has(bare);
        if !is_given || word.start < read_to {
            continue;
        }
        let name = read(text, word.start);
        read_to = name.as_ref().map_or(word.end, |name| name.end);
        push(text, name, out);
    }
}

fn push(text: &str, name: Option<Range<usize>>, out: &mut Vec<Span>) {
    if let Some(name) = name.filter(|name| !is_eponym(text, name)) {
        out.push(Span::new(name, Kind::Name));
    }
}

/// The name that starts at byte `at`: up to four capitalised words with particles
/// and initials between them, the possessive `'s` left out.
fn read(text: &str, at: usize) -> Option<Range<usize>> {
    let mut end = None;
    let mut next = at;
    for _ in 0..4 {
        let Some(word) = word_at(text, next) else { break };
        let value = &text[word.clone()];
        if PARTICLES.contains(&value) {
            next = skip_space(text, word.end);
            continue;
        }
        if !is_capitalised(value) || COMMON.has(value) {
            break;
        }
        let bare = strip_possessive(text, word.clone());
        end = Some(bare.end);
        if bare.end != word.end {
            break;
        }
        let initial = value.chars().count() == 1 && text[word.end..].starts_with('.');
        next = skip_space(text, word.end + usize::from(initial));
    }
    end.map(|end| at..end)
}

/// The name that ends at byte `at`: at least two capitalised words on one line.
fn read_before(text: &str, at: usize) -> Option<Range<usize>> {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    // A name is short: looking further back would make the search quadratic.
    let mut from = at.saturating_sub(60).max(line);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let mut starts: Vec<usize> = words(&text[from..at]).map(|word| from + word.start).collect();
    starts.drain(..starts.len().saturating_sub(4));
    starts
        .into_iter()
        .find_map(|start| read(text, start).filter(|name| name.end == at && text[name.clone()].contains(' ')))
}

fn is_addressed(text: &str, name: &Range<usize>) -> bool {
    let rest = text[name.end..].trim_start_matches([' ', '\t']);
    rest.is_empty()
        || rest.starts_with([',', '.', '!', '?', '\n', '\r', ';', '-'])
        || rest.starts_with("how")
        || rest.starts_with("and")
}

/// `Allen test`, `Bell's palsy`, `circle of Willis`.
fn is_eponym(text: &str, name: &Range<usize>) -> bool {
    let after = text[name.end..].trim_start_matches("'s").trim_start_matches("’s");
    let noun = after.trim_start_matches([' ', '-']);
    let noun = &noun[..noun.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(noun.len())];
    let before = text[..name.start].trim_end();
    EPONYM_NOUNS.has(noun.trim_end_matches('s'))
        || EPONYM_NOUNS.has(noun)
        || EPONYM_WHOLES.iter().any(|whole| before.ends_with(whole))
}

/// Every word of `text`: letters, with `'`, `’` and `-` inside.
fn words(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += text[at..].find(char::is_alphabetic)?;
        let word = word_at(text, at)?;
        at = word.end;
        Some(word)
    })
}

fn word_at(text: &str, at: usize) -> Option<Range<usize>> {
    let rest = text.get(at..)?;
    let mut end = 0;
    for (index, c) in rest.char_indices() {
        if c.is_alphabetic() {
            end = index + c.len_utf8();
        } else if !(matches!(c, '\'' | '’' | '-') && end == index && index > 0) {
            break;
        }
    }
    (end > 0).then_some(at..at + end)
}

fn strip_possessive(text: &str, word: Range<usize>) -> Range<usize> {
    let value = &text[word.clone()];
    let bare = value.strip_suffix("'s").or_else(|| value.strip_suffix("’s")).unwrap_or(value);
    word.start..word.start + bare.len()
}

fn skip_space(text: &str, at: usize) -> usize {
    at + usize::from(text[at..].starts_with(' '))
}

fn is_capitalised(word: &str) -> bool {
    word.chars().next().is_some_and(char::is_uppercase)
}

fn is_title_case(word: &str) -> bool {
    is_capitalised(word) && word.chars().nth(1).is_some_and(char::is_lowercase)
}
