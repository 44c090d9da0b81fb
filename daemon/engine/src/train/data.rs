//! Records → examples of tokens, of which only the answer is learnt.
//!
//! The conversation is rendered by the model's own template and encoded without further special tokens, so
//! there is one BOS at most. The answer ends as the template ends a turn: the model learns to stop.
//! INVARIANT: an example learns at least one token, or the whole set is refused with its rows.

use cloister_wire::recipe::OverLong;
use cloister_wire::record::{Message, Record};
use ring::digest;

use crate::model::{ModelError, Tokenizer};

/// Rows that a message lists before it only counts.
const LISTED: usize = 20;

/// A tokenised record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Of the source file.
    pub row: u64,
    /// Prompt, then answer.
    pub ids: Vec<i64>,
    /// Index of the first learnt token; at least 1, as it is predicted from the one before.
    pub learnt_from: usize,
}

impl Example {
    /// How many tokens are learnt.
    pub fn learnt(&self) -> usize {
        self.ids.len() - self.learnt_from
    }
}

/// What became of a record set.
#[derive(Debug)]
pub struct Examples {
    /// In the order of the records.
    pub examples: Vec<Example>,
    /// How many were left out for their length.
    pub dropped: u64,
    /// Rows whose prompt lost its beginning.
    pub truncated: Vec<u64>,
}

impl Examples {
    /// Logs what the limit did, by row: a run never shortens its data in silence.
    pub fn report(&self, set: &str, limit: Limit) {
        let max_length = limit.max_length;
        if self.dropped > 0 {
            let number = count(self.dropped as usize, "record", "records");
            log::warn!("{number} left out of the {set} set: longer than {max_length} tokens");
        }
        if !self.truncated.is_empty() {
            let (number, rows) = (count(self.truncated.len(), "record", "records"), rows(&self.truncated));
            log::warn!("{number} of the {set} set lost the beginning of the prompt to fit {max_length} tokens: {rows}");
        }
    }
}

/// What to do about length.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Most tokens of an example.
    pub max_length: usize,
    /// What becomes of a longer one.
    pub over_long: OverLong,
}

/// Why a record set cannot be learnt from.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Nothing was sent.
    #[error("there is no record to {0}; import or clean the dataset again and look at what was dropped")]
    Empty(&'static str),
    /// Every record was too long.
    #[error(
        "all {dropped} records are longer than {max_length} tokens; raise `training.max_length` or shorten the records"
    )]
    AllDropped {
        /// How many.
        dropped: u64,
        /// The limit.
        max_length: usize,
    },
    /// Over the limit, and the recipe refuses that.
    #[error(
        "{} longer than {max_length} tokens: {rows}; set `training.over_long` to \"drop\" or \"truncate\", \
         or raise `training.max_length`", count(*.number, "record is", "records are")
    )]
    TooLong {
        /// How many.
        number: usize,
        /// Which.
        rows: String,
        /// The limit.
        max_length: usize,
    },
    /// The answer alone is over the limit.
    #[error(
        "{} an answer that does not fit into {max_length} tokens: {rows}; raise `training.max_length` or \
         shorten the answers", count(*.number, "record has", "records have")
    )]
    AnswerTooLong {
        /// How many.
        number: usize,
        /// Which.
        rows: String,
        /// The limit.
        max_length: usize,
    },
    /// There is no answer to learn.
    #[error("{} no answer to learn: {rows}; the last message must be the assistant's, and not empty",
        count(*.number, "record has", "records have"))]
    NoAnswer {
        /// How many.
        number: usize,
        /// Which.
        rows: String,
    },
    /// The template hides the answer.
    #[error(
        "row {row}: the model's chat template drops or changes the assistant's answer, so it cannot be learnt; give the base a template that keeps it"
    )]
    Template {
        /// Of the source file.
        row: u64,
    },
    /// The tokenizer or the template failed.
    #[error("row {row}: {source}")]
    Tokenizer {
        /// Of the source file.
        row: u64,
        /// Why.
        source: ModelError,
    },
}

/// Tokenises a record set and applies the limit.
pub fn examples(tokenizer: &Tokenizer, records: &[Record], limit: Limit) -> Result<Examples, DataError> {
    let missing: Vec<u64> = records.iter().filter(|r| !has_answer(r)).map(|r| r.row).collect();
    if !missing.is_empty() {
        return Err(DataError::NoAnswer { number: missing.len(), rows: rows(&missing) });
    }
    let whole = records.iter().map(|record| tokenise(tokenizer, record)).collect::<Result<Vec<_>, _>>()?;
    limited(whole, limit)
}

/// SHA-256 over the examples: what a checkpoint recognises its data by.
pub fn digest(examples: &[Example]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for example in examples {
        for number in [example.row, example.ids.len() as u64, example.learnt_from as u64] {
            context.update(&number.to_le_bytes());
        }
        example.ids.iter().for_each(|id| context.update(&id.to_le_bytes()));
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Row numbers for a message: the first few and how many more.
pub fn rows(rows: &[u64]) -> String {
    let listed: Vec<String> = rows.iter().take(LISTED).map(u64::to_string).collect();
    let word = if rows.len() == 1 { "row" } else { "rows" };
    match rows.len().saturating_sub(LISTED) {
        0 => format!("{word} {}", listed.join(", ")),
        more => format!("{word} {} and {more} more", listed.join(", ")),
    }
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn has_answer(record: &Record) -> bool {
    record.split_answer().is_some_and(|(_, answer)| !answer.content.trim().is_empty())
}

fn tokenise(tokenizer: &Tokenizer, record: &Record) -> Result<Example, DataError> {
    let failed = |source| DataError::Tokenizer { row: record.row, source };
    let Some((prompt, answer)) = record.split_answer() else {
        return Err(DataError::NoAnswer { number: 1, rows: rows(&[record.row]) });
    };
    let prompt_text = tokenizer.render_chat(prompt, true).map_err(failed)?;
    let whole_text = tokenizer.render_chat(&record.messages, false).map_err(failed)?;
    let answer_text = answer_part(&prompt_text, &whole_text, answer).ok_or(DataError::Template { row: record.row })?;
    let encode = |text: &str| tokenizer.encode(text).map_err(failed);
    let prompt_ids = encode(&prompt_text)?;
    let ids = match encode(&whole_text)? {
        whole if whole.starts_with(&prompt_ids) && whole_text.starts_with(&prompt_text) => whole,
        // A token spans the border: the prompt is then encoded as it will be when the model is asked.
        _ => [prompt_ids.clone(), encode(&answer_text)?].concat(),
    };
    let ids = ended(ids, prompt_ids.len(), tokenizer.eos_ids());
    let ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
    Ok(Example { row: record.row, learnt_from: prompt_ids.len().max(1), ids })
}

/// The rendered answer, from after the generation prompt to the end of the turn.
fn answer_part(prompt: &str, whole: &str, answer: &Message) -> Option<String> {
    if let Some(part) = whole.strip_prefix(prompt) {
        return part.contains(answer.content.trim()).then(|| part.to_owned());
    }
    // The generation prompt adds something that a finished turn does not have (an empty thought, say).
    let start = whole.rfind(answer.content.trim())?;
    Some(whole[start..].to_owned())
}

/// Ends the answer with its end token: what a template puts behind (a line break) is never generated, and a
/// template that ends without one would teach an endless answer.
fn ended(mut ids: Vec<u32>, prompt: usize, eos_ids: &[u32]) -> Vec<u32> {
    match ids.iter().skip(prompt).rposition(|id| eos_ids.contains(id)) {
        Some(last) => ids.truncate(prompt + last + 1),
        None => ids.extend(eos_ids.first()),
    }
    ids
}

fn limited(whole: Vec<Example>, limit: Limit) -> Result<Examples, DataError> {
    let max_length = limit.max_length;
    let long: Vec<u64> = whole.iter().filter(|e| e.ids.len() > max_length).map(|e| e.row).collect();
    if long.is_empty() {
        return Ok(Examples { examples: whole, dropped: 0, truncated: Vec::new() });
    }
    match limit.over_long {
        OverLong::Refuse => Err(DataError::TooLong { number: long.len(), rows: rows(&long), max_length }),
        OverLong::Truncate => truncated(whole, long, max_length),
        OverLong::Drop => {
            let dropped = long.len() as u64;
            let examples: Vec<Example> = whole.into_iter().filter(|e| e.ids.len() <= max_length).collect();
            match examples.is_empty() {
                true => Err(DataError::AllDropped { dropped, max_length }),
                false => Ok(Examples { examples, dropped, truncated: Vec::new() }),
            }
        }
    }
}

/// Cuts prompts at their beginning. The very first token stays: models lean on it as an anchor.
fn truncated(mut whole: Vec<Example>, long: Vec<u64>, max_length: usize) -> Result<Examples, DataError> {
    let hopeless: Vec<u64> = whole.iter().filter(|e| e.learnt() + 1 > max_length).map(|e| e.row).collect();
    if !hopeless.is_empty() {
        return Err(DataError::AnswerTooLong { number: hopeless.len(), rows: rows(&hopeless), max_length });
    }
    for example in whole.iter_mut().filter(|e| e.ids.len() > max_length) {
        let excess = example.ids.len() - max_length;
        example.ids.drain(1..1 + excess);
        example.learnt_from -= excess;
    }
    Ok(Examples { examples: whole, dropped: 0, truncated: long })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn example(row: u64, prompt: usize, answer: usize) -> Example {
        Example { row, ids: (0..(prompt + answer) as i64).collect(), learnt_from: prompt }
    }

    fn with(over_long: OverLong) -> Result<Examples, DataError> {
        limited(vec![example(1, 3, 2), example(2, 9, 3), example(3, 2, 2)], Limit { max_length: 8, over_long })
    }

    #[test]
    fn the_default_refuses_over_long_records_by_row() {
        let error = with(OverLong::Refuse).unwrap_err().to_string();
        assert!(error.starts_with("1 record is longer than 8 tokens: row 2;"), "{error}");
    }

    #[test]
    fn dropping_counts_and_truncating_keeps_answer_and_first_token() {
        let dropped = with(OverLong::Drop).unwrap();
        assert_eq!((dropped.examples.len(), dropped.dropped), (2, 1));
        let truncated = with(OverLong::Truncate).unwrap();
        assert_eq!(truncated.examples[1].ids, [0, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(truncated.examples[1].learnt(), 3);
        assert_eq!(truncated.truncated, [2], "what was cut can be told");
    }

    #[test]
    fn nothing_left_to_learn_is_an_error() {
        let long = || vec![example(4, 2, 9), example(5, 2, 10)];
        let limit = |over_long| Limit { max_length: 8, over_long };
        assert!(matches!(limited(long(), limit(OverLong::Drop)), Err(DataError::AllDropped { dropped: 2, .. })));
        let error = limited(long(), limit(OverLong::Truncate)).unwrap_err().to_string();
        assert!(error.contains("2 records have an answer") && error.contains("rows 4, 5"), "{error}");
    }

    #[test]
    fn many_rows_are_counted() {
        let text = rows(&(1..=30).collect::<Vec<_>>());
        assert!(text.contains("19, 20 and 10 more") && !text.contains("21"), "{text}");
    }

    #[test]
    fn an_answer_ends_with_its_end_token() {
        assert_eq!(ended(vec![1, 2, 7, 9, 7, 10], 3, &[7]), [1, 2, 7, 9, 7], "what follows the end is dropped");
        assert_eq!(ended(vec![1, 7, 8, 9], 2, &[7]), [1, 7, 8, 9, 7], "a missing end is added");
    }
}
