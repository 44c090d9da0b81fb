//! `cloister`: the appliance from a terminal.
//!
//! A client of the daemon's admin API and nothing more: it holds its user's certificate, opens one Unix socket
//! and never another connection. What it prints on standard output is the result; progress, questions and
//! errors go to standard error; the exit code says what kind of failure it was.

mod client;
mod commands;
mod error;
mod files;
mod follow;
mod identity;
mod progress;
mod prompt;
mod render;
mod values;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime;

use commands::Cli;
use error::{CliError, failed};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    let json = cli.json();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.human());
            if let Some(value) = error.json().filter(|_| json) {
                render::say_json(&value);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(format!("the runtime cannot be started: {error}")))?;
    let outcome = runtime.block_on(commands::run(cli));
    // A thread may still wait for a line of standard input; nothing is lost with it.
    runtime.shutdown_background();
    outcome
}

/// Help and version are answers; anything else is a usage error, under `--json` for scripts too.
fn not_parsed(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.exit_code() == 0 {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        render::say_json(&error::usage_json(message, Some("see `--help`")));
    }
    ExitCode::from(error::USAGE)
}
