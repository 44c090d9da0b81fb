//! PEFT's two files, to the name: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! What this engine writes, `PeftModel.from_pretrained` loads; what PEFT's `save_pretrained` writes, this
//! reads, or refuses with the reason when the forward pass could not reproduce it exactly. The digest of the
//! base's weights rides along in the safetensors metadata, where PEFT does not look.
//! INVARIANT: an adapter with a NaN or an infinity is neither written nor read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use super::lora::{ALL_LINEAR, matches};
use super::{AdaptError, Adapter, LoraPair, all_finite, blob};
use crate::model::ModuleInfo;

/// The configuration's file name.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The weights' file name.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const DIGEST_KEY: &str = "cloister.base_weights_sha256";
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// An adapter's two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `adapter_config.json`
    pub config: String,
    /// `adapter_model.safetensors`
    pub weights: Vec<u8>,
}

/// The base that an adapter belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Base<'b> {
    /// Its linear layers.
    pub modules: &'b [ModuleInfo],
    /// Digest of its weights.
    pub digest: &'b str,
    /// Where it computes.
    pub device: Device,
}

/// Name of a module's A in PEFT's file.
pub fn name_a(path: &str) -> String {
    format!("{PREFIX}{path}{A}")
}

/// Name of a module's B in PEFT's file.
pub fn name_b(path: &str) -> String {
    format!("{PREFIX}{path}{B}")
}

/// Writes an adapter that was made by `lora::init` from this recipe.
pub fn write(
    adapter: &Adapter,
    lora: &cloister_wire::recipe::Lora,
    base_name: &str,
    base_digest: &str,
) -> Result<Files, AdaptError> {
    if let Some(name) = adapter.non_finite() {
        return Err(AdaptError::NonFinite(name));
    }
    let metadata = BTreeMap::from([("format", "pt".to_owned()), (DIGEST_KEY, base_digest.to_owned())]);
    let weights = blob::write(adapter.tensors(), &metadata)?;
    Ok(Files { config: config(adapter, lora, base_name), weights })
}

fn config(adapter: &Adapter, lora: &cloister_wire::recipe::Lora, base_name: &str) -> String {
    // Last names alone, as PEFT writes `all-linear` out; longer targets stay as they are.
    let names: BTreeSet<&str> = match lora.targets.iter().any(|target| target == ALL_LINEAR) {
        true => adapter.modules.keys().filter_map(|path| path.rsplit('.').next()).collect(),
        false => lora.targets.iter().map(String::as_str).collect(),
    };
    let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": true,
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": names,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": false,
        "use_dora": false,
    });
    format!("{config:#}\n")
}

/// Reads an adapter for a base; its tensors are float32, on the base's device, without gradients.
pub fn read(config: &str, weights: &[u8], base: Base<'_>) -> Result<Adapter, AdaptError> {
    let config: Config = serde_json::from_str(config).map_err(|e| AdaptError::Config(e.to_string()))?;
    config.check()?;
    let blob = blob::read(weights).map_err(AdaptError::Damaged)?;
    if let Some(trained_on) = blob.metadata.get(DIGEST_KEY).filter(|digest| *digest != base.digest) {
        return Err(AdaptError::Base { trained_on: trained_on.clone(), base: base.digest.to_owned() });
    }
    let mut tensors = blob.tensors;
    let mut adapter = Adapter::default();
    for module in base.modules {
        if let Some(pair) = pair(&mut tensors, module, &config, base.device)? {
            adapter.modules.insert(module.path.clone(), pair);
        }
    }
    if let Some(name) = tensors.keys().next() {
        let reason = "belongs to no linear layer of this base; use the adapter with the base it was trained on";
        return Err(tensor_error(name, reason.into()));
    }
    config.check_complete(&adapter, base.modules)?;
    Ok(adapter)
}

/// A module's pair, if the file has one; half a pair is an error.
fn pair(
    tensors: &mut BTreeMap<String, Tensor>,
    module: &ModuleInfo,
    config: &Config,
    device: Device,
) -> Result<Option<LoraPair>, AdaptError> {
    let [name_a, name_b] = [name_a(&module.path), name_b(&module.path)];
    let (a, b) = match (tensors.remove(&name_a), tensors.remove(&name_b)) {
        (None, None) => return Ok(None),
        (Some(a), Some(b)) => (a, b),
        (Some(_), None) => return Err(missing(&name_b)),
        (None, Some(_)) => return Err(missing(&name_a)),
    };
    let rank = config.rank(&module.path);
    checked(&name_a, &a, [i64::from(rank), module.in_features])?;
    checked(&name_b, &b, [module.out_features, i64::from(rank)])?;
    let scale = config.scale(&module.path, rank);
    Ok(Some(LoraPair { a: a.to_device(device), b: b.to_device(device), scale, dropout: config.lora_dropout }))
}

fn checked(name: &str, tensor: &Tensor, shape: [i64; 2]) -> Result<(), AdaptError> {
    if tensor.size() != shape {
        let reason = format!(
            "has shape {:?}, base and adapter_config.json need {shape:?}; use the adapter with its own base",
            tensor.size()
        );
        return Err(tensor_error(name, reason));
    }
    if !all_finite(tensor) {
        return Err(tensor_error(name, "holds a NaN or an infinity; train the adapter again".into()));
    }
    Ok(())
}

fn missing(name: &str) -> AdaptError {
    tensor_error(name, "is missing; copy the adapter again from where it was made".into())
}

fn tensor_error(name: &str, reason: String) -> AdaptError {
    AdaptError::Tensor { tensor: name.to_owned(), reason }
}

/// The keys of `adapter_config.json` that bear on the result; others are tolerated.
#[derive(Debug, Deserialize)]
struct Config {
    peft_type: String,
    r: u32,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    target_modules: Option<Value>,
    #[serde(default)]
    rank_pattern: Option<Patterns<u32>>,
    #[serde(default)]
    alpha_pattern: Option<Patterns<f64>>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Values by module name in the file's order: of several that match a module, the first counts to PEFT.
#[derive(Debug)]
struct Patterns<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patterns<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Patterns<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a value for each module name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Patterns<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Patterns(pairs))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

impl<T> Patterns<T> {
    fn names(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(name, _)| name)
    }
}

/// Keys whose set value changes the forward pass in a way that this engine does not compute.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("use_dora", "DoRA rescales the whole weight; train the adapter as plain LoRA"),
    ("modules_to_save", "it replaces whole layers of the base; train with LoRA layers alone"),
    ("lora_bias", "the low-rank layers have biases; train without"),
    ("fan_in_fan_out", "the base's layers are stored transposed (GPT-2); use a llama or qwen2 base"),
    ("layer_replication", "it repeats layers of the base; train without"),
    ("trainable_token_indices", "it changes rows of the embedding; train without"),
    ("target_parameters", "it adapts bare parameters (experts); target linear layers"),
    ("alora_invocation_tokens", "activated LoRA acts on a part of the sequence; train as plain LoRA"),
    ("arrow_config", "it routes between several adapters; export a single one"),
    ("kasa_config", "KaSA truncates the base's weights; train the adapter as plain LoRA"),
    ("monteclora_config", "MonteCLoRA samples around its weights; train the adapter as plain LoRA"),
    ("use_bdlora", "its factors are block-diagonal; train the adapter as plain LoRA"),
    ("use_qalora", "QALoRA pools the inputs; train as plain LoRA"),
];

/// Starting points that also change the base's weights.
const CHANGES_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

impl Config {
    fn check(&self) -> Result<(), AdaptError> {
        if self.peft_type != "LORA" {
            return Err(unsupported(format!("peft_type `{}`", self.peft_type), "this engine runs LORA adapters"));
        }
        if self.r == 0 || !self.lora_alpha.is_finite() {
            return Err(AdaptError::Config(format!("`r` is {} and `lora_alpha` {}", self.r, self.lora_alpha)));
        }
        for (key, why) in UNSUPPORTED {
            if self.others.get(*key).is_some_and(is_set) {
                return Err(unsupported(format!("`{key}`"), why));
            }
        }
        if let Some(Value::String(bias)) = self.others.get("bias").filter(|bias| *bias != "none") {
            return Err(unsupported(format!("`bias` \"{bias}\""), "it changes the base's biases; train with \"none\""));
        }
        if let Some(Value::String(init)) = self.others.get("init_lora_weights")
            && CHANGES_BASE.iter().any(|kind| init.to_lowercase().starts_with(kind))
        {
            let why = "it also changes the base's weights; convert it when saving \
                       (`path_initial_model_for_weight_conversion` in PEFT)";
            return Err(unsupported(format!("`init_lora_weights` \"{init}\""), why));
        }
        self.check_patterns()
    }

    /// Patterns are regular expressions to PEFT; those that are plain names are understood here.
    fn check_patterns(&self) -> Result<(), AdaptError> {
        let ranks = self.rank_pattern.iter().flat_map(Patterns::names);
        let alphas = self.alpha_pattern.iter().flat_map(Patterns::names);
        let plain = |key: &String| key.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        match ranks.chain(alphas).find(|key| !plain(key)) {
            Some(key) => {
                let what = format!("the pattern `{key}` in `rank_pattern` or `alpha_pattern`");
                Err(unsupported(what, "only plain module names are; write the names out"))
            }
            None => Ok(()),
        }
    }

    /// Every layer that the configuration targets has its pair: a file that lost some would act half.
    fn check_complete(&self, adapter: &Adapter, modules: &[ModuleInfo]) -> Result<(), AdaptError> {
        if adapter.modules.is_empty() {
            return Err(tensor_error("lora_A.weight", "is there for no layer; the adapter would do nothing".into()));
        }
        let narrowed = ["layers_to_transform", "exclude_modules"];
        if narrowed.iter().any(|key| self.others.get(*key).is_some_and(is_set)) {
            return Ok(());
        }
        let Some(Value::Array(targets)) = &self.target_modules else { return Ok(()) };
        let targets: Vec<&str> = targets.iter().filter_map(Value::as_str).collect();
        let targeted = |m: &&ModuleInfo| targets.iter().any(|target| matches(&m.path, target));
        match modules.iter().filter(targeted).find(|m| !adapter.modules.contains_key(&m.path)) {
            Some(module) => Err(missing(&name_a(&module.path))),
            None => Ok(()),
        }
    }

    fn rank(&self, path: &str) -> u32 {
        pattern(&self.rank_pattern, path).unwrap_or(self.r)
    }

    fn scale(&self, path: &str, rank: u32) -> f64 {
        let alpha = pattern(&self.alpha_pattern, path).unwrap_or(self.lora_alpha);
        let rank = f64::from(rank);
        if self.use_rslora { alpha / rank.sqrt() } else { alpha / rank }
    }
}

fn pattern<T: Copy>(patterns: &Option<Patterns<T>>, path: &str) -> Option<T> {
    patterns.iter().flat_map(|patterns| &patterns.0).find(|(key, _)| matches(path, key)).map(|(_, value)| *value)
}

/// Whether a key says anything: not absent, null, false or empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
        Value::Number(_) | Value::String(_) => true,
    }
}

fn unsupported(what: String, why: &'static str) -> AdaptError {
    AdaptError::Unsupported { what, why }
}

#[cfg(test)]
#[path = "peft_tests.rs"]
mod tests;
