//! A recipe before it is sent: the file, `--set` applied to it, and errors that name file, line and key.

use std::path::Path;

use cloister_wire::admin::ApiError;
use cloister_wire::recipe::{Recipe, RecipeError};
use toml::de::DeTable;
use toml::{Table, Value};

use crate::error::{CliError, invalid};

const REMEDY: &str = "`cloister train --help` shows every key with its default";

/// Parses the file's text with the settings applied; gives back the TOML to send.
///
/// Without settings the text is sent as it is, comments included.
pub(crate) fn prepare(path: &Path, text: &str, settings: &[String]) -> Result<String, CliError> {
    if settings.is_empty() {
        Recipe::parse(text).map_err(|error| explain(path, text, &error))?;
        return Ok(text.into());
    }
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| parse_error(path, &error.to_string()))?;
    for setting in settings {
        apply(&mut table, setting)?;
    }
    let merged = toml::to_string(&table).map_err(|error| invalid(format!("the recipe cannot be written: {error}")))?;
    match Recipe::parse(&merged) {
        Ok(_) => Ok(merged),
        Err(error) => Err(explain_merged(path, text, &error).into()),
    }
}

/// `a.b=value`: the value is TOML, or else a string as it stands.
fn apply(table: &mut Table, setting: &str) -> Result<(), CliError> {
    let wrong = |why: &str| CliError::usage(format!("`--set {setting}` {why}"), "write --set training.epochs=2");
    let (key, value) = setting.split_once('=').ok_or_else(|| wrong("is not KEY=VALUE"))?;
    let parts: Vec<&str> = key.trim().split('.').map(str::trim).collect();
    let Some((last, folders)) = parts.split_last().filter(|_| parts.iter().all(|part| !part.is_empty())) else {
        return Err(wrong("has an empty key"));
    };
    let mut at = table;
    for folder in folders {
        let next = at.entry(*folder).or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut().ok_or_else(|| wrong(&format!("needs `{folder}` to be a table, and it is a value")))?;
    }
    at.insert((*last).into(), read_value(value.trim()));
    Ok(())
}

fn read_value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>();
    match parsed {
        // A value with a new line in it could bring keys of its own.
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or_else(|| Value::String(text.into())),
        _ => Value::String(text.into()),
    }
}

/// An error of the file as it stands.
fn explain(path: &Path, text: &str, error: &RecipeError) -> ApiError {
    match error {
        RecipeError::Parse(message) => parse_error(path, message),
        RecipeError::Value { key, why } => {
            let line = line_of(text, key).map(|line| format!(", line {line}")).unwrap_or_default();
            invalid(format!("`{}`{line}: `{key}` {why}", path.display())).remedy(REMEDY)
        }
    }
}

/// An error of the file with settings: if the file alone has it too, its line is known.
fn explain_merged(path: &Path, text: &str, error: &RecipeError) -> ApiError {
    match (error, Recipe::parse(text)) {
        (RecipeError::Parse(merged), Err(RecipeError::Parse(alone))) if one_line(merged).1 == one_line(&alone).1 => {
            parse_error(path, &alone)
        }
        (RecipeError::Parse(merged), _) => {
            invalid(format!("`{}` with --set: {}", path.display(), one_line(merged).1)).remedy(REMEDY)
        }
        (RecipeError::Value { key, why }, alone) if alone.as_ref().err() != Some(error) => {
            invalid(format!("`{}` with --set: `{key}` {why}", path.display())).remedy(REMEDY)
        }
        (RecipeError::Value { .. }, _) => explain(path, text, error),
    }
}

fn parse_error(path: &Path, message: &str) -> ApiError {
    let (line, message) = one_line(message);
    let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
    invalid(format!("`{}`{place}: {message}", path.display())).remedy(REMEDY)
}

/// toml's message spreads over several lines (place, a picture, reason): the line's number, and the reason.
pub(crate) fn one_line(message: &str) -> (Option<u64>, String) {
    let line = message
        .split_once("at line ")
        .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    let picture = |text: &str| {
        let rest = text.trim_start().trim_start_matches(|c: char| c.is_ascii_digit());
        rest.trim_start().starts_with('|')
    };
    let reason: Vec<&str> = message
        .lines()
        .filter(|text| {
            let (words, place) = (text.contains("error at line "), text.contains("recipe does not parse"));
            !words && !place && !picture(text) && !text.trim().is_empty()
        })
        .map(str::trim)
        .collect();
    (line, reason.join("; "))
}

/// The line on which a dotted key stands.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
        if parts.peek().is_none() {
            return Some(text.get(..name.span().start)?.matches('\n').count() + 1);
        }
        table = value.get_ref().as_table()?;
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use cloister_wire::recipe::HeldOut;

    use super::*;

    const LEAST: &str = "# three names\nname = \"notes\"\nbase = \"demo\"\ndataset = \"visits\"\n";

    fn with(settings: &[&str]) -> Result<Recipe, CliError> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        prepare(Path::new("r.toml"), LEAST, &settings).map(|text| Recipe::parse(&text).unwrap())
    }

    fn error_of(text: &str, settings: &[&str]) -> String {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        prepare(Path::new("r.toml"), text, &settings).unwrap_err().to_string()
    }

    #[test]
    fn without_settings_the_text_is_sent_as_it_is() {
        assert_eq!(prepare(Path::new("r.toml"), LEAST, &[]).unwrap(), LEAST);
    }

    #[test]
    fn settings_are_dotted_keys_with_toml_values_or_bare_words() {
        let recipe = with(&[
            "lora.rank=8",
            "training.learning_rate = 1e-3",
            "training.epochs=2",
            "base=qwen",
            "training.schedule=linear",
            r#"lora.targets=["q_proj", "v_proj"]"#,
            "held_out=exam",
            "device=cuda:0",
        ])
        .unwrap();
        assert_eq!((recipe.lora.rank, recipe.base.as_str(), recipe.training.epochs), (8, "qwen", 2.0));
        assert_eq!((recipe.lora.targets.len(), recipe.training.learning_rate), (2, 1e-3));
        assert_eq!((recipe.held_out, recipe.device.as_str()), (HeldOut::Dataset("exam".into()), "cuda:0"));
    }

    #[test]
    fn a_setting_can_give_what_the_file_leaves_out() {
        let text = "base = \"demo\"\ndataset = \"visits\"\n";
        assert!(prepare(Path::new("r.toml"), text, &["name=notes".into()]).is_ok());
    }

    #[test]
    fn a_setting_brings_no_keys_of_its_own() {
        assert!(error_of(LEAST, &["name=\"a\"\nseed = 7"]).contains("`name`"));
    }

    #[test]
    fn a_setting_that_is_none_is_a_usage_error() {
        for wrong in ["rank", "=8", "lora..rank=8", "name.x=8"] {
            let settings = [wrong.to_string()];
            assert_eq!(prepare(Path::new("r.toml"), LEAST, &settings).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn errors_name_file_line_and_key_in_one_line() {
        let unknown = format!("{LEAST}[lora]\nrnak = 8\n");
        for settings in [&[][..], &["seed=1"]] {
            let error = error_of(&unknown, settings);
            assert!(error.starts_with("`r.toml`, line 6: ") && error.contains("`rnak`"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = error_of(&format!("{LEAST}[lora]\nrank = 0\n"), &[]);
        assert!(error.starts_with("`r.toml`, line 6: `lora.rank` must"), "{error}");
        let error = error_of(LEAST, &["lora.rank=0"]);
        assert!(error.starts_with("`r.toml` with --set: `lora.rank` must"), "{error}");
        let error = error_of("name = \n", &[]);
        assert!(error.starts_with("`r.toml`, line 1: ") && !error.contains('\n'), "{error}");
        let error = error_of(LEAST, &["lora.rnak=8"]);
        assert!(error.contains("with --set") && error.contains("`rnak`"), "{error}");
    }
}
