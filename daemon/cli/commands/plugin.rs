//! `cloister plugin`: cleaners and scorers in WebAssembly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cloister_wire::admin::{ApiError, ErrorCode, Plugin, PluginManifest, PluginTest};
use cloister_wire::record::{Message, Record};
use cloister_wire::sandbox::{Outcome, PluginWorld, RecordResult};
use hyper::Method;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{Context, dataset};
use crate::client::{Reply, Upload, admin};
use crate::error::{CliError, invalid};
use crate::{files, progress, prompt, render, values};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Install a component; its manifest (name, version, world, sha256) lies beside it
    #[command(after_help = "Example:\n  cloister plugin install redact.wasm      # and redact.toml beside it")]
    Install {
        /// The component
        file: PathBuf,
        /// Its manifest; FILE with `.toml` for `.wasm` when left out
        #[arg(long, value_name = "TOML")]
        manifest: Option<PathBuf>,
    },
    /// List installed plugins
    #[command(after_help = "Example:\n  cloister plugin list")]
    List,
    /// Show a plugin
    #[command(after_help = "Example:\n  cloister plugin show redact")]
    Show {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
    },
    /// Run a plugin on records that are given here; nothing is kept
    #[command(after_help = "\
Examples:
  cloister plugin test redact --record 'Dr. Ruiz called on 3 May 2024'
  cloister plugin test quality --file sample.jsonl

Exits 1 if the plugin failed on a record.")]
    Test(TestArgs),
    /// Remove a plugin
    #[command(after_help = "Example:\n  cloister plugin rm redact --yes")]
    Rm {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Its name
    #[arg(value_parser = values::name)]
    name: String,
    /// One record's text, taken as an answer; `-` is standard input
    #[arg(long, value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
    record: Option<String>,
    /// Records as JSON Lines: {"messages": [{"role": …, "content": …}]}
    #[arg(long, value_name = "JSONL")]
    file: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Install { file, manifest } => install(context, &file, manifest).await,
        Verb::List => list(context).await,
        Verb::Show { name } => show(context, &name).await,
        Verb::Test(args) => test(context, args).await,
        Verb::Rm { name, yes } => remove(context, &name, yes).await,
    }
}

async fn install(context: &Context, file: &Path, manifest: Option<PathBuf>) -> Result<(), CliError> {
    let manifest = read_manifest(&manifest.unwrap_or_else(|| file.with_extension("toml")))?;
    let component = files::read(file)?;
    compare_digest(file, &component, &manifest)?;
    let client = context.client()?;
    let bar = progress::transfer(component.len() as u64);
    let upload = Upload::with_head(&manifest, file, bar.clone())?;
    let reply = client.upload(Method::POST, &admin(&["plugins"]), upload).await;
    bar.finish_and_clear();
    context.print(&reply?, describe);
    Ok(())
}

fn read_manifest(path: &Path) -> Result<PluginManifest, ApiError> {
    let text = files::read_text(path).map_err(|error| match error.code {
        ErrorCode::NotFound => error.remedy("write the manifest beside the component, or name it with --manifest"),
        _ => error,
    })?;
    toml::from_str(&text).map_err(|error| {
        let (line, message) = crate::commands::recipe::one_line(&error.to_string());
        let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
        invalid(format!("`{}`{place}: {message}", path.display()))
            .remedy("a manifest has `name`, `version`, `world` (\"cleaner\" or \"scorer\") and `sha256`")
    })
}

/// Found here rather than after the upload; the daemon compares again.
fn compare_digest(file: &Path, component: &[u8], manifest: &PluginManifest) -> Result<(), ApiError> {
    let found: String = digest(&SHA256, component).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(&manifest.sha256) {
        return Ok(());
    }
    Err(invalid(format!("`{}` is not the component that its manifest names: SHA-256 is {found}", file.display()))
        .remedy("get component and manifest from the same build"))
}

async fn list(context: &Context) -> Result<(), CliError> {
    let reply: Reply<Vec<Plugin>> = context.client()?.get(&admin(&["plugins"])).await?;
    context.print(&reply, |plugins| {
        let rows = plugins.iter().map(|plugin| {
            vec![
                plugin.name.clone(),
                plugin.manifest.version.clone(),
                world(plugin.manifest.world).into(),
                plugin.description.summary.clone(),
                plugin.installed_by.clone(),
            ]
        });
        render::table(&["name", "version", "world", "does", "installed by"], rows)
    });
    Ok(())
}

fn world(world: PluginWorld) -> &'static str {
    match world {
        PluginWorld::Cleaner => "cleaner",
        PluginWorld::Scorer => "scorer",
    }
}

async fn show(context: &Context, name: &str) -> Result<(), CliError> {
    let reply = context.client()?.get(&admin(&["plugins", name])).await?;
    context.print(&reply, describe);
    Ok(())
}

fn describe(plugin: &Plugin) -> String {
    render::facts([
        ("name", plugin.name.clone()),
        ("version", plugin.manifest.version.clone()),
        ("world", world(plugin.manifest.world).into()),
        ("does", plugin.description.summary.clone()),
        ("gives", render::list(&plugin.description.gives)),
        ("SHA-256", plugin.manifest.sha256.clone()),
        ("signature", plugin.signature.clone()),
        ("installed by", plugin.installed_by.clone()),
    ])
}

async fn test(context: &Context, args: TestArgs) -> Result<(), CliError> {
    let records = match (&args.record, &args.file) {
        (_, Some(file)) => read_records(file)?,
        (Some(text), None) => vec![answer(&prompt::text_or_stdin(text)?)],
        (None, None) => Vec::new(),
    };
    let reply: Reply<PluginTest> = context.client()?.post(&admin(&["plugins", &args.name, "test"]), &records).await?;
    context.print(&reply, describe_test);
    let failed = reply.value.outcomes.iter().filter(|o| matches!(o.result, RecordResult::Failed { .. })).count();
    if failed == 0 {
        return Ok(());
    }
    Err(CliError::verdict(
        ErrorCode::Failed,
        format!("plugin `{}` failed on {failed} of {} records", args.name, records.len()),
    ))
}

fn answer(text: &str) -> Record {
    Record { row: 1, messages: vec![Message::new("assistant", text)] }
}

/// Records with or without `row`; one that is left out is the line's number.
fn read_records(path: &Path) -> Result<Vec<Record>, ApiError> {
    let text = files::read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let records: Vec<Record> = lines.map(|(at, line)| read_record(path, at + 1, line)).collect::<Result<_, _>>()?;
    if records.is_empty() {
        return Err(invalid(format!("`{}` holds no record", path.display())).remedy("give at least one line"));
    }
    Ok(records)
}

fn read_record(path: &Path, line_number: usize, line: &str) -> Result<Record, ApiError> {
    // serde_json's message names kinds and columns; a record's text is not in it.
    let bad = |why: String| {
        invalid(format!("`{}`, line {line_number}: {why}", path.display()))
            .remedy("one record a line: {\"messages\": [{\"role\": \"user\", \"content\": \"…\"}, …]}")
    };
    let mut value: Value = serde_json::from_str(line).map_err(|error| bad(format!("not JSON: {error}")))?;
    match value.as_object_mut() {
        Some(object) => object.entry("row").or_insert_with(|| json!(line_number)),
        None => return Err(bad("not an object".into())),
    };
    let messages = value.get("messages").is_some_and(Value::is_array);
    serde_json::from_value(value).map_err(|_| {
        bad(if messages {
            "a record has `row` and `messages`, a message has `role` and `content`, and neither has more".into()
        } else {
            "`messages` is missing or not a list".into()
        })
    })
}

fn describe_test(test: &PluginTest) -> String {
    let rows = test.outcomes.iter().map(|Outcome { row, result }| {
        let (fate, details) = describe_result(result);
        vec![row.to_string(), fate.into(), details]
    });
    let mut text = render::table(&["row", "fate", "details"], rows);
    if !test.records.is_empty() {
        text = format!("{text}\n\n{}", dataset::records_text(&test.records));
    }
    text
}

fn describe_result(result: &RecordResult) -> (&'static str, String) {
    match result {
        RecordResult::Kept { findings } => {
            let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
            for finding in findings {
                *kinds.entry(finding.kind.clone()).or_default() += 1;
            }
            ("kept", if kinds.is_empty() { "nothing found".into() } else { render::tally(&kinds) })
        }
        RecordResult::Dropped { reason } => ("dropped", reason.clone()),
        RecordResult::Scored { scores, fingerprint } => {
            let mut parts: Vec<String> = scores.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
            parts.extend(fingerprint.map(|print| format!("fingerprint {print:016x}")));
            ("scored", parts.join(", "))
        }
        RecordResult::Failed { reason } => ("FAILED", reason.clone()),
    }
}

async fn remove(context: &Context, name: &str, yes: bool) -> Result<(), CliError> {
    let client = context.client()?;
    prompt::confirm_name("plugin", name, yes)?;
    let reply: Reply<Value> = client.delete(&admin(&["plugins", name])).await?;
    context.print(&reply, |_| format!("`{name}` is removed"));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_component_must_be_the_one_of_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("redact.toml");
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        fs::write(&path, format!("name = \"redact\"\nversion = \"1\"\nworld = \"cleaner\"\nsha256 = \"{sha256}\"\n"))
            .unwrap();
        let manifest = read_manifest(&path).unwrap();
        assert!(compare_digest(Path::new("redact.wasm"), b"abc", &manifest).is_ok());
        assert!(
            compare_digest(Path::new("redact.wasm"), b"abd", &manifest).unwrap_err().message.contains("SHA-256 is")
        );
    }

    #[test]
    fn a_manifest_that_does_not_parse_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("redact.toml");
        fs::write(&path, "name = \"redact\"\nauthor = \"x\"\n").unwrap();
        let message = read_manifest(&path).unwrap_err().message;
        assert!(message.contains("line 2") && message.contains("author") && !message.contains('\n'), "{message}");
        assert!(read_manifest(&folder.path().join("none.toml")).unwrap_err().remedy.unwrap().contains("--manifest"));
    }

    #[test]
    fn records_may_leave_out_their_row_and_errors_never_quote_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        fs::write(&path, "\n{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}\n").unwrap();
        assert_eq!(read_records(&path).unwrap(), [Record { row: 2, messages: vec![Message::new("assistant", "x")] }]);
        fs::write(&path, "{\"messages\": \"secret\"}\n").unwrap();
        let message = read_records(&path).unwrap_err().message;
        assert!(message.contains("line 1") && !message.contains("secret"), "{message}");
    }
}
