//! `cloister key`: the keyring, its rotation and its backup.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Subcommand;
use cloister_wire::admin::{KeyBackup, KeyRestore, KeyStatus, Passphrase};
use serde_json::{Value, json};

use super::Context;
use crate::client::{Reply, admin};
use crate::error::{CliError, invalid};
use crate::prompt::PassphraseSource;
use crate::{files, progress, render};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the keyring's version and its data keys, by id
    #[command(after_help = "Example:\n  cloister key status")]
    Status,
    /// Wrap all data keys under a new key
    #[command(after_help = "Example:\n  cloister key rotate")]
    Rotate,
    /// Write the keyring to a file, sealed to a passphrase of its own
    #[command(after_help = "Example:\n  cloister key backup --out keyring-2026-11.backup")]
    Backup {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// Bring a keyring back from its backup
    #[command(after_help = "Example:\n  cloister key restore keyring-2026-11.backup")]
    Restore {
        /// The backup
        file: PathBuf,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Status => status(context).await,
        Verb::Rotate => rotate(context).await,
        Verb::Backup { out, passphrase } => backup(context, &out, &passphrase).await,
        Verb::Restore { file, passphrase } => restore(context, &file, &passphrase).await,
    }
}

async fn status(context: &Context) -> Result<(), CliError> {
    let reply = context.client()?.get(&admin(&["keys"])).await?;
    context.print(&reply, describe);
    Ok(())
}

async fn rotate(context: &Context) -> Result<(), CliError> {
    let reply = context.client()?.post_empty(&admin(&["keys", "rotate"])).await?;
    context.print(&reply, describe);
    Ok(())
}

fn describe(status: &KeyStatus) -> String {
    let facts = render::facts([
        ("version", status.version.to_string()),
        ("root key from", status.root.clone()),
        ("data keys", status.keys.len().to_string()),
    ]);
    format!("{facts}\n\n{}", render::table(&["data key"], status.keys.iter().map(|key| vec![key.clone()])))
}

async fn backup(context: &Context, out: &Path, source: &PassphraseSource) -> Result<(), CliError> {
    files::refuse_existing(out)?;
    let client = context.client()?;
    let passphrase = source.new_one("A passphrase for the backup: ")?;
    let body = Passphrase { passphrase: passphrase.to_string() };
    let bar = progress::spinner("sealing the keyring".into());
    let reply: Result<Reply<KeyBackup>, _> = client.post(&admin(&["keys", "backup"]), &body).await;
    bar.finish_and_clear();
    files::write_new(out, format!("{}\n", reply?.value.backup).as_bytes())?;
    let human =
        format!("wrote `{}`; keep it and its passphrase in two places: whoever has both has every key", out.display());
    context.print_done(&json!({ "out": out }), &human);
    Ok(())
}

async fn restore(context: &Context, file: &Path, source: &PassphraseSource) -> Result<(), CliError> {
    let backup = files::read_text(file)?.trim().to_string();
    if backup.is_empty() || BASE64.decode(&backup).is_err() {
        return Err(invalid(format!("`{}` is no key backup", file.display()))
            .remedy("name a file that `cloister key backup` wrote")
            .into());
    }
    let client = context.client()?;
    let passphrase = source.existing("Passphrase of the backup: ")?;
    let body = KeyRestore { backup, passphrase: passphrase.to_string() };
    let bar = progress::spinner("opening the backup".into());
    let reply: Result<Reply<Value>, _> = client.post(&admin(&["keys", "restore"]), &body).await;
    bar.finish_and_clear();
    context.print(&reply?, |value| match serde_json::from_value::<KeyStatus>(value.clone()) {
        Ok(status) => describe(&status),
        Err(_) => "the keyring is restored".into(),
    });
    Ok(())
}
