//! The training recipe: a TOML file that says what to train, on what, and how.
//!
//! Unknown keys are refused, every key but the three names has a default, and [`Recipe::validate`] finds what
//! cannot work before anything is loaded. Names follow PEFT and transformers where those have one.

use serde::{Deserialize, Serialize};

/// A whole recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the adapter that comes out.
    pub name: String,
    /// Name of the base model.
    pub base: String,
    /// Name of the sealed dataset.
    pub dataset: String,
    /// What the adapter will be used for; must be among the dataset's purposes.
    #[serde(default)]
    pub purpose: Option<String>,
    /// Records that are not trained on.
    #[serde(default)]
    pub held_out: HeldOut,
    /// Decides the adapter's first values, the order of examples and dropout.
    #[serde(default)]
    pub seed: u64,
    /// `auto`, `cpu` or `cuda:N`.
    #[serde(default = "auto")]
    pub device: String,
    /// The adapter.
    #[serde(default)]
    pub lora: Lora,
    /// How the frozen base is held.
    #[serde(default)]
    pub quantization: Quantization,
    /// The optimisation.
    #[serde(default)]
    pub training: Training,
}

fn auto() -> String {
    "auto".into()
}

/// Which records are held out of training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeldOut {
    /// A part of the dataset, chosen by seed and content; 0 for none.
    Fraction(f64),
    /// Another sealed dataset, by name.
    Dataset(String),
}

impl Default for HeldOut {
    fn default() -> Self {
        Self::Fraction(0.05)
    }
}

/// Low-rank adapters (Hu et al. 2021).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lora {
    /// Inner dimension of the two factors.
    pub rank: u32,
    /// Scale is alpha / rank.
    pub alpha: f64,
    /// Probability with which an input of the adapter is zeroed in training.
    pub dropout: f64,
    /// Last parts of module names, such as `q_proj`; `["all-linear"]` means every linear layer of the blocks.
    pub targets: Vec<String>,
}

impl Default for Lora {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, dropout: 0.0, targets: vec!["all-linear".into()] }
    }
}

/// How the frozen base is held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quantization {
    /// The number format of the blocks' linear layers.
    pub base: BaseFormat,
    /// Quantise the blocks' scales as well (QLoRA's double quantisation).
    pub double: bool,
}

impl Default for Quantization {
    fn default() -> Self {
        Self { base: BaseFormat::Nf4, double: true }
    }
}

/// A number format of the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseFormat {
    /// 4-bit NormalFloat (Dettmers et al. 2023).
    Nf4,
    /// As computed with: float32 on a CPU, bfloat16 on a GPU.
    None,
}

/// The optimisation: AdamW over the adapter's tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Passes over the data; may be broken.
    pub epochs: f64,
    /// Stops after so many optimiser steps, whatever `epochs` says.
    pub max_steps: Option<u64>,
    /// Examples of one optimiser step.
    pub batch_size: u32,
    /// Examples of one forward pass; the step's gradient is accumulated. `None`: chosen from memory.
    pub micro_batch_size: Option<u32>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course after the warm-up.
    pub schedule: Schedule,
    /// Part of all steps over which the learning rate rises from 0.
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's first moment.
    pub beta1: f64,
    /// AdamW's second moment.
    pub beta2: f64,
    /// AdamW's denominator.
    pub epsilon: f64,
    /// The gradient's norm is clipped to this; 0 for never.
    pub max_grad_norm: f64,
    /// Tokens of an example, prompt and answer together; `None`: the model's context.
    pub max_length: Option<u32>,
    /// What happens to a longer example.
    pub over_long: OverLong,
    /// Held-out loss every so many steps; 0 for only at the end.
    pub evaluate_every: u64,
    /// A sealed checkpoint every so many steps; 0 for only when asked to stop.
    pub checkpoint_every: u64,
    /// Recompute activations block by block in the backward pass. `None`: chosen from memory.
    pub recompute: Option<bool>,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: 1.0,
            max_steps: None,
            batch_size: 8,
            micro_batch_size: None,
            learning_rate: 2e-4,
            schedule: Schedule::Cosine,
            warmup_ratio: 0.03,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            max_grad_norm: 1.0,
            max_length: None,
            over_long: OverLong::Refuse,
            evaluate_every: 50,
            checkpoint_every: 50,
            recompute: None,
        }
    }
}

/// The learning rate's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to 0.
    Cosine,
    /// A line down to 0.
    Linear,
    /// As it is.
    Constant,
}

/// What happens to an example longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverLong {
    /// The job fails and names the rows.
    Refuse,
    /// The examples are left out and counted.
    Drop,
    /// The prompt loses its beginning; an answer that does not fit is refused.
    Truncate,
}

/// Why a recipe was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// Not TOML, an unknown key, or a value of the wrong type; toml's message names line and key.
    #[error("the recipe does not parse: {0}")]
    Parse(String),
    /// A value that cannot work.
    #[error("`{key}` in the recipe {why}")]
    Value {
        /// The key, dotted.
        key: &'static str,
        /// What is wrong and what would do.
        why: String,
    },
}

impl Recipe {
    /// Parses and validates a recipe.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let recipe: Self = toml::from_str(text).map_err(|error| RecipeError::Parse(error.to_string().trim().into()))?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// Refuses what cannot work, before anything is loaded.
    pub fn validate(&self) -> Result<(), RecipeError> {
        for (key, name) in [("name", &self.name), ("base", &self.base), ("dataset", &self.dataset)] {
            valid_name(name).map_err(|why| RecipeError::Value { key, why })?;
        }
        if let HeldOut::Dataset(name) = &self.held_out {
            valid_name(name).map_err(|why| RecipeError::Value { key: "held_out", why })?;
        }
        let t = &self.training;
        let fraction = match self.held_out {
            HeldOut::Fraction(part) => part,
            HeldOut::Dataset(_) => 0.0,
        };
        let rules: [(&'static str, bool, &str); 15] = [
            ("held_out", (0.0..=0.5).contains(&fraction), "must be a dataset's name or lie between 0 and 0.5"),
            ("device", valid_device(&self.device), "must be \"auto\", \"cpu\" or \"cuda:N\""),
            ("lora.rank", (1..=1024).contains(&self.lora.rank), "must lie between 1 and 1024; 16 is a good start"),
            (
                "lora.alpha",
                self.lora.alpha > 0.0 && self.lora.alpha.is_finite(),
                "must be above 0; twice the rank is usual",
            ),
            ("lora.dropout", (0.0..1.0).contains(&self.lora.dropout), "must be at least 0 and below 1"),
            ("lora.targets", !self.lora.targets.is_empty(), "is empty; [\"all-linear\"] trains every linear layer"),
            ("training.epochs", t.epochs > 0.0 && t.epochs <= 1000.0, "must be above 0 and at most 1000"),
            ("training.max_steps", t.max_steps != Some(0), "must be at least 1, or left out"),
            ("training.batch_size", (1..=65_536).contains(&t.batch_size), "must lie between 1 and 65536"),
            (
                "training.micro_batch_size",
                t.micro_batch_size.is_none_or(|m| m >= 1 && m <= t.batch_size),
                "must lie between 1 and `training.batch_size`",
            ),
            (
                "training.learning_rate",
                t.learning_rate > 0.0 && t.learning_rate <= 1.0,
                "must be above 0 and at most 1; 2e-4 is a good start for LoRA",
            ),
            ("training.warmup_ratio", (0.0..=1.0).contains(&t.warmup_ratio), "must lie between 0 and 1"),
            ("training.weight_decay", (0.0..1.0).contains(&t.weight_decay), "must be at least 0 and below 1"),
            ("training.max_grad_norm", t.max_grad_norm >= 0.0, "must be at least 0"),
            ("training.max_length", t.max_length.is_none_or(|l| l >= 8), "must be at least 8, or left out"),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((key, _, why)) => Err(RecipeError::Value { key, why: why.into() }),
            None => Ok(()),
        }
    }
}

fn valid_device(device: &str) -> bool {
    device == "auto"
        || device == "cpu"
        || device
            .strip_prefix("cuda:")
            .is_some_and(|n| !n.is_empty() && n.len() <= 3 && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Names of models, datasets, adapters and plugins: they become file names and model ids.
pub fn valid_name(name: &str) -> Result<(), String> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if fits {
        Ok(())
    } else {
        Err("must be 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit".into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"notes\"\nbase = \"demo\"\ndataset = \"visits\"\n";

    #[test]
    fn three_names_make_a_recipe() {
        let recipe = Recipe::parse(LEAST).unwrap();
        assert_eq!((recipe.lora.rank, recipe.quantization.base), (16, BaseFormat::Nf4));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = Recipe::parse(&format!("{LEAST}[lora]\nrnak = 8\n")).unwrap_err().to_string();
        assert!(error.contains("rnak") && error.contains("line 5"), "{error}");
    }

    #[test]
    fn a_value_that_cannot_work_is_refused_by_key() {
        for (text, key) in [
            ("[lora]\nrank = 0", "lora.rank"),
            ("[training]\nlearning_rate = -1.0", "training.learning_rate"),
            ("[training]\nmicro_batch_size = 9", "training.micro_batch_size"),
        ] {
            let error = Recipe::parse(&format!("{LEAST}{text}\n")).unwrap_err();
            assert!(matches!(&error, RecipeError::Value { key: k, .. } if *k == key), "{error}");
        }
        assert!(Recipe::parse(&LEAST.replace("visits", "../visits")).is_err(), "a name is never a path");
    }

    #[test]
    fn held_out_is_a_fraction_or_a_dataset() {
        let named = Recipe::parse(&format!("held_out = \"exam\"\n{LEAST}")).unwrap();
        assert_eq!(named.held_out, HeldOut::Dataset("exam".into()));
    }
}
