//! What every task needs: where things lie, and running programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The checkout. Cargo says it at run time, which stays right when worktrees share one target folder.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest.ancestors().nth(2).map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The folder for what is fetched once: `$CLOISTER_CACHE`, else `cloister` in the user's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("CLOISTER_CACHE")
        .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("cloister")))
        .or_else(|| Some(folder("HOME")?.join(".cache/cloister")))
        .context("no folder to cache in: set `CLOISTER_CACHE` (or `HOME`)")
}

/// Cargo's target folder, as cargo itself would choose it for this checkout.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from) {
        // A relative one is relative to where cargo was called, which is where we still are.
        Some(folder) => std::path::absolute(&folder).unwrap_or(folder),
        None => root().join("target"),
    }
}

/// Runs a program to its end; an error names it when it cannot start or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = display(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Whether a program runs and succeeds; its output goes nowhere.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Sees to it that `present` holds: as root by installing Debian packages, otherwise by saying which.
pub(crate) fn require(packages: &[&str], present: impl Fn() -> bool) -> Result<()> {
    if present() {
        return Ok(());
    }
    let names = packages.join(" ");
    if !(is_root() && succeeds(Command::new("apt-get").arg("--version"))) {
        bail!("`{names}` is missing: run `sudo apt-get install {names}`, then this again");
    }
    eprintln!("▸ installing {names} (apt-get)");
    // A fresh container has no package lists at all; old ones name files that are gone.
    run(apt().args(["-qq", "update"]).stdout(Stdio::null()))?;
    run(apt().args(["-qq", "install", "--yes", "--no-install-recommends"]).args(packages).stdout(Stdio::null()))?;
    if !present() {
        bail!("`apt-get install {names}` succeeded and yet it is not found: is another one earlier in $PATH?");
    }
    Ok(())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Whether this process has root's rights.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of a process's /proc entry is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
