//! `cloister user`: people and their certificates.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use cloister_wire::admin::{ApiError, Identity, User, UserSpec};
use serde_json::{Value, json};

use super::Context;
use crate::client::{Reply, admin};
use crate::error::CliError;
use crate::identity::{CA, CERTIFICATE, KEY};
use crate::{files, render};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Let a person in: writes the identity folder to hand over to them
    #[command(after_help = "\
Example:
  cloister user add bea --role approver --uid 1001 --out ./bea

The daemon keeps no copy of the key: hand the folder over on a medium that you trust, and keep none yourself.")]
    Add(AddArgs),
    /// List people
    #[command(after_help = "Example:\n  cloister user list")]
    List,
    /// Take a person's certificate back
    #[command(after_help = "Example:\n  cloister user revoke bea")]
    Revoke {
        /// Their name
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Their name, as the certificate and the audit log will say it
    name: String,
    /// What they may do; may be given several times
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<String>,
    /// The only uid from which the certificate is taken; your own when left out
    #[arg(long)]
    uid: Option<u32>,
    /// The identity folder to make; nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) async fn run(context: &Context, verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Add(args) => add(context, args).await,
        Verb::List => list(context).await,
        Verb::Revoke { name } => revoke(context, &name).await,
    }
}

/// The folder is made ready first: the key is given out once, and must not be lost for want of a place.
async fn add(context: &Context, args: AddArgs) -> Result<(), CliError> {
    let client = context.client()?;
    files::prepare_folder(&args.out, &[CERTIFICATE, KEY, CA])?;
    let whose = match args.uid {
        Some(uid) => format!("from uid {uid}"),
        None => "from your own uid only; give `--uid` for somebody with an account of their own".into(),
    };
    let spec = UserSpec { name: args.name, roles: args.roles.into_iter().collect(), uid: args.uid };
    let identity = client.post::<Identity>(&admin(&["users"]), &spec).await?.value;
    write_identity(&args.out, &identity)?;
    let human = format!(
        "`{}` may come in with the identity in `{}`, {whose} (certificate {})",
        identity.name,
        args.out.display(),
        identity.fingerprint
    );
    // Not the daemon's JSON: that holds the private key, and standard output ends in logs.
    let done = json!({ "name": identity.name, "fingerprint": identity.fingerprint, "out": args.out });
    context.print_done(&done, &human);
    Ok(())
}

fn write_identity(out: &Path, identity: &Identity) -> Result<(), ApiError> {
    files::write_new(&out.join(KEY), identity.key.as_bytes())?;
    files::write_new(&out.join(CERTIFICATE), identity.certificate.as_bytes())?;
    files::write_new(&out.join(CA), identity.ca.as_bytes())
}

async fn list(context: &Context) -> Result<(), CliError> {
    let reply: Reply<Vec<User>> = context.client()?.get(&admin(&["users"])).await?;
    context.print(&reply, |users| {
        let rows = users.iter().map(|user| {
            vec![
                user.name.clone(),
                render::list(&user.roles),
                user.uid.map(|uid| uid.to_string()).unwrap_or_else(|| "any".into()),
                if user.revoked { "revoked" } else { "open" }.into(),
                user.fingerprint.clone(),
            ]
        });
        render::table(&["name", "roles", "uid", "door", "certificate"], rows)
    });
    Ok(())
}

async fn revoke(context: &Context, name: &str) -> Result<(), CliError> {
    let reply: Reply<Value> = context.client()?.delete(&admin(&["users", name])).await?;
    context.print(&reply, |_| format!("the certificate of `{name}` no longer opens the door"));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_folder_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity {
            name: "bea".into(),
            certificate: "c".into(),
            key: "k".into(),
            ca: "a".into(),
            fingerprint: "00".into(),
        };
        write_identity(folder.path(), &identity).unwrap();
        let mode = fs::metadata(folder.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, fs::read(folder.path().join(CA)).unwrap()), (0o600, b"a".to_vec()));
    }
}
