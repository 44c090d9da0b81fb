//! Peers to compare with, each in a virtual environment of Python in the cache.
//!
//! `cargo xtask test` makes the small one (the official `openai` client). `cargo xtask peers` makes the large one,
//! with the versions that the figures in the README were measured against, and runs the tests that need it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{build, libtorch, tools};

/// The variable that tells tests which Python to ask; each looks whether it has what that test needs.
pub(crate) const PYTHON: &str = "CLOISTER_PEERS_PYTHON";

const CLIENT: [&str; 2] = ["openai", "httpx"];
const LARGE: [&str; 8] = [
    "torch==2.13.0",
    "transformers==5.23.0",
    "peft==0.21.2",
    "bitsandbytes==0.50.2",
    "accelerate",
    "safetensors",
    "openai",
    "httpx",
];

/// A Python with the official client: the caller's choice, else one in the cache, made when it is not there.
pub(crate) fn client() -> Result<PathBuf> {
    environment("python", &CLIENT, "import openai, httpx")
}

/// The task.
pub(crate) fn run() -> Result<()> {
    let check = "import torch, transformers, peft, bitsandbytes, openai, httpx";
    let python = environment("peers", &LARGE, check)?;
    build::all()?;
    build::plugins()?;
    let mut tests = build::cargo(&libtorch::ensure()?);
    // Not by package: that would choose other features of the dependencies, and build them again.
    tests.args(["test", "--workspace", "--test", "peft_parity", "--test", "openai", "--", "--show-output"]);
    tools::run(tests.env(PYTHON, python))
}

fn environment(name: &str, packages: &[&str], check: &str) -> Result<PathBuf> {
    if let Some(python) = std::env::var_os(PYTHON).map(PathBuf::from) {
        ensure!(has(&python, check), "`{PYTHON}` is `{}`, which fails at `{check}`", python.display());
        return Ok(python);
    }
    let folder = tools::cache()?.join(name);
    let python = folder.join("bin/python");
    if has(&python, check) {
        return Ok(python);
    }
    tools::require(&["python3-venv"], || {
        tools::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"]))
    })?;
    eprintln!("▸ making a Python with {} in `{}`", packages.join(", "), folder.display());
    tools::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    tools::run(pip.stdout(Stdio::null())).context("the Python packages cannot be fetched")?;
    Ok(python)
}

fn has(python: &Path, check: &str) -> bool {
    tools::succeeds(Command::new(python).args(["-c", check]))
}
