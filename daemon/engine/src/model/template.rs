//! Chat templates, rendered as transformers renders them: Jinja with `trim_blocks` and `lstrip_blocks`,
//! Python's string methods, `raise_exception`, `strftime_now`, and a `tojson` that writes what
//! `json.dumps(ensure_ascii=False)` writes.

use std::io::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;
use serde_json::ser::Formatter;

use super::tokenizer::{Settings, Templates, Token, wrong};
use super::{ModelError, ModelFiles};

const NAME: &str = "chat";
/// Steps that a template may take: it comes with the model, and is not trusted to end.
const FUEL: u64 = 10_000_000;

/// A compiled chat template and the special tokens that it may name.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    file: &'static str,
    tokens: [(&'static str, Option<String>); 4],
}

impl Template {
    /// The folder's template: `chat_template.jinja`, or the one in `tokenizer_config.json`.
    pub(super) fn load(files: &ModelFiles, settings: &Settings) -> Result<Option<Self>, ModelError> {
        let (file, source) = match files.text("chat_template.jinja")? {
            Some(source) => ("chat_template.jinja", source),
            None => match chosen(settings.chat_template.as_ref()) {
                Some(source) => ("tokenizer_config.json", source.to_owned()),
                None => return Ok(None),
            },
        };
        let text = |token: &Option<Token>| token.as_ref().map(|token| token.text().to_owned());
        let environment = environment().and_then(|mut environment| {
            environment.add_template_owned(NAME, source)?;
            Ok(environment)
        });
        let environment = environment.map_err(|e| wrong(file, format!("the chat template does not parse: {e}")))?;
        let tokens = [
            ("bos_token", text(&settings.bos_token)),
            ("eos_token", text(&settings.eos_token)),
            ("pad_token", text(&settings.pad_token)),
            ("unk_token", text(&settings.unk_token)),
        ];
        Ok(Some(Template { environment, file, tokens }))
    }

    pub(super) fn render<M: Serialize>(&self, messages: &[M], generate: bool) -> Result<String, ModelError> {
        let tokens = Value::from_pairs(self.tokens.iter().filter_map(|(name, text)| Some((*name, text.clone()?))));
        let template = self.environment.get_template(NAME).map_err(|e| self.failed(&e))?;
        let messages = Value::from(Serde(messages));
        // transformers passes tools and documents even when there are none: `tools is not none` is then false.
        let context = context! { messages, tools => (), documents => (), add_generation_prompt => generate, ..tokens };
        template.render(context).map_err(|e| self.failed(&e))
    }

    /// Only what stands in the template itself is passed on: other errors may quote a message, and a template made
    /// for it can raise one with a message's text, which would carry records to whoever may see a job's state.
    fn failed(&self, error: &Error) -> ModelError {
        let line = error.line().map_or_else(String::new, |line| format!(" at line {line}"));
        let raised = error.detail().filter(|_| error.kind() == ErrorKind::InvalidOperation);
        let reason = match raised.and_then(|detail| detail.strip_prefix(RAISED)) {
            Some(words) if self.holds(words) => format!("{RAISED}{words}"),
            Some(_) => "the model's template raised a message of its own making, which is not shown".to_owned(),
            None => error.kind().to_string(),
        };
        wrong(self.file, format!("the chat template refused these messages{line}: {reason}"))
    }

    /// Whether the words are a string of the template's source.
    fn holds(&self, words: &str) -> bool {
        let quoted = ["'", "\""].map(|quote| format!("{quote}{words}{quote}"));
        let template = self.environment.get_template(NAME);
        template.is_ok_and(|template| quoted.iter().any(|string| template.source().contains(string)))
    }
}

const RAISED: &str = "the model's template says: ";

/// transformers takes the template named `default` when there are several.
fn chosen(templates: Option<&Templates>) -> Option<&str> {
    match templates? {
        Templates::One(source) => Some(source),
        Templates::Named(named) => named.iter().find(|t| t.name == "default").map(|t| t.template.as_str()),
    }
}

fn environment() -> Result<Environment<'static>, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| strftime(format, now()));
    Ok(environment)
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`; the filter of the library escapes for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = vec![b' '; width];
            let pretty = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, pretty))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, PythonFormatter)),
    };
    written.map_err(|_| Error::new(ErrorKind::BadSerialization, "not a JSON value"))?;
    let text = String::from_utf8(out).map_err(|_| Error::from(ErrorKind::BadSerialization))?;
    Ok(Value::from_safe_string(text))
}

/// Python's separators: `", "` and `": "`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

/// The directives of `strftime` that templates use, in UTC; another one is an error, not a guess.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (year, month, day) = civil(seconds / 86_400);
    let weekday = DAYS[(seconds / 86_400 % 7) as usize];
    let name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('Y') => out += &year.to_string(),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{day:02}"),
            Some('B') => out += name,
            Some('b') => out += &name[..3],
            Some('A') => out += weekday,
            Some('a') => out += &weekday[..3],
            Some('H') => out += &format!("{:02}", seconds / 3600 % 24),
            Some('M') => out += &format!("{:02}", seconds / 60 % 60),
            Some('S') => out += &format!("{:02}", seconds % 60),
            Some('%') => out.push('%'),
            other => {
                let text = format!("strftime_now: `%{}` is not supported", other.unwrap_or(' '));
                return Err(Error::new(ErrorKind::InvalidOperation, text));
            }
        }
    }
    Ok(out)
}

/// Year, month and day of a day since 1970 (Hinnant's algorithm).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_strftime() {
        assert_eq!(strftime("%d %b %Y, %A %H:%M:%S", 951_827_696).unwrap(), "29 Feb 2000, Tuesday 12:34:56");
        assert!(strftime("%c", 0).is_err());
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let mut environment = environment().unwrap();
        environment.add_template("t", "{{ x | tojson }}").unwrap();
        let x = serde_json::json!({"a": [1, "<é>"], "b": null});
        let text = environment.get_template("t").unwrap().render(context! { x => Value::from(Serde(x)) }).unwrap();
        assert_eq!(text, r#"{"a": [1, "<é>"], "b": null}"#);
    }

    fn refusal(source: &'static str) -> String {
        let mut environment = environment().unwrap();
        environment.add_template(NAME, source).unwrap();
        let template =
            Template { environment, file: "chat_template.jinja", tokens: [const { ("bos_token", None) }; 4] };
        let messages = [serde_json::json!({"role": "user", "content": "Mrs Canary has a rash"})];
        template.render(&messages, false).unwrap_err().to_string()
    }

    #[test]
    fn a_template_can_raise_its_own_words_and_none_of_a_record() {
        let own = refusal("{{ raise_exception('roles must alternate') }}");
        assert!(own.contains("roles must alternate"), "{own}");
        for source in
            ["{{ raise_exception(messages[0]['content']) }}", "{{ raise_exception('x' ~ messages[0].content) }}"]
        {
            let hidden = refusal(source);
            assert!(!hidden.contains("Canary") && hidden.contains("not shown"), "{hidden}");
        }
    }

    /// Templates ask `tools is not none`, which holds of an undefined name.
    #[test]
    fn tools_and_documents_are_none_as_transformers_passes_them() {
        let mut environment = environment().unwrap();
        let source = "{{ tools is none }} {{ documents is none }} {{ tools is defined }} {{ other is defined }}";
        environment.add_template_owned(NAME, source.to_owned()).unwrap();
        let template = Template { environment, file: "t", tokens: std::array::from_fn(|_| ("bos_token", None)) };
        assert_eq!(template.render::<()>(&[], true).unwrap().to_lowercase(), "true true true false");
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let mut environment = environment().unwrap();
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        environment.add_template("t", source).unwrap();
        assert_eq!(
            environment.get_template("t").unwrap().render(context! {}).unwrap_err().kind(),
            ErrorKind::OutOfFuel
        );
    }
}
