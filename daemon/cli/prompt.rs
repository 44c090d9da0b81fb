//! What is asked at the terminal: passphrases without echo, and a name typed again before something is gone.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::Args;
use zeroize::Zeroizing;

use crate::error::{self, CliError, failed, invalid};

/// No passphrase is longer; a file that is was not meant.
const LONGEST: u64 = 64 << 10;

/// Where a passphrase comes from.
#[derive(Debug, Args)]
pub(crate) struct PassphraseSource {
    /// Read the passphrase from the first line of this file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<std::path::PathBuf>,
}

impl PassphraseSource {
    /// Reads or asks for a passphrase that exists.
    pub(crate) fn existing(&self, prompt: &str) -> Result<Zeroizing<String>, CliError> {
        match &self.passphrase_file {
            Some(path) => from_file(path),
            None => ask(prompt),
        }
    }

    /// Reads a new passphrase, or asks for it twice.
    pub(crate) fn new_one(&self, prompt: &str) -> Result<Zeroizing<String>, CliError> {
        let first = self.existing(prompt)?;
        if self.passphrase_file.is_none() && *ask("The same again: ")? != *first {
            return Err(invalid("the two passphrases are not the same").remedy("try again").into());
        }
        Ok(first)
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::usage(
            "there is no terminal to ask for the passphrase",
            "use `--passphrase-file FILE`, or `--passphrase-file -` for standard input",
        ));
    }
    let typed = rpassword::prompt_password(prompt)
        .map_err(|error| failed(format!("the passphrase cannot be read: {error}")))?;
    not_empty(Zeroizing::new(typed))
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, CliError> {
    if path == Path::new("-") {
        return first_line(io::stdin().lock(), path);
    }
    let file = File::open(path).map_err(|error| error::file("read", path, &error))?;
    warn_if_others_can_read(path, &file);
    first_line(BufReader::new(file), path)
}

/// A warning, not a refusal: service managers and pipes have modes of their own.
fn warn_if_others_can_read(path: &Path, file: &File) {
    if file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o077 != 0) {
        eprintln!("cloister: warning: `{0}` can be read by others; run `chmod 600 {0}`", path.display());
    }
}

fn first_line(reader: impl BufRead, path: &Path) -> Result<Zeroizing<String>, CliError> {
    let mut line = Zeroizing::new(String::with_capacity(1024));
    reader.take(LONGEST).read_line(&mut line).map_err(|error| error::file("read", path, &error))?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    not_empty(line)
}

fn not_empty(passphrase: Zeroizing<String>) -> Result<Zeroizing<String>, CliError> {
    if passphrase.is_empty() {
        return Err(invalid("the passphrase is empty").remedy("give one of several words").into());
    }
    Ok(passphrase)
}

/// Has the name typed again on a terminal; elsewhere `--yes` must have been given.
pub(crate) fn confirm_name(what: &str, name: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(CliError::usage(
            format!("{what} `{name}` would be gone for ever, and there is no terminal to ask"),
            "give --yes if you mean it",
        ));
    }
    eprint!("{what} `{name}` will be gone for ever: no backup brings it back. Type its name to go on: ");
    let _ = io::stderr().flush();
    let mut typed = String::new();
    io::stdin().read_line(&mut typed).map_err(|error| failed(format!("the answer cannot be read: {error}")))?;
    if typed.trim() == name {
        return Ok(());
    }
    Err(invalid("that is not its name: nothing was removed").into())
}

/// The text of a file, or of standard input for `-`.
pub(crate) fn text_or_stdin(given: &str) -> Result<String, CliError> {
    if given != "-" {
        return Ok(given.into());
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(|error| failed(format!("standard input cannot be read: {error}")))?;
    Ok(text)
}

/// Whether a path is that of a folder, for messages that say so.
pub(crate) fn is_folder(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_with_its_spaces() {
        let read = |text: &str| first_line(text.as_bytes(), Path::new("-")).map(|line| line.to_string());
        assert_eq!(read(" correct horse \r\nsecond\n").unwrap(), " correct horse ");
        assert_eq!(read("no newline").unwrap(), "no newline");
        assert!(read("\n").is_err() && read("").is_err());
    }

    #[test]
    fn yes_needs_no_terminal() {
        assert!(confirm_name("dataset", "visits", true).is_ok());
    }
}
