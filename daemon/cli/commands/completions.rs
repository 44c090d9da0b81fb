//! `cloister completions`: what the packages install for the shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use crate::error::{CliError, failed};
use crate::render;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cloister", &mut script);
    let script = String::from_utf8(script).map_err(|error| failed(error.to_string()))?;
    render::say(script.trim_end());
    Ok(())
}
