//! How things look on a terminal: tables, sizes, durations, figures.
//!
//! INVARIANT: text that comes from elsewhere (records, model output, names, reasons) passes [`printable`]
//! before it is shown, so that no record can command the terminal.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use cloister_wire::admin::EvalReport;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// Prints a text and a newline; a reader that has gone (`| head`) is no error.
pub(crate) fn say(text: &str) {
    // What could be said about a standard output that cannot be written would have nowhere to go.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Prints JSON as it came, indented.
pub(crate) fn say_json(value: &Value) {
    say(&serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()));
}

/// A table with a header; columns are as wide as they must be and wrap at the terminal's edge.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = bare();
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    let mut any = false;
    for row in rows {
        any = true;
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    if any { trimmed(&table) } else { "(none)".into() }
}

/// Names and values, one pair a line; pairs without a value are left out.
pub(crate) fn facts(pairs: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = bare();
    for (name, value) in pairs {
        if !value.is_empty() {
            table.add_row([name.to_string(), printable(&value)]);
        }
    }
    trimmed(&table)
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if let Some((width, _)) = terminal_size::terminal_size_of(io::stdout()) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width.0.max(60));
    }
    table
}

/// Without comfy-table's padding at both ends of a line.
fn trimmed(table: &Table) -> String {
    let lines: Vec<String> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_string()).collect();
    lines.join("\n")
}

/// The text without what could command a terminal or hide in it: control characters but newline and tab, and
/// the marks that turn the direction of writing.
pub(crate) fn printable(text: &str) -> String {
    let harmful = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    // A line end of Windows is a line end; a carriage return alone could overwrite what stands there.
    text.replace("\r\n", "\n").chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// `1.9 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `45s`, `3m 20s`, `2h 05m`, `3d 04h`.
pub(crate) fn duration(seconds: f64) -> String {
    // An estimate may be infinite before the first step.
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".into();
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// `494.0 M` of parameters or tokens.
pub(crate) fn magnitude(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.2} B", count as f64 / 1e9),
    }
}

/// Names in one line.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// `date 12, name 40`.
pub(crate) fn tally<'a>(counts: impl IntoIterator<Item = (&'a String, &'a u64)>) -> String {
    counts.into_iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
}

/// Any scalar for a cell; nothing for null, compact JSON for the rest.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Base, adapter and the change between them, one metric a line.
pub(crate) fn evaluation(report: &EvalReport) -> String {
    let (base, adapter) = (&report.figures.base, &report.figures.adapter);
    let answers = report.figures.generated > 0;
    let rows = [
        ("loss", base.loss, adapter.loss, Better::Lower, true),
        ("perplexity", base.perplexity, adapter.perplexity, Better::Lower, true),
        ("ROUGE-1", base.rouge1, adapter.rouge1, Better::Higher, answers),
        ("ROUGE-2", base.rouge2, adapter.rouge2, Better::Higher, answers),
        ("ROUGE-L", base.rouge_l, adapter.rouge_l, Better::Higher, answers),
        ("exact match", base.exact_match, adapter.exact_match, Better::Higher, answers),
    ];
    let rows = rows.into_iter().filter(|row| row.4).map(|(name, base, adapter, better, _)| {
        vec![name.into(), format!("{base:.4}"), format!("{adapter:.4}"), change(base, adapter, better)]
    });
    let mut text = table(&["metric", "base", "adapter", "change"], rows);
    let _ = write!(
        text,
        "\n\nmeasured on {} held-out records of `{}`; answers generated for {}",
        report.figures.records, report.dataset, report.figures.generated
    );
    printable(&text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
}

fn change(base: f64, adapter: f64, better: Better) -> String {
    let difference = adapter - base;
    if difference.abs() < 5e-5 {
        return "none".into();
    }
    let word = if (difference < 0.0) == (better == Better::Lower) { "better" } else { "worse" };
    // A part of nothing is no figure.
    let part = if base.abs() < 1e-9 { String::new() } else { format!(" ({:+.1} %)", 100.0 * difference / base) };
    format!("{difference:+.4}{part} {word}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use cloister_wire::engine::{Evaluation, Metrics};

    use super::*;

    #[test]
    fn sizes_and_durations_read_well() {
        let sizes = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1.0 MiB"), (5 << 30, "5.0 GiB")];
        for (given, expected) in sizes {
            assert_eq!(bytes(given), expected);
        }
        let spans = [(0.4, "0s"), (59.4, "59s"), (200.0, "3m 20s"), (7500.0, "2h 05m"), (273_600.0, "3d 04h")];
        for (given, expected) in spans {
            assert_eq!(duration(given), expected);
        }
        assert_eq!((duration(f64::INFINITY), duration(f64::NAN)), ("?".to_string(), "?".to_string()));
        assert_eq!((magnitude(9_999), magnitude(494_032_768)), ("9999".to_string(), "494.0 M".to_string()));
    }

    #[test]
    fn a_table_is_plain_columns() {
        let text = table(&["name", "rows"], [vec!["visits".into(), "12".into()], vec!["x".into(), "3".into()]]);
        assert_eq!(text, "NAME    ROWS\nvisits  12\nx       3");
        assert_eq!(table(&["name"], []), "(none)");
    }

    #[test]
    fn facts_leave_out_what_is_not_known() {
        assert_eq!(facts([("name", "visits".into()), ("digest", String::new())]), "name  visits");
    }

    #[test]
    fn nothing_that_commands_a_terminal_is_shown() {
        assert_eq!(printable("a\u{1b}[31mb\u{202e}c\rd\r\n\te"), "a\u{fffd}[31mb\u{fffd}c\u{fffd}d\n\te");
    }

    #[test]
    fn an_evaluation_says_what_became_better_and_what_worse() {
        let base = Metrics { loss: 2.0, perplexity: 7.39, rouge1: 0.2, rouge2: 0.0, rouge_l: 0.2, exact_match: 0.0 };
        let adapter = Metrics { loss: 1.5, perplexity: 4.48, rouge1: 0.3, rouge2: 0.1, rouge_l: 0.1, exact_match: 0.0 };
        let mut report = EvalReport {
            dataset: "exam".into(),
            dataset_digest: "00".into(),
            adapter_digest: "11".into(),
            figures: Evaluation { base, adapter, records: 40, generated: 20, peak_rss_bytes: 1 },
            principal: "ana".into(),
            at: "2026-11-24T00:00:00Z".into(),
        };
        let text = evaluation(&report);
        assert!(text.contains("-0.5000 (-25.0 %) better"), "{text}");
        assert!(text.contains("+0.1000 better") && text.contains("-0.1000 (-50.0 %) worse"), "{text}");
        assert!(text.contains("40 held-out records of `exam`"), "{text}");
        report.figures.generated = 0;
        assert!(!evaluation(&report).contains("ROUGE"), "figures of answers that were never made are not shown");
    }
}
