//! The command line itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_design_parses() {
    for line in [
        "cloister status --json",
        "cloister doctor",
        "cloister unseal --passphrase-file -",
        "cloister watch train-0001",
        "cloister model import dir --name qwen",
        "cloister model verify qwen",
        "cloister model rm qwen --yes",
        "cloister dataset import v.csv --name v --format csv --label phi --purpose a --purpose b --skip-bad-rows",
        "cloister dataset clean v --plugin redact --min language=0.5 --keep-duplicates --detach",
        "cloister dataset check v --purpose a",
        "cloister dataset sample v -n 2",
        "cloister plugin install r.wasm",
        "cloister plugin test r --record text",
        "cloister plugin test r --file f.jsonl",
        "cloister train r.toml --set lora.rank=8 seed=1 --set device=cpu --detach",
        "cloister job resume train-0001",
        "cloister adapter evaluate a --dataset exam --generate 5 --max-tokens 64",
        "cloister adapter approve a --note fine",
        "cloister adapter export a --out d",
        "cloister adapter import d --name a --base qwen --label internal --purpose x",
        "cloister serve a",
        "cloister undeploy a",
        "cloister deployments",
        "cloister chat a -m hi --temperature 0 --top-p 0.9 --seed 7 --max-tokens 10",
        "cloister policy explain Train v --principal bea --purpose a",
        "cloister policy show rule",
        "cloister policy test",
        "cloister audit tail -n 5",
        "cloister audit verify",
        "cloister audit export --out f",
        "cloister key backup --out f",
        "cloister key restore f --passphrase-file p",
        "cloister user add bea --role approver --uid 1001 --out d",
        "cloister user revoke bea",
        "cloister completions bash",
        "cloister --socket /tmp/s --identity /tmp/i job list",
        "cloister job list --socket /tmp/s --identity /tmp/i --json",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    for line in [
        "cloister",
        "cloister dataset import v.csv --name ../v --label phi --purpose a",
        "cloister dataset import v.csv --name v --label secret --purpose a",
        "cloister dataset import v.csv --name v --label phi",
        "cloister dataset clean v --min language",
        "cloister dataset clean v --most-dropped 2",
        "cloister plugin test r",
        "cloister plugin test r --record a --file b",
        "cloister user add bea --out d",
        "cloister adapter export a",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}

/// Every command that does something shows an example in its help.
#[test]
fn every_command_has_an_example() {
    fn check(command: &clap::Command) {
        let mut below = command.get_subcommands().peekable();
        if below.peek().is_none() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("cloister "), "`{}` has no example", command.get_name());
        }
        below.for_each(check);
    }
    check(&Cli::command());
}
