//! `cargo xtask test`: everything that can be checked here, and at its end what could not be, and why.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{build, libtorch, peers, tools};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave out formatting, lints and licences
    #[arg(long)]
    fast: bool,
    /// Only tests whose name holds this
    filter: Option<String>,
}

/// Runs it all; the first failure ends it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    let mut skipped = Vec::new();
    let libtorch = libtorch::ensure()?;
    if options.fast {
        skipped.push("formatting, lints and licences: `--fast`".to_string());
    } else {
        say("formatting");
        tools::run(build::cargo(&libtorch).args(["fmt", "--all", "--check"]))?;
        say("licences, bans and sources");
        skipped.extend(licences(&libtorch)?);
    }
    say("building (about 20 minutes the first time, on two cores: wasmtime and torch-sys are large)");
    build::all()?;
    say("plugins");
    build::plugins()?;
    if !options.fast {
        say("lints");
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        tools::run(build::cargo(&libtorch).args(clippy))?;
    }
    say("tests");
    let mut tests = build::cargo(&libtorch);
    tests.args(["test", "--workspace", "--", "--show-output"]).args(&options.filter);
    match peers::client() {
        Ok(python) => drop(tests.env(peers::PYTHON, python)),
        Err(error) => skipped.push(format!("the official client: {error:#}")),
    }
    let totals = test(&mut tests)?;
    skipped.extend(totals.skipped);
    skipped.push("PEFT, bitsandbytes and transformers side by side: run `cargo xtask peers` (3 GB, once)".into());

    println!("\n{} tests passed in {} runs, {:.0} s", totals.passed, totals.runs, begun.elapsed().as_secs_f64());
    println!("not checked here:");
    skipped.iter().for_each(|what| println!("  - {what}"));
    Ok(())
}

fn say(step: &str) {
    println!("▸ {step}");
}

/// Why it was not checked, if it was not.
fn licences(libtorch: &std::path::Path) -> Result<Option<String>> {
    if !tools::succeeds(Command::new("cargo-deny").arg("--version")) {
        return Ok(Some("licences, bans and sources: `cargo install cargo-deny`, then this again".into()));
    }
    tools::run(build::cargo(libtorch).args(["deny", "--workspace", "check", "licenses", "bans", "sources"]))?;
    Ok(None)
}

/// What cargo's test runs came to.
#[derive(Default)]
struct Totals {
    runs: usize,
    passed: u64,
    skipped: Vec<String>,
}

impl Totals {
    /// Reads libtest's closing line, and the `skipped: WHY` of tests that could not be run here.
    fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ok. ") {
            self.runs += 1;
            self.passed += counts.split(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        } else if let Some(why) = line.trim().strip_prefix("skipped: ") {
            self.skipped.push(why.into());
        }
    }
}

/// Runs the tests, passes on what they print, and adds up.
fn test(command: &mut Command) -> Result<Totals> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start `cargo test`")?;
    let mut totals = Totals::default();
    let output = child.stdout.take().context("`cargo test` has no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        totals.read(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("tests failed ({status}): see above");
    }
    if totals.passed == 0 {
        bail!("no test was run: does the filter match any name?");
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up_and_skipped_tests_are_named() {
        let mut totals = Totals::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            "test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "skipped: no GPU here",
            "test story ... ok",
        ] {
            totals.read(line);
        }
        assert_eq!((totals.runs, totals.passed, totals.skipped.len()), (2, 42, 1));
    }
}
