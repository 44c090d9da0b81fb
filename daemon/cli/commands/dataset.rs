//! `cloister dataset`: records, from import to the shredding of their keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cloister_wire::admin::{
    Check, CheckSpec, CleanSpec, Cleaning, Dataset, DatasetState, ErrorCode, Format, ImportSpec, Job, Label, Shredded,
};
use cloister_wire::record::Record;
use hyper::Method;

use super::{Context, policy};
use crate::client::{Client, Reply, Upload, admin};
use crate::error::{self, CliError};
use crate::{progress, prompt, render, values};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Upload a file of records
    #[command(after_help = "\
Examples:
  cloister dataset import visits.csv --name visits --label phi --purpose summaries \\
      --prompt 'Summarise this dialogue:\\n\\n{dialogue}' --answer section_text
  cloister dataset import chats.jsonl --name chats --label internal --purpose support

Without --prompt and --answer the usual names are looked for: messages, or
prompt (instruction + input) and completion (output, response, answer).")]
    Import(ImportArgs),
    /// List datasets
    #[command(after_help = "Example:\n  cloister dataset list")]
    List,
    /// Clean, verify and seal a dataset with the installed plugins
    #[command(after_help = "\
Examples:
  cloister dataset clean visits
  cloister dataset clean visits --plugin redact --plugin quality --min language=0.5")]
    Clean(CleanArgs),
    /// Ask policy whether a dataset may be trained on; exits 3 if not
    #[command(after_help = "Example:\n  cloister dataset check visits --purpose summaries")]
    Check {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        /// For this purpose; may be left out where the dataset has only one
        #[arg(long, value_parser = values::purpose)]
        purpose: Option<String>,
    },
    /// Show a dataset and what cleaning did
    #[command(after_help = "Example:\n  cloister dataset show visits")]
    Show {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
    },
    /// Show some records (this is recorded in the audit log)
    #[command(after_help = "Example:\n  cloister dataset sample visits -n 3")]
    Sample {
        /// Its name
        #[arg(value_parser = values::name)]
        name: String,
        /// How many records
        #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 3)]
        count: u32,
    },
    /// Destroy a dataset's keys: no backup brings it back
    #[command(after_help = "Example:\n  cloister dataset rm visits --yes")]
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
pub(crate) struct ImportArgs {
    /// The file: CSV with a header, JSON Lines, or text
    file: PathBuf,
    /// What it is called here
    #[arg(long, value_parser = values::name)]
    name: String,
    /// How to read the file; by its extension when left out
    #[arg(long, value_parser = values::format())]
    format: Option<Format>,
    /// How confidential the records are
    #[arg(long, value_parser = values::label())]
    label: Label,
    /// What the records may be used for; may be given several times
    #[arg(long, required = true, value_parser = values::purpose)]
    purpose: Vec<String>,
    /// The user's message, with {column} where a column's text goes; \n is a new line
    #[arg(long, value_name = "TEMPLATE")]
    prompt: Option<String>,
    /// The column that holds the answer to learn
    #[arg(long, value_name = "COLUMN")]
    answer: Option<String>,
    /// A system message for every record; \n is a new line
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Leave out rows that cannot be used and report them, instead of refusing the file
    #[arg(long)]
    skip_bad_rows: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// Its name
    #[arg(value_parser = values::name)]
    name: String,
    /// A plugin to run, in this order; all that are installed when left out
    #[arg(long = "plugin", value_name = "NAME", value_parser = values::name)]
    plugins: Vec<String>,
    /// Drop records whose score is less; may be given several times
    #[arg(long = "min", value_name = "SCORE=VALUE", value_parser = values::minimum)]
    minimum: Vec<(String, f64)>,
    /// Keep records that say the same as another
    #[arg(long)]
    keep_duplicates: bool,
    /// Fail if a greater part of the records would be dropped, between 0 and 1
    #[arg(long, value_name = "PART", value_parser = values::part)]
    most_dropped: Option<f64>,
    /// Do not wait for the job
    #[arg(long)]
    detach: bool,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Import(args) => import(context, args).await,
        Verb::List => list(context).await,
        Verb::Clean(args) => clean(context, args).await,
        Verb::Check { name, purpose } => check(context, &name, purpose).await,
        Verb::Show { name } => show(context, &name).await,
        Verb::Sample { name, count } => sample(context, &name, count).await,
        Verb::Rm { name, yes } => remove(context, &name, yes).await,
    }
}

async fn import(context: &Context, args: ImportArgs) -> Result<(), CliError> {
    let format = match args.format {
        Some(format) => format,
        None => format_of(&args.file)?,
    };
    let spec = ImportSpec {
        format,
        label: args.label,
        purposes: args.purpose.into_iter().collect(),
        prompt: args.prompt.map(|text| unescape(&text)),
        answer: args.answer,
        system: args.system.map(|text| unescape(&text)),
        skip_bad_rows: args.skip_bad_rows,
    };
    let metadata = std::fs::metadata(&args.file).map_err(|error| error::file("read", &args.file, &error))?;
    let client = context.client()?;
    let bar = progress::transfer(metadata.len());
    bar.set_message(args.name.clone());
    let upload = Upload::with_head(&spec, &args.file, bar.clone())?;
    let reply: Result<Reply<Dataset>, _> = client.upload(Method::POST, &admin(&["datasets", &args.name]), upload).await;
    bar.finish_and_clear();
    context.print(&reply?, |dataset| {
        format!(
            "{}\n\nnext: `cloister dataset clean {}` cleans and seals it; sealing destroys the key of the raw records",
            describe(dataset),
            dataset.name
        )
    });
    Ok(())
}

fn format_of(file: &Path) -> Result<Format, CliError> {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "csv" => Ok(Format::Csv),
        "jsonl" | "ndjson" => Ok(Format::Jsonl),
        "txt" | "text" | "md" => Ok(Format::Text),
        _ => Err(CliError::usage(
            format!("the name `{}` does not say how to read it", file.display()),
            "give --format csv, --format jsonl (one object a line) or --format text",
        )),
    }
}

/// `\n`, `\t` and `\\` as in other tools; a shell's single quotes keep them from being typed.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match characters.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('\\') | None => plain.push('\\'),
            Some(other) => plain.extend(['\\', other]),
        }
    }
    plain
}

async fn list(context: &Context) -> Result<(), CliError> {
    let reply: Reply<Vec<Dataset>> = context.client()?.get(&admin(&["datasets"])).await?;
    context.print(&reply, |datasets| {
        let rows = datasets.iter().map(|dataset| {
            vec![
                dataset.name.clone(),
                state(dataset.state).into(),
                dataset.label.as_str().into(),
                render::list(&dataset.purposes),
                dataset.records_in.to_string(),
                dataset.records.to_string(),
                dataset.owner.clone(),
                dataset.imported_at.clone(),
            ]
        });
        render::table(&["name", "state", "label", "purposes", "rows", "records", "owner", "imported"], rows)
    });
    Ok(())
}

fn state(state: DatasetState) -> &'static str {
    match state {
        DatasetState::Raw => "raw",
        DatasetState::Sealed => "sealed",
        DatasetState::Shredded => "shredded",
    }
}

async fn clean(context: &Context, args: CleanArgs) -> Result<(), CliError> {
    let spec = CleanSpec {
        plugins: args.plugins,
        minimum: args.minimum.into_iter().collect::<BTreeMap<_, _>>(),
        keep_duplicates: args.keep_duplicates,
        most_dropped: args.most_dropped,
    };
    let client = context.client()?;
    let job: Reply<Job> = client.post(&admin(&["datasets", &args.name, "clean"]), &spec).await?;
    if args.detach {
        context.print_detached(&job);
        return Ok(());
    }
    context.follow(&client, &job.value.id).await?;
    show_result(context, &client, &args.name).await
}

/// What a finished cleaning job leaves behind, for people; scripts have had the job.
pub(crate) async fn show_result(context: &Context, client: &Client, name: &str) -> Result<(), CliError> {
    if !context.json {
        let reply: Reply<Dataset> = client.get(&admin(&["datasets", name])).await?;
        render::say(&describe(&reply.value));
    }
    Ok(())
}

async fn check(context: &Context, name: &str, purpose: Option<String>) -> Result<(), CliError> {
    let reply: Reply<Check> =
        context.client()?.post(&admin(&["datasets", name, "check"]), &CheckSpec { purpose }).await?;
    context.print(&reply, |check| policy::describe(&check.explanation));
    if reply.value.cleared {
        return Ok(());
    }
    Err(CliError::verdict(ErrorCode::Denied, format!("dataset `{name}` is not cleared for training")))
}

async fn show(context: &Context, name: &str) -> Result<(), CliError> {
    let reply = context.client()?.get(&admin(&["datasets", name])).await?;
    context.print(&reply, describe);
    Ok(())
}

fn describe(dataset: &Dataset) -> String {
    let skipped = dataset.skipped.len();
    let mut text = render::facts([
        ("name", dataset.name.clone()),
        ("state", state(dataset.state).into()),
        ("label", dataset.label.as_str().into()),
        ("purposes", render::list(&dataset.purposes)),
        ("rows taken", dataset.records_in.to_string()),
        ("rows skipped", if skipped == 0 { String::new() } else { skipped.to_string() }),
        ("digest", dataset.digest.clone().unwrap_or_default()),
        ("imported", format!("{} by {}", dataset.imported_at, dataset.owner)),
    ]);
    if let Some(cleaning) = &dataset.cleaning {
        text = format!("{text}\n\n{}", describe_cleaning(dataset.records, cleaning));
    }
    if skipped > 0 {
        let rows = dataset.skipped.iter().map(|row| vec![row.row.to_string(), row.reason.clone()]);
        text = format!("{text}\n\n{}", render::table(&["row", "skipped because"], rows));
    }
    text
}

fn describe_cleaning(records: u64, cleaning: &Cleaning) -> String {
    let scores: Vec<String> = cleaning.scores.iter().map(|(name, mean)| format!("{name} {mean:.3}")).collect();
    let dropped: u64 = cleaning.dropped.values().sum();
    render::facts([
        ("cleaned by", render::list(&cleaning.plugins)),
        ("records kept", records.to_string()),
        (
            "dropped",
            if dropped == 0 { "0".into() } else { format!("{dropped} ({})", render::tally(&cleaning.dropped)) },
        ),
        (
            "findings",
            match cleaning.total_findings() {
                0 => "0".into(),
                total => format!("{total} ({})", render::tally(&cleaning.findings)),
            },
        ),
        ("found again", format!("{} in a second run over the cleaned records", cleaning.residual_findings)),
        ("mean scores", scores.join(", ")),
    ])
}

async fn sample(context: &Context, name: &str, count: u32) -> Result<(), CliError> {
    let path = format!("{}?n={count}", admin(&["datasets", name, "sample"]));
    let reply: Reply<Vec<Record>> = context.client()?.get(&path).await?;
    context.print(&reply, |records| records_text(records));
    Ok(())
}

/// Records as they are learnt: one heading a message.
pub(crate) fn records_text(records: &[Record]) -> String {
    let mut blocks = Vec::new();
    for record in records {
        blocks.push(format!("── row {} ──", record.row));
        blocks.extend(record.messages.iter().map(|message| format!("{}: {}", message.role, message.content)));
    }
    if blocks.is_empty() { "(none)".into() } else { render::printable(&blocks.join("\n")) }
}

async fn remove(context: &Context, name: &str, yes: bool) -> Result<(), CliError> {
    let client = context.client()?;
    prompt::confirm_name("dataset", name, yes)?;
    let reply: Reply<Shredded> = client.delete(&admin(&["datasets", name])).await?;
    context.print(&reply, |shredded| {
        format!(
            "`{}` is shredded: {} keys destroyed, {} objects removed",
            shredded.dataset,
            shredded.keys.len(),
            shredded.objects.len()
        )
    });
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_guessed_from_the_name_or_asked_for() {
        assert_eq!(format_of(Path::new("a/Visits.CSV")).unwrap(), Format::Csv);
        assert_eq!(format_of(Path::new("chats.jsonl")).unwrap(), Format::Jsonl);
        assert_eq!(format_of(Path::new("notes.txt")).unwrap(), Format::Text);
        let error = format_of(Path::new("data.json")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.human().contains("--format jsonl"));
    }

    #[test]
    fn a_template_may_hold_escaped_new_lines() {
        assert_eq!(unescape(r"Summarise:\n\n{dialogue}\\n"), "Summarise:\n\n{dialogue}\\n");
        assert_eq!(unescape(r"C:\dir\"), r"C:\dir\");
    }

    #[test]
    fn records_are_shown_by_role_and_cannot_command_the_terminal() {
        let record: Record =
            serde_json::from_str(r#"{"row": 7, "messages": [{"role": "user", "content": "\u001b[2Jhi"}]}"#).unwrap();
        assert_eq!(records_text(&[record]), "── row 7 ──\nuser: \u{fffd}[2Jhi");
    }
}
