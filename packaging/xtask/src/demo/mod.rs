//! `cargo xtask demo`: the whole story on real input, through the real binaries, in a scratch folder.
//!
//! Why: someone who has never seen Cloister sees in three minutes what it does, and what it refuses. Every figure
//! in the report was printed by `cloister`; the demo only adds up, times, and looks for its canary. It fails when
//! the adapter does not beat its base, a denial did not happen, the audit log does not verify, or the canary turns
//! up on a disk.

#[path = "../../../../tests/kit/appliance.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod appliance;
mod records;
mod report;
#[path = "../../../../tests/kit/search.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod search;
mod steps;
mod story;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{build, tools};
use appliance::Appliance;
use story::Scene;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A base model to tune instead of the embedded one: a Hugging Face folder of safetensors
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Dialogues to train on; as many as there are, at most
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(20..))]
    rows: u32,
    /// Held-out dialogues to measure on
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    held_out_rows: u32,
    /// A recipe to train with instead of packaging/demo/recipe.toml
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Changes a key of the recipe, as in `cloister train --set`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Leave the appliance's folder as it is at the end
    #[arg(long)]
    keep: bool,
    /// Print the report as JSON on stdout, and the rest on stderr
    #[arg(long)]
    json: bool,
}

/// Builds what is missing, then runs the story.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binaries = build::all()?;
    let plugins = build::plugins()?;
    let folder = tools::root().join("target/demo");
    let scratch = folder.join("appliance");
    remove(&scratch)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    if tools::is_root() {
        eprintln!("  this is root: the demo's daemon is told `allow_root = true`; an installed one has its own user");
    }

    let appliance = Appliance::create(&binaries, &scratch, "")?;
    let mut scene = Scene::new(appliance, plugins, &folder, options);
    let report = story::tell(&mut scene);
    if report.is_err() {
        eprintln!("\n— the end of the daemon's log, `{}` —", scene.appliance.log().display());
        eprintln!("{}", scene.appliance.log_tail(30));
    }
    // Stops the daemon, whatever happened.
    drop(scene);
    let report = report?;
    if !options.keep {
        remove(&scratch)?;
    }

    let file = folder.join("report.json");
    fs::write(&file, report.to_json()?).with_context(|| format!("cannot write `{}`", file.display()))?;
    eprintln!("\n{}\n  report: {}", report.table(), file.display());
    if options.json {
        print!("{}", report.to_json()?);
    }
    let shortfalls = report.shortfalls();
    if !shortfalls.is_empty() {
        bail!("the demo ran to its end, and fell short: {}", shortfalls.join("; "));
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", folder.display()))
        }
        _ => Ok(()),
    }
}
