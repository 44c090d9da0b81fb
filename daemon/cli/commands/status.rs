//! `cloister status` and `cloister unseal`.

use clap::Args;
use cloister_wire::admin::{Status, Unseal};

use super::Context;
use crate::client::admin;
use crate::error::CliError;
use crate::prompt::PassphraseSource;
use crate::{progress, render};

#[derive(Debug, Args)]
pub(crate) struct UnsealArgs {
    #[command(flatten)]
    passphrase: PassphraseSource,
}

/// How the daemon is.
pub(crate) async fn status(context: &Context) -> Result<(), CliError> {
    let reply = context.client()?.get(&admin(&["status"])).await?;
    context.print(&reply, describe);
    Ok(())
}

/// Opens the vault. The passphrase is asked for only once the identity has been read.
pub(crate) async fn unseal(context: &Context, args: UnsealArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let passphrase = args.passphrase.existing("Passphrase of the vault: ")?;
    let body = Unseal { passphrase: passphrase.to_string() };
    let bar = progress::spinner("opening the vault".into());
    let reply = client.post(&admin(&["unseal"]), &body).await;
    bar.finish_and_clear();
    context.print(&reply?, describe);
    Ok(())
}

fn describe(status: &Status) -> String {
    let vault = if status.sealed { "sealed; open it with `cloister unseal`" } else { "open" };
    let counts: Vec<String> = status.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let none = |names: &[String]| if names.is_empty() { "none".into() } else { render::list(names) };
    render::facts([
        ("cloisterd", format!("{}, up {}", status.version, render::duration(status.uptime_s as f64))),
        ("vault", vault.into()),
        ("you are", format!("{} ({})", status.principal, render::list(&status.roles))),
        ("holds", counts.join(", ")),
        ("running", none(&status.running)),
        ("served", none(&status.deployed)),
        ("audit log", format!("{} records", status.audit_records)),
        ("policies", status.policy_digest.clone()),
    ])
}
