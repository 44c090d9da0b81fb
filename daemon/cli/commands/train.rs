//! `cloister train`: asks for a training job and follows it.

use std::path::PathBuf;

use clap::Args;
use cloister_wire::admin::{Job, TrainRequest, Work};

use super::{Context, adapter, recipe};
use crate::client::{Reply, admin};
use crate::error::CliError;
use crate::files;

/// Examples of `cloister train --help`.
const EXAMPLES: &str = "\
Examples:
  cloister train notes.toml
  cloister train notes.toml --set training.epochs=2 lora.rank=8 device=cpu

A recipe needs three names, the rest has defaults:
  name = \"notes\"        # the adapter that comes out
  base = \"qwen\"         # a base model
  dataset = \"visits\"    # a sealed dataset

Ctrl-C detaches; the job goes on. Exits 0 when it is done, 1 when it failed or was cancelled.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TrainArgs {
    /// The recipe
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// Change a key of the recipe; values are TOML, or words as they stand
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    set: Vec<String>,
    /// Do not wait for the job
    #[arg(long)]
    detach: bool,
}

/// Parses the recipe here first: what cannot work is never sent.
pub(crate) async fn train(context: &Context, args: TrainArgs) -> Result<(), CliError> {
    let text = files::read_text(&args.recipe)?;
    let recipe = recipe::prepare(&args.recipe, &text, &args.set)?;
    let client = context.client()?;
    let job: Reply<Job> = client.post(&admin(&["train"]), &TrainRequest { recipe }).await?;
    if args.detach {
        context.print_detached(&job);
        return Ok(());
    }
    context.follow(&client, &job.value.id).await?;
    match &job.value.work {
        Work::Train { recipe } => adapter::show_result(context, &client, &recipe.name).await,
        Work::Clean { .. } | Work::Evaluate { .. } => Ok(()),
    }
}
