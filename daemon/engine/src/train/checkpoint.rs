//! A training run at a step boundary, as one safetensors blob that describes itself.
//!
//! It holds the adapter, the optimiser's moments and the number of steps done. The position in the data and
//! that of the generator are functions of that number and the seed, so there is nothing else to keep.
//! INVARIANT: only the very run goes on: another recipe, base or dataset is refused, and so is any changed
//! byte.

use std::collections::BTreeMap;

use ring::digest;
use serde::{Deserialize, Serialize};
use tch::{TchError, Tensor};

use super::optimizer::AdamW;
use super::plan::Plan;
use crate::adapt::{Adapter, blob};

const VERSION: u32 = 1;
const HEAD: &str = "cloister.checkpoint";
const EXP_AVG: &str = "optimizer.exp_avg.";
const EXP_AVG_SQ: &str = "optimizer.exp_avg_sq.";

/// What a run is bound to; hexadecimal SHA-256 each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Of the whole recipe.
    pub recipe: String,
    /// Of the base's weights.
    pub base: String,
    /// Of the training examples' tokens.
    pub data: String,
}

/// What has been counted so far; none of it bears on what is learnt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// Held-out loss before the first step.
    pub held_out_before: Option<f64>,
    /// Tokens processed.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
}

/// A checkpoint that has been read and checked.
#[derive(Debug)]
pub struct Checkpoint {
    head: Head,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    step: u64,
    binding: Binding,
    plan: Plan,
    tally: Tally,
    /// SHA-256 over the tensors' names and bytes.
    tensors: String,
}

/// Why a checkpoint cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Damaged, or no checkpoint.
    #[error("the checkpoint is damaged ({0}); start the job anew")]
    Damaged(String),
    /// Of another engine.
    #[error("the checkpoint has format {found}, this engine reads {VERSION}; start the job anew")]
    Version {
        /// As written.
        found: u32,
    },
    /// Of another run.
    #[error("the checkpoint is of another {what}; resume the job as it was, or start a new one")]
    Foreign {
        /// `recipe`, `base model` or `dataset`.
        what: &'static str,
    },
}

/// Writes the state after `optimizer.updates` steps.
pub fn write(
    adapter: &Adapter,
    optimizer: &AdamW,
    binding: &Binding,
    plan: Plan,
    tally: Tally,
) -> Result<Vec<u8>, TchError> {
    let mut tensors: BTreeMap<String, &Tensor> = adapter.tensors().collect();
    for (name, moments) in &optimizer.moments {
        tensors.insert(format!("{EXP_AVG}{name}"), &moments.exp_avg);
        tensors.insert(format!("{EXP_AVG_SQ}{name}"), &moments.exp_avg_sq);
    }
    let head = Head {
        version: VERSION,
        step: optimizer.updates,
        binding: binding.clone(),
        plan,
        tally,
        tensors: digest(tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor)))?,
    };
    // A struct of numbers and text always serialises.
    let head = serde_json::to_string(&head).map_err(|e| TchError::Convert(e.to_string()))?;
    blob::write(tensors, &BTreeMap::from([(HEAD, head)]))
}

impl Checkpoint {
    /// Reads a checkpoint of the run that `binding` describes.
    pub fn read(bytes: &[u8], binding: &Binding) -> Result<Self, CheckpointError> {
        let blob = blob::read(bytes).map_err(CheckpointError::Damaged)?;
        let head = blob.metadata.get(HEAD).ok_or_else(|| damaged("it has no description"))?;
        let head: Head = serde_json::from_str(head).map_err(|e| CheckpointError::Damaged(e.to_string()))?;
        if head.version != VERSION {
            return Err(CheckpointError::Version { found: head.version });
        }
        let found = digest(blob.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)));
        if found.ok().as_deref() != Some(&head.tensors) {
            return Err(damaged("its digest does not match"));
        }
        for (what, ours, theirs) in [
            ("recipe", &binding.recipe, &head.binding.recipe),
            ("base model", &binding.base, &head.binding.base),
            ("dataset", &binding.data, &head.binding.data),
        ] {
            if ours != theirs {
                return Err(CheckpointError::Foreign { what });
            }
        }
        Ok(Checkpoint { head, tensors: blob.tensors })
    }

    /// How steps were computed, and must be further on.
    pub fn plan(&self) -> Plan {
        self.head.plan
    }

    /// What had been counted.
    pub fn tally(&self) -> Tally {
        self.head.tally
    }

    /// Puts the state into a fresh adapter and optimiser of the same recipe.
    pub fn restore(&self, adapter: &Adapter, optimizer: &mut AdamW) -> Result<(), CheckpointError> {
        tch::no_grad(|| {
            for (name, tensor) in adapter.tensors() {
                self.copy(&name, tensor)?;
            }
            for (name, moments) in &optimizer.moments {
                self.copy(&format!("{EXP_AVG}{name}"), &moments.exp_avg)?;
                self.copy(&format!("{EXP_AVG_SQ}{name}"), &moments.exp_avg_sq)?;
            }
            Ok(())
        })?;
        optimizer.updates = self.head.step;
        Ok(())
    }

    fn copy(&self, name: &str, into: &Tensor) -> Result<(), CheckpointError> {
        let saved = self.tensors.get(name).ok_or_else(|| damaged("a tensor is missing"))?;
        if saved.size() != into.size() {
            return Err(damaged("a tensor has another shape"));
        }
        into.shallow_clone().f_copy_(saved).map(drop).map_err(|e| CheckpointError::Damaged(e.to_string()))
    }
}

fn damaged(why: &str) -> CheckpointError {
    CheckpointError::Damaged(why.to_owned())
}

fn digest<'t>(tensors: impl Iterator<Item = (&'t str, &'t Tensor)>) -> Result<String, TchError> {
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, tensor) in tensors {
        context.update(format!("{name}\0{:?}\0", tensor.size()).as_bytes());
        context.update(&blob::bytes(tensor)?);
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
