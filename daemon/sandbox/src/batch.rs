//! A batch of records through one plugin: JSON Lines in, outcomes and the kept records out, both in the same order.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use cloister_wire::{
    record::Record,
    sandbox::{Outcome, RecordResult},
};

use crate::plugin::Plugin;

/// Records in flight. Two keep two cores busy; the memory cap of a plugin holds for each.
const THREADS: usize = 2;

/// Why a batch was not run at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BatchError {
    /// The daemon sent something else than records. The parser's own message would quote the text.
    #[error("line {line} of the batch is no record ({category} at column {column})")]
    Record { line: usize, column: usize, category: &'static str },
    /// A kept record could not be written down.
    #[error("a cleaned record could not be encoded")]
    Encode,
}

/// Runs `plugin` over `lines`; the second value holds the kept records (cleaners only).
pub(crate) fn run(plugin: &Plugin, lines: &[u8]) -> Result<(Vec<Outcome>, Vec<u8>), BatchError> {
    let records = parse(lines)?;
    let results = run_all(plugin, &records);
    let mut outcomes = Vec::with_capacity(records.len());
    let mut kept = Vec::new();
    for (record, (result, cleaned)) in records.iter().zip(results) {
        if let Some(cleaned) = cleaned {
            serde_json::to_writer(&mut kept, &cleaned).map_err(|_| BatchError::Encode)?;
            kept.push(b'\n');
        }
        outcomes.push(Outcome { row: record.row, result });
    }
    Ok((outcomes, kept))
}

fn parse(lines: &[u8]) -> Result<Vec<Record>, BatchError> {
    lines
        .split(|&byte| byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(index, line)| serde_json::from_slice(line).map_err(|error| refusal(index + 1, &error)))
        .collect()
}

fn refusal(line: usize, error: &serde_json::Error) -> BatchError {
    let category = match error.classify() {
        serde_json::error::Category::Data => "a field is wrong",
        _ => "not JSON",
    };
    BatchError::Record { line, column: error.column(), category }
}

/// What became of one record, and the record if it is kept.
pub(crate) type Fate = (RecordResult, Option<Record>);

fn run_all(plugin: &Plugin, records: &[Record]) -> Vec<Fate> {
    let next = AtomicUsize::new(0);
    let fates: Vec<OnceLock<Fate>> = records.iter().map(|_| OnceLock::new()).collect();
    let work = || {
        while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < records.len()) {
            // Each index is handed out once, so the cell is empty.
            let _ = fates[index].set(plugin.run(&records[index]));
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(work);
        }
        work();
    });
    let lost = || (RecordResult::Failed { reason: "trap: the record was not run".into() }, None);
    fates.into_iter().map(|fate| fate.into_inner().unwrap_or_else(lost)).collect()
}
