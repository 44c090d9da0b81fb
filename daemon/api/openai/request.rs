//! Reading a request: JSON to a prompt and a way of sampling, or a failure that names the parameter.
//!
//! Read by hand from a JSON map rather than through serde: a wrong value must be named by parameter
//! (`param`), and serde's messages repeat the value, which may be a patient's.
//!
//! What always holds: a parameter is used, is known to change nothing, has the value that means "leave
//! it", or is refused.

use cloister_wire::engine::{Prompt, Sampling};
use cloister_wire::record::Message;
use ring::rand::SystemRandom;
use serde_json::{Map, Value};

use super::Limits;
use super::error::Failure;

const MOST_STOP_TEXTS: usize = 16;
/// OpenAI's default for `/v1/completions`.
const DEFAULT_TEXT_TOKENS: u32 = 16;

/// Labels and hints for OpenAI's own bookkeeping: they never change an answer.
const WITHOUT_EFFECT: [&str; 8] = [
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "tool_choice",
];

/// Which of the two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Text,
}

/// A request that was understood.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) model: String,
    pub(super) prompt: Prompt,
    pub(super) sampling: Sampling,
    /// Streamed, and how; none for one whole answer.
    pub(super) stream: Option<StreamOptions>,
}

/// `stream_options`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamOptions {
    /// A last event with the usage.
    pub(super) include_usage: bool,
}

/// Reads a body.
pub(super) fn parse(kind: Kind, body: &[u8], limits: &Limits) -> Result<Request, Failure> {
    let mut fields = Fields::parse(body)?;
    let Some(Value::String(model)) = fields.take("model") else {
        return Err(Failure::invalid(Some("model"), "`model` must name a deployed adapter"));
    };
    let prompt = match kind {
        Kind::Chat => Prompt::Chat(messages(fields.take("messages"))?),
        Kind::Text => Prompt::Text(text(fields.take("prompt"))?),
    };
    let sampling = Sampling {
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(1.0),
        top_p: fields.number("top_p", f64::MIN_POSITIVE, 1.0)?.unwrap_or(1.0),
        max_tokens: Some(max_tokens(kind, &mut fields, limits)?),
        stop: stop(fields.take("stop"))?,
        seed: seed(fields.take("seed"))?,
    };
    let stream = stream(&mut fields)?;
    fields.refuse_the_rest()?;
    Ok(Request { model, prompt, sampling, stream })
}

fn max_tokens(kind: Kind, fields: &mut Fields, limits: &Limits) -> Result<u32, Failure> {
    let most = limits.most_max_tokens;
    let old = fields.integer("max_tokens", most)?;
    let new = match kind {
        Kind::Chat => fields.integer("max_completion_tokens", most)?,
        Kind::Text => None,
    };
    match (kind, old, new) {
        (_, Some(old), Some(new)) if old != new => {
            Err(Failure::invalid(Some("max_tokens"), "`max_tokens` and `max_completion_tokens` disagree; give one"))
        }
        (_, Some(tokens), _) | (_, None, Some(tokens)) => Ok(tokens),
        (Kind::Chat, None, None) => Ok(limits.default_max_tokens),
        (Kind::Text, None, None) => Ok(DEFAULT_TEXT_TOKENS.min(most)),
    }
}

fn stream(fields: &mut Fields) -> Result<Option<StreamOptions>, Failure> {
    let streamed = fields.flag("stream")?;
    let options = match fields.take("stream_options") {
        None => StreamOptions::default(),
        Some(_) if !streamed => {
            return Err(Failure::invalid(Some("stream_options"), "`stream_options` needs `stream: true`"));
        }
        Some(Value::Object(options)) => {
            let mut options = Fields(options);
            // OpenAI pads events against traffic analysis; on a local socket there is nothing to pad.
            options.flag("include_obfuscation")?;
            let include_usage = options.flag("include_usage")?;
            options.refuse_the_rest()?;
            StreamOptions { include_usage }
        }
        Some(_) => return Err(Failure::invalid(Some("stream_options"), "`stream_options` must be an object")),
    };
    Ok(streamed.then_some(options))
}

fn stop(value: Option<Value>) -> Result<Vec<String>, Failure> {
    let wrong = || {
        let why = format!("`stop` must be a text or up to {MOST_STOP_TEXTS} texts, none of them empty");
        Failure::invalid(Some("stop"), why)
    };
    let texts = match value {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(values)) => {
            let texts = values.into_iter().map(|value| match value {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            });
            texts.collect::<Result<_, _>>()?
        }
        Some(_) => return Err(wrong()),
    };
    if texts.len() > MOST_STOP_TEXTS || texts.iter().any(String::is_empty) {
        return Err(wrong());
    }
    Ok(texts)
}

fn seed(value: Option<Value>) -> Result<u64, Failure> {
    match value {
        // Two's complement: every integer is a seed of its own.
        Some(value) => value
            .as_u64()
            .or_else(|| value.as_i64().map(i64::cast_unsigned))
            .ok_or_else(|| Failure::invalid(Some("seed"), "`seed` must be an integer")),
        None => random(),
    }
}

/// Eight random bytes, where no seed was given.
pub(super) fn random() -> Result<u64, Failure> {
    ring::rand::generate::<[u8; 8]>(&SystemRandom::new()).map(|random| u64::from_le_bytes(random.expose())).map_err(
        |_| {
            use cloister_wire::admin::{ApiError, ErrorCode};
            ApiError::new(ErrorCode::Failed, "the system gives no random numbers").into()
        },
    )
}

fn text(value: Option<Value>) -> Result<String, Failure> {
    let wrong = "`prompt` must be one text (a list of one is one); tokens and several prompts are not supported";
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(mut values)) if values.len() == 1 => match values.pop() {
            Some(Value::String(text)) => Ok(text),
            _ => Err(Failure::invalid(Some("prompt"), wrong)),
        },
        _ => Err(Failure::invalid(Some("prompt"), wrong)),
    }
}

fn messages(value: Option<Value>) -> Result<Vec<Message>, Failure> {
    match value {
        Some(Value::Array(values)) if !values.is_empty() => {
            values.into_iter().enumerate().map(|(at, value)| message(at, value)).collect()
        }
        _ => Err(Failure::invalid(Some("messages"), "`messages` must be a list of at least one message")),
    }
}

fn message(at: usize, value: Value) -> Result<Message, Failure> {
    let wrong = |field: &str, why: &str| {
        let place = format!("messages[{at}]{field}");
        Failure::invalid(Some(&place), format!("`{place}` {why}"))
    };
    let Value::Object(fields) = value else { return Err(wrong("", "must be an object")) };
    let mut fields = Fields(fields);
    let role = match fields.take("role").as_ref().and_then(Value::as_str) {
        Some("developer") => "system", // OpenAI's newer name
        Some("system") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        _ => {
            return Err(wrong(
                ".role",
                "must be `system`, `developer`, `user` or `assistant`; tools are not supported",
            ));
        }
    };
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) if !parts.is_empty() => parts
            .iter()
            .map(|part| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text),
                _ => Err(wrong(".content", "has a part that is not `{\"type\": \"text\", \"text\": …}`")),
            })
            .collect::<Result<Vec<_>, _>>()?
            .join("\n"),
        _ => return Err(wrong(".content", "must be a text or a list of text parts")),
    };
    fields.take("name"); // chat templates have no place for it
    match fields.first_with_a_value() {
        Some(unknown) => Err(wrong(&format!(".{unknown}"), "is not supported")),
        None => Ok(Message::new(role, content)),
    }
}

/// The parameters that have not been read yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(body: &[u8]) -> Result<Self, Failure> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Failure::invalid(None, "the body must be a JSON object")),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                Err(Failure::invalid(None, format!("the body is not JSON (line {line}, column {column})")))
            }
        }
    }

    /// The parameter's value; null is as good as absent.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn number(&mut self, name: &str, least: f64, most: f64) -> Result<Option<f64>, Failure> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ if least > 0.0 => {
                Err(Failure::invalid(Some(name), format!("`{name}` must be above 0 and at most {most}")))
            }
            _ => Err(Failure::invalid(Some(name), format!("`{name}` must be a number from {least} to {most}"))),
        }
    }

    fn integer(&mut self, name: &str, most: u32) -> Result<Option<u32>, Failure> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (1..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Failure::invalid(Some(name), format!("`{name}` must be an integer from 1 to {most}"))),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool, Failure> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Failure::invalid(Some(name), format!("`{name}` must be true or false"))),
        }
    }

    fn first_with_a_value(&self) -> Option<&str> {
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(values) => values.is_empty(),
            _ => false,
        };
        self.0.iter().find(|(_, value)| !empty(value)).map(|(name, _)| name.as_str())
    }

    fn refuse_the_rest(mut self) -> Result<(), Failure> {
        self.0.retain(|name, value| !WITHOUT_EFFECT.contains(&name.as_str()) && !leaves_the_answer(name, value));
        let Some(name) = self.first_with_a_value() else { return Ok(()) };
        let message = if name == "n" || name == "best_of" {
            format!("`{name}` must be 1: a request gets one answer")
        } else {
            format!("`{name}` is not supported")
        };
        Err(Failure::invalid(Some(name), message).code("unsupported_parameter"))
    }
}

/// Whether an unsupported parameter has the value that asks for nothing.
fn leaves_the_answer(name: &str, value: &Value) -> bool {
    match name {
        "n" | "best_of" => value.as_u64() == Some(1),
        "presence_penalty" | "frequency_penalty" => value.as_f64() == Some(0.0),
        "logprobs" | "echo" | "store" => value.as_bool() == Some(false),
        "top_logprobs" => value.as_u64() == Some(0),
        "suffix" => value.as_str() == Some(""),
        "function_call" => value.as_str() == Some("none"),
        "modalities" => *value == serde_json::json!(["text"]),
        "response_format" => *value == serde_json::json!({ "type": "text" }),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_request_bytes: 1 << 20, default_max_tokens: 100, most_max_tokens: 200 };

    fn chat(more: &str) -> Result<Request, Failure> {
        let body = format!(r#"{{"model": "notes", "messages": [{{"role": "user", "content": "hi"}}]{more}}}"#);
        parse(Kind::Chat, body.as_bytes(), &LIMITS)
    }

    fn refused(param: &str, outcome: Result<Request, Failure>) -> String {
        let body = outcome.expect_err(param).body();
        assert_eq!(body["error"]["param"], param, "{body}");
        body["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn defaults_are_openais() {
        let request = chat("").unwrap();
        let sampling = &request.sampling;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.max_tokens), (1.0, 1.0, Some(100)));
        assert_eq!((request.stream, request.model.as_str()), (None, "notes"));
        let text = parse(Kind::Text, br#"{"model": "notes", "prompt": ["a"]}"#, &LIMITS).unwrap();
        assert_eq!((text.prompt, text.sampling.max_tokens), (Prompt::Text("a".into()), Some(16)));
    }

    #[test]
    fn parameters_reach_the_sampling() {
        let more = r#", "temperature": 0, "top_p": 0.5, "max_completion_tokens": 7, "stop": "END", "seed": -1,
            "stream": true, "stream_options": {"include_usage": true}"#;
        let request = chat(more).unwrap();
        let expected =
            Sampling { temperature: 0.0, top_p: 0.5, max_tokens: Some(7), stop: vec!["END".into()], seed: u64::MAX };
        assert_eq!(request.sampling, expected);
        assert_eq!(request.stream, Some(StreamOptions { include_usage: true }));
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        for (param, more) in [
            ("temperature", r#", "temperature": 3"#),
            ("temperature", r#", "temperature": "hot""#),
            ("top_p", r#", "top_p": 0"#),
            ("max_tokens", r#", "max_tokens": 0"#),
            ("max_tokens", r#", "max_tokens": 201"#),
            ("max_tokens", r#", "max_tokens": 5, "max_completion_tokens": 6"#),
            ("stop", r#", "stop": ["a", ""]"#),
            ("stop", r#", "stop": 5"#),
            ("seed", r#", "seed": 0.5"#),
            ("stream_options", r#", "stream_options": {"include_usage": true}"#),
        ] {
            refused(param, chat(more));
        }
    }

    #[test]
    fn what_would_change_the_answer_is_never_ignored() {
        for (param, more) in [
            ("n", r#", "n": 2"#),
            ("top_k", r#", "top_k": 40"#),
            ("logprobs", r#", "logprobs": true"#),
            ("tools", r#", "tools": [{"type": "function"}]"#),
            ("response_format", r#", "response_format": {"type": "json_object"}"#),
            ("presence_penalty", r#", "presence_penalty": 0.5"#),
        ] {
            refused(param, chat(more));
        }
        chat(r#", "n": 1, "tools": [], "logprobs": false, "presence_penalty": 0, "user": "ada", "logit_bias": {}"#)
            .unwrap();
    }

    #[test]
    fn content_is_a_text_or_parts_of_text() {
        let body = br#"{"model": "m", "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": null, "tool_calls": []}]}"#;
        let request = parse(Kind::Chat, body, &LIMITS).unwrap();
        let expected = vec![Message::new("system", "a\nb"), Message::new("assistant", "c")];
        assert_eq!(request.prompt, Prompt::Chat(expected));
    }

    #[test]
    fn an_error_names_the_message_and_never_its_text() {
        for (place, message) in [
            ("messages[0].content", r#"{"role": "user", "content": {"canary": "canary"}}"#),
            ("messages[0].content", r#"{"role": "user", "content": [{"type": "image_url", "text": "canary"}]}"#),
            ("messages[0].role", r#"{"role": "canary", "content": "canary"}"#),
            ("messages[0].tool_calls", r#"{"role": "user", "content": "canary", "tool_calls": ["canary"]}"#),
            ("messages[0]", r#""canary""#),
        ] {
            let body = format!(r#"{{"model": "m", "messages": [{message}]}}"#);
            let told = refused(place, parse(Kind::Chat, body.as_bytes(), &LIMITS));
            assert!(!told.contains("canary"), "{told}");
        }
        for body in [r#""canary""#, "canary", r#"{"model": "canary"#] {
            let told = parse(Kind::Chat, body.as_bytes(), &LIMITS).unwrap_err().to_string();
            assert!(!told.contains("canary"), "{told}");
        }
    }
}
