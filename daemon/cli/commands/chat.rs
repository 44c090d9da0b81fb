//! `cloister chat`: talks to a served adapter through the OpenAI-compatible API.
//!
//! With `-m` one question and its answer; without, a conversation, whose lines are read as they are typed.
//! Ctrl-C ends the answer that is being written (the daemon stops generating), or else the conversation.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use cloister_wire::admin::{ApiError, ErrorCode};
use cloister_wire::record::Message;
use serde::Serialize;
use serde_json::Value;

use super::Context;
use crate::client::{Client, Lines, Reply, openai_error};
use crate::error::{CliError, failed};
use crate::{prompt, render, values};

const PATH: &str = "/v1/chat/completions";

const EXAMPLES: &str = "\
Examples:
  cloister chat notes -m 'Summarise: patient reports two days of cough'
  cloister chat notes --temperature 0 --system 'You write visit notes.'
  cloister chat notes -m - < dialogue.txt

In a conversation: /reset forgets it, /exit or Ctrl-D ends it, Ctrl-C stops an answer.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ChatArgs {
    /// The served adapter
    #[arg(value_parser = values::name)]
    adapter: String,
    /// One message instead of a conversation; `-` is standard input
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// A system message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// 0 for the likeliest token always
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Only the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Same seed, same messages, same answer
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// A request in OpenAI's words; what is not given is left to the daemon.
#[derive(Debug, Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: &'a [Message],
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl ChatArgs {
    fn request<'a>(&'a self, messages: &'a [Message], stream: bool) -> Request<'a> {
        Request {
            model: &self.adapter,
            messages,
            stream,
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
        }
    }

    fn opening(&self) -> Vec<Message> {
        self.system.iter().map(|text| Message::new("system", text)).collect()
    }
}

/// One question, or a conversation.
pub(crate) async fn chat(context: &Context, args: ChatArgs) -> Result<(), CliError> {
    let client = context.client()?;
    match &args.message {
        Some(text) => {
            let mut messages = args.opening();
            messages.push(Message::new("user", prompt::text_or_stdin(text)?));
            once(context, &client, &args, &messages).await
        }
        None if context.json => {
            Err(CliError::usage("a conversation has no JSON form", "give one message with -m TEXT"))
        }
        None => conversation(&client, &args).await,
    }
}

async fn once(context: &Context, client: &Client, args: &ChatArgs, messages: &[Message]) -> Result<(), CliError> {
    if context.json {
        let reply: Reply<Value> = client.post(PATH, &args.request(messages, false)).await?;
        render::say_json(&reply.value);
        return Ok(());
    }
    let lines = client.post_lines(PATH, &args.request(messages, true)).await?;
    print_answer(lines, &mut String::new()).await?;
    Ok(())
}

async fn conversation(client: &Client, args: &ChatArgs) -> Result<(), CliError> {
    let mut messages = args.opening();
    if io::stdin().is_terminal() {
        eprintln!("talking to `{}`; /reset forgets, /exit or Ctrl-D ends", args.adapter);
    }
    while let Some(line) = read_line().await? {
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => break,
            "/reset" => {
                messages = args.opening();
                continue;
            }
            text => messages.push(Message::new("user", text)),
        }
        match turn(client, args, &messages).await {
            Ok(answer) => messages.push(Message::new("assistant", answer)),
            // The question is taken back, so that it can be put again.
            Err(error) if recoverable(&error) => {
                messages.pop();
                eprintln!("{}", CliError::from(error).human());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A question that was refused leaves the conversation standing; a daemon that is gone does not.
fn recoverable(error: &ApiError) -> bool {
    matches!(error.code, ErrorCode::Invalid | ErrorCode::Failed)
}

/// Asks, prints the answer as it comes, and gives it back: whole, or as far as it came before Ctrl-C.
async fn turn(client: &Client, args: &ChatArgs, messages: &[Message]) -> Result<String, ApiError> {
    let mut answer = String::new();
    let request = args.request(messages, true);
    let asking = async {
        let lines = client.post_lines(PATH, &request).await?;
        print_answer(lines, &mut answer).await
    };
    // Leaving drops the connection, which tells the daemon to stop generating.
    let stopped = tokio::select! {
        outcome = asking => { outcome?; false }
        _ = tokio::signal::ctrl_c() => true,
    };
    if stopped {
        render::say("");
        eprintln!("(stopped)");
    }
    Ok(answer)
}

/// A line of standard input; `None` at its end or at Ctrl-C.
async fn read_line() -> Result<Option<String>, ApiError> {
    if io::stdin().is_terminal() {
        eprint!("> ");
        let _ = io::stderr().flush();
    }
    // On a thread, so that Ctrl-C is seen while it waits.
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|read| (read > 0).then_some(line))
    });
    tokio::select! {
        read = reading => match read {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(failed(format!("standard input cannot be read: {error}"))),
            Err(error) => Err(failed(format!("standard input cannot be read: {error}"))),
        },
        _ = tokio::signal::ctrl_c() => {
            eprintln!();
            Ok(None)
        }
    }
}

/// Prints the pieces of a streamed answer as they come, and collects them.
async fn print_answer(mut lines: Lines, answer: &mut String) -> Result<(), ApiError> {
    let mut finished = false;
    while let Some(line) = lines.next().await? {
        match parse_event(&line)? {
            Event::Text(text) => {
                let mut out = io::stdout().lock();
                // A reader that has gone is no error of ours.
                let _ = out.write_all(render::printable(&text).as_bytes()).and_then(|()| out.flush());
                answer.push_str(&text);
            }
            Event::Done => {
                finished = true;
                break;
            }
            Event::Nothing => {}
        }
    }
    render::say("");
    if finished {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Unavailable, "the answer broke off before its end").remedy("ask again"))
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Text(String),
    Done,
    Nothing,
}

/// One line of server-sent events.
fn parse_event(line: &[u8]) -> Result<Event, ApiError> {
    let Some(data) = line.strip_prefix(b"data:") else {
        return Ok(Event::Nothing);
    };
    let data = data.trim_ascii();
    if data == b"[DONE]" {
        return Ok(Event::Done);
    }
    let value: Value =
        serde_json::from_slice(data).map_err(|error| failed(format!("a piece of the answer is not JSON: {error}")))?;
    if let Some(error) = openai_error(ErrorCode::Failed, &value) {
        return Err(error);
    }
    let text = value.pointer("/choices/0/delta/content").and_then(Value::as_str).unwrap_or_default();
    Ok(if text.is_empty() { Event::Nothing } else { Event::Text(text.into()) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn server_sent_events_are_text_an_end_or_nothing() {
        let event = |line: &str| parse_event(line.as_bytes()).unwrap();
        assert_eq!(event(r#"data: {"choices":[{"delta":{"content":"hi"}}]}"#), Event::Text("hi".into()));
        assert_eq!(event(r#"data: {"choices":[{"delta":{"role":"assistant"}}]}"#), Event::Nothing);
        assert_eq!(event(r#"data: {"choices":[],"usage":{}}"#), Event::Nothing);
        assert_eq!((event("data: [DONE]"), event(""), event(": ping")), (Event::Done, Event::Nothing, Event::Nothing));
        let error = parse_event(br#"data: {"error": {"message": "the engine is gone"}}"#).unwrap_err();
        assert_eq!(error.message, "the engine is gone");
    }

    #[test]
    fn what_is_not_given_is_left_to_the_daemon() {
        let args = ChatArgs {
            adapter: "notes".into(),
            message: None,
            system: Some("You write notes.".into()),
            max_tokens: None,
            temperature: Some(0.0),
            top_p: None,
            seed: None,
        };
        let json = serde_json::to_value(args.request(&args.opening(), true)).unwrap();
        let expected = serde_json::json!({
            "model": "notes",
            "messages": [{"role": "system", "content": "You write notes."}],
            "stream": true,
            "temperature": 0.0,
        });
        assert_eq!(json, expected);
    }
}
