//! `cloister audit`: reads, verifies and exports the tamper-evident log.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use cloister_wire::admin::{ApiError, AuditReport, ErrorCode};
use serde_json::{Value, json};

use super::Context;
use crate::client::{Lines, Reply, admin};
use crate::error::{self, CliError};
use crate::{files, progress, render};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the last records
    #[command(after_help = "Example:\n  cloister audit tail -n 50")]
    Tail {
        /// How many
        #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 20)]
        count: u32,
    },
    /// Read the whole log and compare it with its signed checkpoints; exits 1 at a bad record
    #[command(after_help = "Example:\n  cloister audit verify")]
    Verify,
    /// Write the whole log as JSON Lines
    #[command(after_help = "Example:\n  cloister audit export --out audit-2026-11.jsonl")]
    Export {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Tail { count } => tail(context, count).await,
        Verb::Verify => verify(context).await,
        Verb::Export { out } => export(context, &out).await,
    }
}

async fn tail(context: &Context, count: u32) -> Result<(), CliError> {
    let path = format!("{}?n={count}", admin(&["audit", "tail"]));
    let reply: Reply<Vec<Value>> = context.client()?.get(&path).await?;
    context.print(&reply, |records| describe(records));
    Ok(())
}

/// A column for every key that has something to read; digests and signatures are for machines.
fn describe(records: &[Value]) -> String {
    let mut columns: Vec<&String> = Vec::new();
    for record in records.iter().filter_map(Value::as_object) {
        for (key, value) in record {
            if !columns.contains(&key) && is_readable(value) {
                columns.push(key);
            }
        }
    }
    let rows = records.iter().map(|record| {
        columns.iter().map(|column| record.get(column.as_str()).map(render::cell).unwrap_or_default()).collect()
    });
    render::table(&columns.iter().map(|column| column.as_str()).collect::<Vec<_>>(), rows)
}

fn is_readable(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !(text.len() >= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())),
        _ => true,
    }
}

async fn verify(context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let bar = progress::spinner("reading the audit log".into());
    let reply: Result<Reply<AuditReport>, _> = client.post_empty(&admin(&["audit", "verify"])).await;
    bar.finish_and_clear();
    let reply = reply?;
    context.print(&reply, |report| {
        render::facts([
            ("verified", if report.verified { "yes: as it was written" } else { "NO" }.into()),
            ("first bad record", report.first_bad.clone().unwrap_or_default()),
            ("records", report.records.to_string()),
            ("signed checkpoints", report.checkpoints.to_string()),
            ("Merkle root", report.root.clone()),
        ])
    });
    if reply.value.verified {
        return Ok(());
    }
    Err(CliError::verdict(ErrorCode::Failed, "the audit log is not as it was written"))
}

async fn export(context: &Context, out: &Path) -> Result<(), CliError> {
    files::refuse_existing(out)?;
    let lines = context.client()?.lines(&admin(&["audit", "export"])).await?;
    let written = write_lines(lines, out).await.inspect_err(|_| {
        // Half a log must not pass for a whole one.
        let _ = std::fs::remove_file(out);
    });
    let records = written?;
    let human = format!("wrote {records} records to `{}`", out.display());
    context.print_done(&json!({ "out": out, "records": records }), &human);
    Ok(())
}

async fn write_lines(mut lines: Lines, out: &Path) -> Result<u64, ApiError> {
    let unwritable = |error: std::io::Error| error::file("write", out, &error);
    let mut file = BufWriter::new(files::create(out)?);
    let mut records = 0;
    while let Some(mut line) = lines.next().await? {
        line.push(b'\n');
        file.write_all(&line).map_err(unwritable)?;
        records += 1;
    }
    let file = file.into_inner().map_err(|error| unwritable(error.into_error()))?;
    file.sync_all().map_err(unwritable)?;
    Ok(records)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_leaves_digests_to_machines() {
        let records = [json!({ "seq": 1, "action": "Train", "hash": "ab".repeat(32), "note": null })];
        assert_eq!(describe(&records), "SEQ  ACTION\n1    Train");
    }
}
