//! `cloister adapter`: what training makes of a base model, up to its approval.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use cloister_wire::admin::{Adapter, AdapterFiles, AdapterImport, ApiError, ApproveSpec, EvaluateSpec, Job, Label};
use cloister_wire::engine::TrainSummary;
use serde_json::{Value, json};

use super::Context;
use crate::client::{Client, Reply, admin};
use crate::error::{CliError, failed, invalid};
use crate::{files, progress, prompt, render, values};

/// PEFT's two files.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List adapters
    #[command(after_help = "Example:\n  cloister adapter list")]
    List,
    /// Show an adapter: data, training, evaluation, approvals
    #[command(after_help = "Example:\n  cloister adapter show notes")]
    Show {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
    },
    /// Measure an adapter against its base on held-out records
    #[command(after_help = "\
Examples:
  cloister adapter evaluate notes
  cloister adapter evaluate notes --dataset exam --generate 50")]
    Evaluate(EvaluateArgs),
    /// Approve an adapter for serving; two people must, and not its trainer alone
    #[command(after_help = "Example:\n  cloister adapter approve notes --note 'ROUGE-L and ten answers looked at'")]
    Approve {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        /// In your own words; kept with the approval
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Write an adapter's PEFT files, unsealed, into a folder
    #[command(after_help = "Example:\n  cloister adapter export notes --out ./notes")]
    Export {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        /// The folder; made if need be, nothing in it is overwritten
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Bring in an adapter that PEFT saved
    #[command(after_help = "\
Example:
  cloister adapter import ./notes --name notes --base qwen --label phi --purpose summaries")]
    Import(ImportArgs),
    /// Destroy an adapter's keys: no backup brings it back
    #[command(after_help = "Example:\n  cloister adapter rm notes --yes")]
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
pub(crate) struct EvaluateArgs {
    /// Its name
    #[arg(value_parser = values::name)]
    name: String,
    /// A sealed dataset; the records that training held out when left out
    #[arg(long, value_parser = values::name)]
    dataset: Option<String>,
    /// Generate answers for at most so many records; 0 for losses only
    #[arg(long, value_name = "N", default_value_t = EvaluateSpec::default().generate)]
    generate: u32,
    /// Longest generated answer, in tokens
    #[arg(long, value_name = "N", default_value_t = EvaluateSpec::default().max_tokens)]
    max_tokens: u32,
    /// Do not wait for the job
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The folder: adapter_config.json and adapter_model.safetensors
    folder: PathBuf,
    /// What it is called here
    #[arg(long, value_parser = values::name)]
    name: String,
    /// The base model here that it was trained on
    #[arg(long, value_parser = values::name)]
    base: String,
    /// How confidential its training data was
    #[arg(long, value_parser = values::label())]
    label: Label,
    /// What its training data may be used for; may be given several times
    #[arg(long, required = true, value_parser = values::purpose)]
    purpose: Vec<String>,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::List => list(context).await,
        Verb::Show { name } => show(context, &name).await,
        Verb::Evaluate(args) => evaluate(context, args).await,
        Verb::Approve { name, note } => approve(context, &name, note).await,
        Verb::Export { name, out } => export(context, &name, &out).await,
        Verb::Import(args) => import(context, args).await,
        Verb::Rm { name, yes } => remove(context, &name, yes).await,
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let reply: Reply<Vec<Adapter>> = context.client()?.get(&admin(&["adapters"])).await?;
    context.print(&reply, |adapters| {
        let rows = adapters.iter().map(|adapter| {
            vec![
                adapter.name.clone(),
                adapter.base.clone(),
                adapter.label.as_str().into(),
                render::list(&adapter.datasets),
                adapter.trained_by.clone(),
                adapter.trained_at.clone(),
                if adapter.evaluation.is_some() { "yes" } else { "no" }.into(),
                approvers(adapter),
            ]
        });
        let header = ["name", "base", "label", "datasets", "trained by", "at", "evaluated", "approved by"];
        render::table(&header, rows)
    });
    Ok(())
}

/// Approvals of the files as they are now; one of other files counts for nothing.
fn approvers(adapter: &Adapter) -> String {
    let current = adapter.approvals.iter().filter(|approval| approval.adapter_digest == adapter.digest);
    render::list(current.map(|approval| &approval.principal))
}

async fn show(context: &Context, name: &str) -> Result<(), CliError> {
    let reply = context.client()?.get(&admin(&["adapters", name])).await?;
    context.print(&reply, describe_all);
    Ok(())
}

fn describe_all(adapter: &Adapter) -> String {
    let mut text = describe(adapter);
    if let Some(report) = &adapter.evaluation {
        text = format!("{text}\n\n{}", render::evaluation(report));
    }
    if !adapter.approvals.is_empty() {
        let rows = adapter.approvals.iter().map(|approval| {
            let stale = if approval.adapter_digest == adapter.digest { "" } else { "of other files: does not count" };
            vec![approval.principal.clone(), approval.at.clone(), approval.note.clone(), stale.into()]
        });
        text = format!("{text}\n\n{}", render::table(&["approved by", "at", "note", ""], rows));
    }
    text
}

fn describe(adapter: &Adapter) -> String {
    let facts = render::facts([
        ("name", adapter.name.clone()),
        ("base", adapter.base.clone()),
        ("base digest", adapter.base_digest.clone()),
        ("label", adapter.label.as_str().into()),
        ("purposes", render::list(&adapter.purposes)),
        ("datasets", render::list(&adapter.datasets)),
        ("trained", format!("{} by {}", adapter.trained_at, adapter.trained_by)),
        ("digest", adapter.digest.clone()),
    ]);
    match &adapter.summary {
        Some(summary) => format!("{facts}\n\n{}", describe_training(summary)),
        None => facts,
    }
}

fn describe_training(summary: &TrainSummary) -> String {
    let held_out = match (summary.held_out_before, summary.held_out_after) {
        (Some(before), Some(after)) => format!("{before:.4} before, {after:.4} after"),
        (None, Some(after)) => format!("{after:.4} after"),
        _ => String::new(),
    };
    let dropped = match summary.dropped {
        0 => String::new(),
        n => format!(" ({n} left out for their length)"),
    };
    render::facts([
        ("steps", format!("{} in {}", summary.steps, render::duration(summary.seconds))),
        ("examples", format!("{}{dropped}", summary.examples)),
        ("final loss", format!("{:.4}", summary.final_loss)),
        ("held-out loss", held_out),
        ("speed", format!("{:.0} tokens/s over {} tokens", summary.tokens_per_s, render::magnitude(summary.tokens))),
        ("trained", format!("{} numbers", render::magnitude(summary.trainable))),
        ("peak memory", render::bytes(summary.peak_rss_bytes)),
    ])
}

/// What a finished training job leaves behind, for people; scripts have had the job.
pub(crate) async fn show_result(context: &Context, client: &Client, name: &str) -> Result<(), CliError> {
    if !context.json {
        let reply: Reply<Adapter> = client.get(&admin(&["adapters", name])).await?;
        render::say(&format!("{}\n\nnext: `cloister adapter evaluate {name}`", describe(&reply.value)));
    }
    Ok(())
}

/// What a finished evaluation leaves behind, for people; scripts have had the job.
pub(crate) async fn show_evaluation(context: &Context, client: &Client, name: &str) -> Result<(), CliError> {
    if !context.json {
        let reply: Reply<Adapter> = client.get(&admin(&["adapters", name])).await?;
        let report = reply.value.evaluation.as_ref();
        render::say(&report.map_or_else(|| format!("`{name}` has no evaluation yet"), render::evaluation));
    }
    Ok(())
}

async fn evaluate(context: &Context, args: EvaluateArgs) -> Result<(), CliError> {
    let spec = EvaluateSpec { dataset: args.dataset, generate: args.generate, max_tokens: args.max_tokens };
    let client = context.client()?;
    let job: Reply<Job> = client.post(&admin(&["adapters", &args.name, "evaluate"]), &spec).await?;
    if args.detach {
        context.print_detached(&job);
        return Ok(());
    }
    context.follow(&client, &job.value.id).await?;
    show_evaluation(context, &client, &args.name).await
}

async fn approve(context: &Context, name: &str, note: String) -> Result<(), CliError> {
    let reply: Reply<Adapter> =
        context.client()?.post(&admin(&["adapters", name, "approve"]), &ApproveSpec { note }).await?;
    context.print(&reply, |adapter| format!("`{name}` is approved by {}", approvers(adapter)));
    Ok(())
}

async fn export(context: &Context, name: &str, out: &Path) -> Result<(), CliError> {
    let client = context.client()?;
    files::prepare_folder(out, &[CONFIG, WEIGHTS])?;
    let bar = progress::spinner(format!("fetching `{name}`"));
    let reply: Result<Reply<AdapterFiles>, _> = client.get(&admin(&["adapters", name, "export"])).await;
    bar.finish_and_clear();
    let written = write_files(out, &reply?.value)?;
    let human = format!(
        "wrote {} into `{}`; outside the vault nothing protects them but their mode (0600)",
        render::list(&written),
        out.display()
    );
    context.print_done(&json!({ "adapter": name, "out": out, "files": written }), &human);
    Ok(())
}

/// Decodes everything before the first byte is written.
fn write_files(out: &Path, reply: &AdapterFiles) -> Result<Vec<String>, ApiError> {
    let decoded = reply.files.iter().map(|(name, text)| {
        let bytes = BASE64.decode(text).map_err(|error| failed(format!("`{name}` is no base64: {error}")))?;
        Ok((files::plain_name(name)?, bytes))
    });
    let decoded: Vec<(&str, Vec<u8>)> = decoded.collect::<Result<_, ApiError>>()?;
    for (name, bytes) in &decoded {
        files::write_new(&out.join(name), bytes)?;
    }
    Ok(decoded.into_iter().map(|(name, _)| name.into()).collect())
}

async fn import(context: &Context, args: ImportArgs) -> Result<(), CliError> {
    let files = read_files(&args.folder)?;
    let body =
        AdapterImport { base: args.base, label: args.label, purposes: args.purpose.into_iter().collect(), files };
    let client = context.client()?;
    let bar = progress::spinner(format!("sending `{}`", args.name));
    let reply = client.post(&admin(&["adapters", &args.name, "import"]), &body).await;
    bar.finish_and_clear();
    context.print(&reply?, describe);
    Ok(())
}

fn read_files(folder: &Path) -> Result<AdapterFiles, ApiError> {
    let place = folder.display();
    let pickle = folder.join("adapter_model.bin").exists() && !folder.join(WEIGHTS).exists();
    if pickle {
        return Err(invalid(format!("`{place}` holds its weights as a pickle, which can run code when it is read"))
            .remedy("save it again where that is safe: `model.save_pretrained(OUT, safe_serialization=True)`"));
    }
    let mut found = BTreeMap::new();
    for name in [CONFIG, WEIGHTS] {
        let bytes = files::read(&folder.join(name))
            .map_err(|error| error.remedy(format!("name the folder that PEFT saved: {CONFIG} and {WEIGHTS}")))?;
        found.insert(name.into(), BASE64.encode(bytes));
    }
    Ok(AdapterFiles { files: found })
}

async fn remove(context: &Context, name: &str, yes: bool) -> Result<(), CliError> {
    let client = context.client()?;
    prompt::confirm_name("adapter", name, yes)?;
    let reply: Reply<Value> = client.delete(&admin(&["adapters", name])).await?;
    context.print(&reply, |_| format!("`{name}` is gone: its keys are destroyed"));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn exported_files_come_back_as_they_were_and_overwrite_nothing() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join(CONFIG), "{}").unwrap();
        fs::write(from.path().join(WEIGHTS), [0, 159, 146, 150]).unwrap();
        let files = read_files(from.path()).unwrap();
        assert_eq!(write_files(to.path(), &files).unwrap(), [CONFIG, WEIGHTS]);
        assert_eq!(fs::read(to.path().join(WEIGHTS)).unwrap(), [0, 159, 146, 150]);
        assert!(write_files(to.path(), &files).is_err());
    }

    #[test]
    fn a_bad_file_in_the_answer_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../evil", "z"] {
            let text = if name == "z" { "not base64!" } else { "AAAA" };
            let pair = [(CONFIG.to_string(), "e30=".to_string()), (name.to_string(), text.to_string())];
            assert!(write_files(folder.path(), &AdapterFiles { files: pair.into_iter().collect() }).is_err());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_pickled_adapter_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("adapter_model.bin"), "").unwrap();
        assert!(read_files(folder.path()).unwrap_err().remedy.unwrap().contains("safe_serialization"));
    }
}
