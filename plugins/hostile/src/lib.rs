//! A plugin that misbehaves in the way its record asks for: the sandbox's tests
//! run it to see every limit hold. Built with the other guests, never shipped.
//!
//! The first message's content names the mode; anything else is returned as it
//! came, so that a test can mix hostile and harmless records in one batch.

use cloister_plugin_sdk::{Cleaner, Description, Finding, Message, Outcome, export_cleaner};

/// The plugin.
pub struct Hostile;

export_cleaner!(Hostile);

/// Every mode, as the record's content names it.
pub const MODES: [&str; 7] = ["loop", "memory", "output", "trap", "offset", "reshape", "remember"];

impl Cleaner for Hostile {
    fn describe() -> Description {
        Description {
            name: "hostile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Misbehaves on request.".into(),
            gives: MODES.map(String::from).into(),
        }
    }

    fn clean(messages: Vec<Message>) -> Outcome {
        let mode = messages.first().map(|m| m.content.clone());
        match mode.as_deref() {
            Some("loop") => spin(),
            Some("memory") => hoard(),
            Some("output") => flood(messages),
            Some("trap") => core::unreachable!("asked to trap"),
            Some("offset") => misplaced(messages),
            Some("reshape") => kept(Vec::new()),
            Some("remember") => remember(messages),
            _ => kept(messages),
        }
    }
}

fn kept(messages: Vec<Message>) -> Outcome {
    Outcome::Kept { messages, findings: Vec::new() }
}

fn spin() -> Outcome {
    let mut turns = 0_u64;
    loop {
        turns = core::hint::black_box(turns.wrapping_add(1));
    }
}

fn hoard() -> Outcome {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(core::hint::black_box(vec![1; 1 << 20]));
    }
}

/// An answer far larger than any record.
fn flood(mut messages: Vec<Message>) -> Outcome {
    for message in &mut messages {
        message.content = "x".repeat(12 << 20);
    }
    kept(messages)
}

/// A finding that points outside its message.
fn misplaced(messages: Vec<Message>) -> Outcome {
    Outcome::Kept {
        messages,
        findings: vec![Finding {
            kind: "offset".into(),
            message: 0,
            start: 0,
            end: u32::MAX,
            replacement: String::new(),
        }],
    }
}

/// Gives away how many records this instance has seen: more than one would mean
/// that one record can reach another through the guest's memory.
fn remember(mut messages: Vec<Message>) -> Outcome {
    use core::sync::atomic::{AtomicU32, Ordering};
    static SEEN: AtomicU32 = AtomicU32::new(0);
    let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
    for message in &mut messages {
        message.content = format!("seen {seen}");
    }
    kept(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_mode_is_harmless() {
        let record = vec![Message::new("user", "hello")];
        assert_eq!(Hostile::clean(record.clone()), kept(record));
    }
}
