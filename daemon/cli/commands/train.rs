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

Ctrl-C detaches; the job goes on.
Exits 0 when it is done, 1 when it failed or was cancelled.
`--help` shows every key of a recipe.";

/// Every key with its default; a test compares it with the recipe itself.
const REFERENCE: &str = "\
# What must be there
name = \"notes\"             # the adapter that comes out
base = \"qwen\"              # a base model
dataset = \"visits\"         # a sealed dataset

# What may be there, with its default
# purpose = \"summaries\"    # the dataset's only one
held_out = 0.05             # a part of the dataset, or another dataset's name
seed = 0
device = \"auto\"            # cpu, cuda:0
[lora]
rank = 16
alpha = 32.0
dropout = 0.0
targets = [\"all-linear\"]   # or names such as q_proj
[quantization]
base = \"nf4\"               # or none
double = true
[training]
epochs = 1.0
# max_steps = 100           # no limit
batch_size = 8
# micro_batch_size = 2      # chosen from memory
learning_rate = 2e-4
schedule = \"cosine\"        # linear, constant
warmup_ratio = 0.03
weight_decay = 0.0
beta1 = 0.9
beta2 = 0.999
epsilon = 1e-8
max_grad_norm = 1.0
# max_length = 2048         # the model's context
over_long = \"refuse\"       # drop, truncate
evaluate_every = 50
checkpoint_every = 50
# recompute = true          # chosen from memory";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\nA recipe:\n\n{REFERENCE}"))]
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use cloister_wire::recipe::Recipe;

    use super::*;

    #[test]
    fn the_help_shows_every_key_with_its_default() {
        let least = Recipe::parse("name = \"notes\"\nbase = \"qwen\"\ndataset = \"visits\"\n").unwrap();
        assert_eq!(Recipe::parse(REFERENCE).unwrap(), least);
        // The keys that have no default are shown too, and are keys.
        let all = REFERENCE.replace("# purpose", "purpose");
        let all = ["max_steps", "micro_batch_size", "max_length", "recompute"]
            .iter()
            .fold(all, |text, key| text.replace(&format!("# {key}"), key));
        let full = serde_json::to_value(Recipe::parse(&all).unwrap()).unwrap();
        let mut missing = Vec::new();
        for (key, value) in full.as_object().unwrap() {
            let inner = value.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
            missing.extend(inner.chain([(key.clone(), value.clone())]).filter(|(_, value)| value.is_null()));
        }
        assert_eq!(missing, []);
    }
}
