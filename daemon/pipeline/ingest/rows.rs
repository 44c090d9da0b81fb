//! From rows of a file to records: CSV, JSON Lines, text.
//!
//! Nothing here allocates more than a row's limit, whatever the file claims.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read};

use cloister_wire::admin::ImportSpec;
use cloister_wire::record::{Message, Record};
use serde_json::Value;

use super::{MAX_ROW_BYTES, Parsed, conversation, first_of};
use crate::error::{Error, Result};

const PROMPTS: [&str; 5] = ["prompt", "instruction", "question", "user", "input"];
const ANSWERS: [&str; 5] = ["completion", "output", "response", "answer", "assistant"];

/// How fields become a conversation.
pub(super) struct Shape<'a> {
    prompt: Option<Vec<Part<'a>>>,
    answer: Option<&'a str>,
    system: Option<&'a str>,
}

/// A piece of a prompt template.
enum Part<'a> {
    Text(&'a str),
    Field(&'a str),
}

impl<'a> Shape<'a> {
    pub(super) fn new(spec: &'a ImportSpec) -> Self {
        Self {
            prompt: spec.prompt.as_deref().map(parts),
            answer: spec.answer.as_deref(),
            system: spec.system.as_deref(),
        }
    }

    /// The columns that must be there.
    fn needed(&self) -> impl Iterator<Item = &'a str> + '_ {
        let fields = self.prompt.iter().flatten().filter_map(|part| match part {
            Part::Field(name) => Some(*name),
            Part::Text(_) => None,
        });
        fields.chain(self.answer)
    }

    fn record(&self, row: u64, fields: &BTreeMap<String, String>) -> Parsed {
        let present: BTreeSet<String> = fields.keys().cloned().collect();
        let answer_name = self.answer.or_else(|| first_of(&ANSWERS, &present));
        let answer = answer_name.and_then(|name| fields.get(name)).ok_or_else(|| {
            format!("there is no answer; name its column with `--answer` (columns: {})", list(&present))
        })?;
        let messages = conversation(self.system, self.user(fields, &present)?, answer.clone());
        Ok(Record { row, messages })
    }

    fn user(
        &self,
        fields: &BTreeMap<String, String>,
        present: &BTreeSet<String>,
    ) -> std::result::Result<String, String> {
        let field = |name: &str| {
            fields.get(name).cloned().ok_or_else(|| format!("there is no column `{name}` (columns: {})", list(present)))
        };
        let Some(template) = &self.prompt else {
            let name = first_of(&PROMPTS, present)
                .ok_or_else(|| format!("there is no prompt; give one with `--prompt` (columns: {})", list(present)))?;
            let mut user = field(name)?;
            // Alpaca's second half.
            if name == "instruction"
                && let Some(input) = fields.get("input").filter(|input| !input.trim().is_empty())
            {
                user = format!("{user}\n\n{input}");
            }
            return Ok(user);
        };
        template
            .iter()
            .map(|part| match part {
                Part::Text(text) => Ok((*text).to_owned()),
                Part::Field(name) => field(name),
            })
            .collect()
    }
}

fn list(present: &BTreeSet<String>) -> String {
    present
        .iter()
        .take(12)
        .map(|name| format!("`{}`", name.chars().take(40).collect::<String>()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Cuts a template at its `{column}`s; a brace that closes nothing is text.
fn parts(template: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let Some(length) = rest[open..].find('}') else { break };
        parts.push(Part::Text(&rest[..open]));
        parts.push(Part::Field(&rest[open + 1..open + length]));
        rest = &rest[open + length + 1..];
    }
    parts.push(Part::Text(rest));
    parts
}

/// CSV with a header row. Rows count from 1, the header not counted.
pub(super) fn csv(
    shape: &Shape<'_>,
    content: impl Read,
    take: &mut impl FnMut(u64, Parsed) -> Result<()>,
) -> Result<()> {
    let mut reader = csv::ReaderBuilder::new().from_reader(Guard { inner: content, since_line: 0 });
    let header = reader.headers().map_err(|error| Error::invalid(format!("the header row: {}", csv_reason(&error))))?;
    let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
    let present: BTreeSet<String> = names.iter().cloned().collect();
    if let Some(missing) = shape.needed().find(|name| !present.contains(*name)) {
        return Err(Error::invalid(format!("there is no column `{missing}` in the file"))
            .remedy(format!("its columns are {}", list(&present))));
    }
    let mut fields = csv::StringRecord::new();
    for row in 1.. {
        let parsed = match reader.read_record(&mut fields) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let named = names.iter().cloned().zip(fields.iter().map(str::to_owned)).collect();
                shape.record(row, &named)
            }
            Err(error) if matches!(error.kind(), csv::ErrorKind::Io(_)) => {
                return Err(Error::invalid(format!("row {row}: {}", csv_reason(&error))));
            }
            Err(error) => Err(csv_reason(&error)),
        };
        take(row, parsed)?;
    }
    Ok(())
}

/// csv's errors without anything of the row's text.
fn csv_reason(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, pos } => format!(
            "it has {len} fields where the header has {expected_len}{}",
            pos.as_ref().map(|p| format!(" (line {})", p.line())).unwrap_or_default()
        ),
        csv::ErrorKind::Utf8 { err, .. } => format!("field {} is not valid UTF-8", err.field() + 1),
        csv::ErrorKind::Io(error) => error.to_string(),
        _ => "it is not CSV".into(),
    }
}

/// Ends a read in which no line ends for too long, before it fills the memory.
struct Guard<R> {
    inner: R,
    since_line: usize,
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.since_line = match buffer[..read].iter().rposition(|b| *b == b'\n') {
            Some(at) => read - at - 1,
            None => self.since_line + read,
        };
        if self.since_line > MAX_ROW_BYTES {
            return Err(std::io::Error::other(format!("a line is longer than {MAX_ROW_BYTES} bytes")));
        }
        Ok(read)
    }
}

/// One JSON object a line. Rows are lines, counted from 1; empty ones are passed over.
pub(super) fn json_lines(
    shape: &Shape<'_>,
    mut content: impl BufRead,
    take: &mut impl FnMut(u64, Parsed) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    for row in 1.. {
        line.clear();
        let read = content
            .by_ref()
            .take(MAX_ROW_BYTES as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| Error::invalid(format!("row {row}: the upload broke off: {error}")))?;
        if read == 0 {
            return Ok(());
        }
        if read > MAX_ROW_BYTES {
            let skipped = content.skip_until(b'\n').map_err(|error| Error::invalid(format!("row {row}: {error}")))?;
            take(row, Err(format!("it is {} bytes long; the limit is {MAX_ROW_BYTES}", read + skipped)))?;
        } else if !line.trim_ascii().is_empty() {
            take(row, json_record(shape, row, &line))?;
        }
    }
    Ok(())
}

fn json_record(shape: &Shape<'_>, row: u64, line: &[u8]) -> Parsed {
    if std::str::from_utf8(line).is_err() {
        return Err("it is not valid UTF-8".into());
    }
    // serde_json's message can quote a value; its position cannot.
    let value: Value =
        serde_json::from_slice(line).map_err(|error| format!("it is not JSON (column {})", error.column()))?;
    let Value::Object(object) = value else { return Err("it is not a JSON object".into()) };
    if let Some(Value::Array(turns)) = object.get("messages").filter(|_| shape.prompt.is_none()) {
        let system = shape.system.map(|text| Message::new("system", text));
        let turns = turns.iter().map(turn).collect::<std::result::Result<Vec<_>, _>>()?;
        return Ok(Record { row, messages: system.into_iter().chain(turns).collect() });
    }
    let fields = object.into_iter().filter_map(|(name, value)| match value {
        Value::String(text) => Some((name, text)),
        Value::Number(number) => Some((name, number.to_string())),
        Value::Bool(flag) => Some((name, flag.to_string())),
        _ => None,
    });
    shape.record(row, &fields.collect())
}

fn turn(value: &Value) -> std::result::Result<Message, String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    match (text("role"), text("content")) {
        (Some(role), Some(content)) => Ok(Message { role, content }),
        _ => Err("a message has no `role` or no `content`".into()),
    }
}

/// Documents divided by blank lines, learnt whole.
pub(super) fn documents(mut content: impl BufRead, take: &mut impl FnMut(u64, Parsed) -> Result<()>) -> Result<()> {
    let (mut row, mut document, mut ended) = (0, Vec::new(), false);
    while !ended {
        let before = document.len();
        let room = (MAX_ROW_BYTES + 1 - before.min(MAX_ROW_BYTES)) as u64;
        let read = content
            .by_ref()
            .take(room)
            .read_until(b'\n', &mut document)
            .map_err(|error| Error::invalid(format!("the upload broke off: {error}")))?;
        ended = read == 0;
        if document.len() > MAX_ROW_BYTES {
            return Err(Error::invalid(format!("row {}: a document is longer than {MAX_ROW_BYTES} bytes", row + 1))
                .remedy("divide documents by blank lines"));
        }
        if (ended || document[before..].trim_ascii().is_empty()) && !document.trim_ascii().is_empty() {
            row += 1;
            let text = String::from_utf8(std::mem::take(&mut document)).map_err(|_| "it is not valid UTF-8".to_owned());
            take(row, text.map(|text| Record { row, messages: vec![Message::new("assistant", text.trim())] }))?;
        } else if document.trim_ascii().is_empty() {
            document.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use cloister_wire::admin::{Format, Label};

    fn read(format: Format, prompt: Option<&str>, answer: Option<&str>, text: &[u8]) -> Vec<(u64, Parsed)> {
        let spec = ImportSpec {
            format,
            label: Label::Phi,
            purposes: ["notes".to_owned()].into(),
            prompt: prompt.map(Into::into),
            answer: answer.map(Into::into),
            system: None,
            skip_bad_rows: false,
        };
        let mut rows = Vec::new();
        super::super::each_row(&spec, text, |row, parsed| {
            rows.push((row, parsed));
            Ok(())
        })
        .unwrap();
        rows
    }

    #[test]
    fn a_template_takes_columns_by_name() {
        let text = b"\xef\xbb\xbfhead,talk,note\nGENHX,\"a\nb\",fine\n";
        let rows = read(Format::Csv, Some("Write {head}:\n{talk}"), Some("note"), text);
        let record = rows[0].1.as_ref().unwrap();
        assert_eq!(record.messages[0].content, "Write GENHX:\na\nb");
        assert_eq!(record.messages[1].content, "fine");
    }

    #[test]
    fn a_ragged_row_and_bad_utf8_are_named_without_their_text() {
        let rows = read(Format::Csv, None, None, b"prompt,answer\na,b\nsecret\nc,\xff\n");
        let reasons: Vec<_> = rows.iter().filter_map(|(row, p)| p.as_ref().err().map(|r| (*row, r.clone()))).collect();
        assert_eq!(reasons.len(), 2, "{reasons:?}");
        assert!(reasons[0].0 == 2 && reasons[0].1.contains("1 fields where the header has 2"));
        assert!(reasons[1].0 == 3 && reasons[1].1.contains("UTF-8"));
        assert!(!format!("{reasons:?}").contains("secret"));
    }

    #[test]
    fn json_lines_know_messages_alpaca_and_prompt_completion() {
        let text = br#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}
{"instruction":"do","input":"this","output":"done"}

{"prompt":"p","completion":"c"}
{"prompt":"p"
"#;
        let rows = read(Format::Jsonl, None, None, text);
        assert_eq!(rows.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(rows[1].1.as_ref().unwrap().messages[0].content, "do\n\nthis");
        assert!(rows[3].1.as_ref().unwrap_err().contains("not JSON"));
    }

    #[test]
    fn a_line_of_a_megabyte_is_refused_and_the_next_one_read() {
        let text = format!("{{\"prompt\":\"{}\"}}\n{{\"prompt\":\"p\",\"answer\":\"a\"}}\n", "x".repeat(1 << 20));
        let rows = read(Format::Jsonl, None, None, text.as_bytes());
        assert!(rows[0].1.as_ref().unwrap_err().contains("limit"));
        assert!(rows[1].1.is_ok());
    }

    #[test]
    fn documents_are_divided_by_blank_lines() {
        let rows = read(Format::Text, None, None, b"one\nstill one\n\n\ntwo");
        let texts: Vec<_> = rows.iter().map(|r| r.1.as_ref().unwrap().messages[0].content.clone()).collect();
        assert_eq!(texts, ["one\nstill one", "two"]);
    }
}
