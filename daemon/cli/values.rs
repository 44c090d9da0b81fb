//! Values on the command line that mean something: names, labels, formats, `key=value`.
//!
//! They are checked before anything is sent, so that a slip of the pen is a usage error and never a request.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use cloister_wire::admin::{Format, Label};
use cloister_wire::recipe::valid_name;

const LABELS: [Label; 4] = [Label::Public, Label::Internal, Label::Privileged, Label::Phi];

/// The name of a model, dataset, adapter or plugin.
pub(crate) fn name(text: &str) -> Result<String, String> {
    valid_name(text).map(|()| text.into())
}

/// A purpose: a word that policies compare.
pub(crate) fn purpose(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("must not be empty; give one word, such as `summaries`".into());
    }
    Ok(text.into())
}

/// `public`, `internal`, `privileged` or `phi`.
pub(crate) fn label() -> impl TypedValueParser<Value = Label> {
    PossibleValuesParser::new(LABELS.map(Label::as_str))
        .map(|word| LABELS.into_iter().find(|label| label.as_str() == word).unwrap_or(Label::Phi))
}

/// `csv`, `jsonl` or `text`.
pub(crate) fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(["csv", "jsonl", "text"]).map(|word| match word.as_str() {
        "csv" => Format::Csv,
        "jsonl" => Format::Jsonl,
        _ => Format::Text,
    })
}

/// `SCORE=VALUE`.
pub(crate) fn minimum(text: &str) -> Result<(String, f64), String> {
    let (score, value) = text.split_once('=').ok_or("must be SCORE=VALUE, such as `language=0.5`")?;
    let value: f64 = value.trim().parse().map_err(|_| format!("`{value}` is not a number"))?;
    if score.trim().is_empty() || !value.is_finite() {
        return Err("must be SCORE=VALUE with a finite value, such as `language=0.5`".into());
    }
    Ok((score.trim().into(), value))
}

/// A part between 0 and 1.
pub(crate) fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must lie between 0 and 1".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_minimum_is_a_score_and_a_number() {
        assert_eq!(minimum("language=0.5").unwrap(), ("language".to_string(), 0.5));
        for wrong in ["language", "=1", "language=much", "language=NaN", "language=inf"] {
            assert!(minimum(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_part_lies_between_nothing_and_all() {
        assert_eq!(part("0.25"), Ok(0.25));
        assert!(part("1.5").is_err() && part("NaN").is_err() && part("-0.1").is_err());
    }

    #[test]
    fn a_name_is_never_a_path() {
        assert!(name("visits-2026").is_ok() && name("../visits").is_err() && name("").is_err());
    }
}
