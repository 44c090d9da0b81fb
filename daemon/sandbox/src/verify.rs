//! What a plugin answers is checked before it leaves the process: a plugin may be wrong or hostile, and its findings
//! end up in an audit log where no record's text may stand.
//!
//! Each refusal is `invalid: …`, names no text, and fails the one record.

use cloister_wire::{
    record::{Message, Record},
    sandbox::{Description, Finding, RecordResult},
};

use crate::{
    batch::Fate,
    plugin::{cleaning, scoring},
};

/// Longest reason code, kind, score name and replacement.
const MAX_WORD: usize = 64;
/// Longest summary, and most kinds or scores.
const MAX_SUMMARY: usize = 500;
const MAX_GIVES: usize = 100;

/// Checks what a plugin says of itself; the rest is checked against it.
pub(crate) fn description(description: &Description) -> Result<(), String> {
    let Description { name, version, summary, gives } = description;
    let words = [name, version].into_iter().chain(gives);
    let printable = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    let sane = words.clone().all(|word| word.len() <= MAX_WORD && printable(word))
        && gives.len() <= MAX_GIVES
        && summary.len() <= MAX_SUMMARY
        && printable(summary);
    sane.then_some(())
        .ok_or_else(|| "invalid: a name, version, summary or kind is empty, too long or not printable".into())
}

/// A cleaner's answer about `record`.
pub(crate) fn cleaned(record: &Record, outcome: cleaning::Outcome, says: &Description) -> Result<Fate, String> {
    match outcome {
        cleaning::Outcome::Dropped(reason) if is_code(&reason) => Ok((RecordResult::Dropped { reason }, None)),
        cleaning::Outcome::Dropped(_) => {
            Err(format!("invalid: a reason to drop is a code of `a-z`, `0-9` and `-`, at most {MAX_WORD} bytes"))
        }
        cleaning::Outcome::Kept(kept) => {
            let messages = messages(record, kept.messages)?;
            let findings = kept.findings.into_iter().map(|f| finding(record, f, says)).collect::<Result<_, _>>()?;
            Ok((RecordResult::Kept { findings }, Some(Record { row: record.row, messages })))
        }
    }
}

/// A scorer's answer.
pub(crate) fn scored(scores: scoring::Scores, says: &Description) -> Result<RecordResult, String> {
    let named = |score: &scoring::NamedScore| says.gives.contains(&score.name);
    if !scores.scores.iter().all(|score| named(score) && score.value.is_finite()) {
        return Err("invalid: a score is not finite, or is none that the plugin says it gives".into());
    }
    let fingerprint = scores.fingerprint;
    let scores = scores.scores.into_iter().map(|score| (score.name, score.value)).collect();
    Ok(RecordResult::Scored { scores, fingerprint })
}

fn messages(record: &Record, cleaned: Vec<cleaning::Message>) -> Result<Vec<Message>, String> {
    let same = cleaned.len() == record.messages.len()
        && cleaned.iter().zip(&record.messages).all(|(after, before)| after.role == before.role);
    if !same {
        return Err("invalid: the plugin changed the number or the roles of the messages".into());
    }
    Ok(cleaned.into_iter().map(|m| Message::new(m.role, m.content)).collect())
}

fn finding(record: &Record, found: cleaning::Finding, says: &Description) -> Result<Finding, String> {
    let cleaning::Finding { kind, message, start, end, replacement } = found;
    let original = record.messages.get(message as usize).and_then(|m| m.content.get(start as usize..end as usize));
    let Some(original) = original.filter(|text| !text.is_empty()) else {
        return Err("invalid: a finding lies outside its message or cuts a character".into());
    };
    if !says.gives.contains(&kind) {
        return Err("invalid: a finding is of no kind that the plugin says it gives".into());
    }
    if replacement.len() > MAX_WORD || replacement.contains(original) {
        return Err("invalid: a replacement is too long or holds what it replaces".into());
    }
    Ok(Finding { kind, message, start, end, replacement })
}

fn is_code(reason: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_WORD).contains(&reason.len()) && reason.bytes().all(allowed)
}
