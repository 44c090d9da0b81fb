//! `cloister doctor`: what is wrong on this side, then what the daemon finds on its own.
//!
//! Nothing ends the examination early: a missing certificate and a missing socket are both named in one run.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use cloister_wire::admin::{ApiError, ErrorCode, Finding, Level, Status};

use super::Context;
use crate::client::{Client, admin};
use crate::error::{CliError, failed};
use crate::{identity, render};

/// Checks everything and prints a table; an error found is exit code 1.
pub(crate) async fn doctor(context: &Context) -> Result<(), CliError> {
    let findings = examine(context).await;
    print(context, &findings)?;
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    match errors {
        0 => Ok(()),
        1 => Err(CliError::verdict(ErrorCode::Failed, "1 error was found")),
        n => Err(CliError::verdict(ErrorCode::Failed, format!("{n} errors were found"))),
    }
}

async fn examine(context: &Context) -> Vec<Finding> {
    let mut findings = identity::inspect(&context.identity);
    findings.push(user());
    findings.push(socket(&context.socket));
    match Client::new(&context.socket, &context.identity) {
        Ok(client) => findings.extend(daemon(&client).await),
        Err(_) => findings.push(skipped("the identity must be put right first")),
    }
    findings
}

fn user() -> Finding {
    let uid = rustix::process::geteuid().as_raw();
    match uid {
        0 => Finding {
            check: "user".into(),
            level: Level::Warning,
            message: "you are root".into(),
            remedy: Some("use an account of your own: the daemon binds certificates to uids".into()),
        },
        _ => ok("user", format!("uid {uid}")),
    }
}

fn socket(path: &Path) -> Finding {
    let outcome = match fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            Ok(format!("{}, group {}, mode {:04o}", path.display(), metadata.gid(), metadata.mode() & 0o7777))
        }
        Ok(_) => Err(failed(format!("`{}` is not a socket", path.display())).remedy("name cloisterd's with --socket")),
        Err(error) => Err(no_socket(path, &error)),
    };
    from_result("socket", outcome)
}

fn no_socket(path: &Path, error: &io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::NotFound => failed(format!("there is no socket `{}`", path.display()))
            .remedy("`systemctl start cloisterd`, or name the right socket with --socket or $CLOISTER_SOCKET"),
        io::ErrorKind::PermissionDenied => failed(format!("you may not look at `{}`", path.display()))
            .remedy("join the socket's group (`sudo usermod -aG cloister $USER`, then log in again)"),
        _ => failed(format!("`{}` cannot be looked at: {error}", path.display())),
    }
}

async fn daemon(client: &Client) -> Vec<Finding> {
    if let Err(error) = client.handshake().await {
        return vec![from_result("connection", Err(error))];
    }
    let status = client.get::<Status>(&admin(&["status"])).await;
    let mut findings = vec![from_result(
        "connection",
        status.map(|reply| format!("cloisterd {} knows you as {}", reply.value.version, reply.value.principal)),
    )];
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        match client.get::<Vec<Finding>>(&admin(&["doctor"])).await {
            Ok(reply) => findings.extend(reply.value),
            Err(error) => findings.push(from_result("daemon", Err(error))),
        }
    }
    findings
}

fn skipped(why: &str) -> Finding {
    Finding { check: "connection".into(), level: Level::Warning, message: format!("not tried: {why}"), remedy: None }
}

fn ok(check: &str, message: String) -> Finding {
    Finding { check: check.into(), level: Level::Ok, message, remedy: None }
}

fn from_result(check: &str, outcome: Result<String, ApiError>) -> Finding {
    match outcome {
        Ok(message) => ok(check, message),
        Err(error) => {
            Finding { check: check.into(), level: Level::Error, message: error.message, remedy: error.remedy }
        }
    }
}

fn print(context: &Context, findings: &[Finding]) -> Result<(), CliError> {
    if context.json {
        let value = serde_json::to_value(findings).map_err(|error| failed(error.to_string()))?;
        render::say_json(&value);
        return Ok(());
    }
    let word = |level| match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Error => "ERROR",
    };
    let rows = findings.iter().map(|finding| {
        let remedy = finding.remedy.clone().unwrap_or_default();
        vec![word(finding.level).into(), finding.check.clone(), finding.message.clone(), remedy]
    });
    render::say(&render::table(&["", "check", "found", "next"], rows));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_socket_and_a_file_in_its_place_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloister.sock");
        assert_eq!(socket(&path).level, Level::Error);
        fs::write(&path, "").unwrap();
        assert!(socket(&path).message.contains("not a socket"));
        fs::remove_file(&path).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(socket(&path).level, Level::Ok);
    }

    #[tokio::test]
    async fn everything_wrong_is_named_in_one_run() {
        let nowhere = Path::new("/nonexistent");
        let context = Context { socket: nowhere.join("s"), identity: nowhere.into(), json: true };
        let findings = examine(&context).await;
        let errors: Vec<&str> =
            findings.iter().filter(|found| found.level == Level::Error).map(|found| found.check.as_str()).collect();
        assert_eq!(errors, ["identity: certificate", "identity: key", "identity: CA", "socket"]);
    }
}
