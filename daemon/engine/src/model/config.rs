//! `config.json` → the sizes and switches of one decoder, checked before a weight is read.
//!
//! A family is a row of [`FAMILIES`]: what its config.json leaves unsaid. Old files (`rope_theta`,
//! `rope_scaling`, `torch_dtype`) and those of transformers 5 (`rope_parameters`, `dtype`) both load.

use serde::Deserialize;

use super::{ModelError, ModelFiles};

/// What distinguishes one family of decoders from another and is not written in config.json.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Whether q, k and v have biases; `None`: config.json says so (`attention_bias`).
    pub qkv_bias: Option<bool>,
    /// Whether the attention's output has a bias; `None`: as `attention_bias`.
    pub out_bias: Option<bool>,
    /// The default of `tie_word_embeddings` when config.json is silent.
    pub tied: bool,
    /// The default of `rope_theta` when config.json is silent.
    pub rope_theta: f64,
}

/// The families this engine loads.
pub const FAMILIES: &[Family] = &[
    Family { model_type: "llama", qkv_bias: None, out_bias: None, tied: false, rope_theta: 10_000.0 },
    Family { model_type: "qwen2", qkv_bias: Some(true), out_bias: Some(false), tied: false, rope_theta: 10_000.0 },
];

/// The non-linearity of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x), also called swish.
    Silu,
    /// The exact, error-function form.
    Gelu,
    /// The tanh approximation.
    GeluTanh,
}

/// Rotary position embedding: base frequency and how it is stretched over longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the frequencies are scaled.
    pub scaling: RopeScaling,
}

/// The scalings of rotary frequencies that occur in these families.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths divided, short ones kept, a smooth step between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Where the low-frequency part begins.
        low_frequency_factor: f64,
        /// Where the high-frequency part begins.
        high_frequency_factor: f64,
        /// The context that the model was first trained with.
        original_context: f64,
    },
}

/// A checked model configuration.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Row of the table.
    pub family: &'static Family,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the feed-forward part.
    pub intermediate_size: i64,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Longest context, in tokens.
    pub max_positions: i64,
    /// ε of the RMS norms.
    pub norm_epsilon: f64,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the attention's output.
    pub out_bias: bool,
    /// Biases in the feed-forward part.
    pub mlp_bias: bool,
    /// Non-linearity.
    pub activation: Activation,
    /// Ids that end an answer, from config.json and generation_config.json.
    pub eos_ids: Vec<u32>,
}

impl ModelConfig {
    /// Reads and checks `config.json` (and the end ids of `generation_config.json`).
    pub fn load(files: &ModelFiles) -> Result<Self, ModelError> {
        let text = files.required_text("config.json", "import the whole Hugging Face folder of the model")?;
        let mut config = Self::parse(&text)?;
        if let Some(text) = files.text("generation_config.json")? {
            let generation: Generation = serde_json::from_str(&text)
                .map_err(|e| wrong(format!("generation_config.json does not parse: {e}")))?;
            config.eos_ids.extend(ids(&generation.eos_token_id));
        }
        config.eos_ids.sort_unstable();
        config.eos_ids.dedup();
        Ok(config)
    }

    /// Reads and checks the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let raw: Raw =
            serde_json::from_str(text).map_err(|e| wrong(format!("{e}; restore the file from the model's source")))?;
        let family = family(&raw)?;
        let heads = positive("num_attention_heads", raw.num_attention_heads)?;
        let hidden_size = positive("hidden_size", raw.hidden_size)?;
        let head_dim = match raw.head_dim {
            Some(width) => positive("head_dim", Some(width))?,
            None => divided("hidden_size", hidden_size, "num_attention_heads", heads)?,
        };
        let config = ModelConfig {
            family,
            hidden_size,
            intermediate_size: positive("intermediate_size", raw.intermediate_size)?,
            layers: positive("num_hidden_layers", raw.num_hidden_layers)? as usize,
            heads,
            kv_heads: raw.num_key_value_heads.map_or(Ok(heads), |n| positive("num_key_value_heads", Some(n)))?,
            head_dim,
            vocab_size: positive("vocab_size", raw.vocab_size)?,
            max_positions: positive("max_position_embeddings", raw.max_position_embeddings)?,
            norm_epsilon: raw.rms_norm_eps.unwrap_or(1e-6),
            rope: rope(&raw, family)?,
            tied: raw.tie_word_embeddings.unwrap_or(family.tied),
            qkv_bias: family.qkv_bias.unwrap_or(raw.attention_bias),
            out_bias: family.out_bias.unwrap_or(raw.attention_bias),
            mlp_bias: raw.mlp_bias,
            activation: activation(raw.hidden_act.as_deref())?,
            eos_ids: ids(&raw.eos_token_id),
        };
        config.check(&raw)?;
        Ok(config)
    }

    /// What the sizes have to satisfy together, and switches that would change the result if ignored.
    fn check(&self, raw: &Raw) -> Result<(), ModelError> {
        divided("num_attention_heads", self.heads, "num_key_value_heads", self.kv_heads)?;
        if self.head_dim % 2 != 0 {
            return Err(wrong(format!("head_dim {} is odd; rotary embedding needs an even width", self.head_dim)));
        }
        if raw.use_sliding_window {
            return Err(wrong("use_sliding_window is true; this engine attends over the whole context".into()));
        }
        if raw.quantization_config.is_some() {
            let reason = "the folder is already quantised (quantization_config); import the unquantised model";
            return Err(wrong(reason.into()));
        }
        Ok(())
    }
}

/// `config.json` as it is written, old or new.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    hidden_size: Option<i64>,
    intermediate_size: Option<i64>,
    num_hidden_layers: Option<i64>,
    num_attention_heads: Option<i64>,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    vocab_size: Option<i64>,
    max_position_embeddings: Option<i64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    hidden_act: Option<String>,
    eos_token_id: Option<OneOrMany>,
    quantization_config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    /// The name before transformers 4.43; files saved since then may hold both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

#[derive(Deserialize)]
struct Generation {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

fn ids(value: &Option<OneOrMany>) -> Vec<u32> {
    match value {
        Some(OneOrMany::One(id)) => vec![*id],
        Some(OneOrMany::Many(ids)) => ids.clone(),
        None => Vec::new(),
    }
}

fn wrong(reason: String) -> ModelError {
    ModelError::Config { reason }
}

fn family(raw: &Raw) -> Result<&'static Family, ModelError> {
    let model_type = raw.model_type.as_deref().unwrap_or("(none)");
    FAMILIES.iter().find(|family| family.model_type == model_type).ok_or_else(|| ModelError::UnknownFamily {
        model_type: model_type.to_owned(),
        known: FAMILIES.iter().map(|family| format!("`{}`", family.model_type)).collect::<Vec<_>>().join(", "),
    })
}

/// Sizes past this are no model's; refusing them keeps every product of two sizes inside an i64.
const LARGEST: i64 = 1 << 31;

fn positive(key: &str, value: Option<i64>) -> Result<i64, ModelError> {
    match value {
        Some(value) if value > 0 && value < LARGEST => Ok(value),
        Some(value) => Err(wrong(format!("`{key}` is {value}, which is no size; restore the file"))),
        None => Err(wrong(format!("`{key}` is missing; restore the file from the model's source"))),
    }
}

fn divided(name: &str, value: i64, by_name: &str, by: i64) -> Result<i64, ModelError> {
    if by > 0 && value % by == 0 {
        return Ok(value / by);
    }
    Err(wrong(format!("`{name}` {value} is not a multiple of `{by_name}` {by}; restore the file")))
}

fn activation(name: Option<&str>) -> Result<Activation, ModelError> {
    match name.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => Err(wrong(format!("hidden_act `{other}` is not supported; `silu` and `gelu` are"))),
    }
}

fn rope(raw: &Raw, family: &Family) -> Result<RopeConfig, ModelError> {
    let parameters = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let theta = parameters.and_then(|p| p.rope_theta).or(raw.rope_theta).unwrap_or(family.rope_theta);
    if !(theta.is_finite() && theta > 0.0) {
        return Err(wrong(format!("`rope_theta` is {theta}, which is no base frequency; restore the file")));
    }
    let scaling = parameters.map_or(Ok(RopeScaling::Default), |p| scaling(p, raw))?;
    Ok(RopeConfig { theta, scaling })
}

fn scaling(rope: &RawRope, raw: &Raw) -> Result<RopeScaling, ModelError> {
    let number = |key: &str, value: Option<f64>| match value {
        Some(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(wrong(format!("the rope scaling lacks a positive `{key}`; restore the file"))),
    };
    match rope.rope_type.as_deref().or(rope.old_type.as_deref()).unwrap_or("default") {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: number("factor", rope.factor)? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor", rope.factor)?,
            low_frequency_factor: number("low_freq_factor", rope.low_freq_factor)?,
            high_frequency_factor: number("high_freq_factor", rope.high_freq_factor)?,
            original_context: rope
                .original_max_position_embeddings
                .or(raw.max_position_embeddings.map(|n| n as f64))
                .map_or_else(|| number("original_max_position_embeddings", None), Ok)?,
        }),
        other => Err(wrong(format!("rope type `{other}` is not supported; `default`, `linear` and `llama3` are"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"model_type":"qwen2","hidden_size":896,"intermediate_size":4864,
        "num_hidden_layers":24,"num_attention_heads":14,"num_key_value_heads":2,"vocab_size":151936,
        "max_position_embeddings":32768,"rope_theta":1000000.0,"eos_token_id":[7,8]}"#;

    fn refusal(text: &str) -> String {
        ModelConfig::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn old_and_new_rope_keys_say_the_same() {
        let old = ModelConfig::parse(OLD).unwrap();
        let new = ModelConfig::parse(
            &OLD.replace(r#""rope_theta":1000000.0"#, r#""rope_parameters":{"rope_theta":1e6,"rope_type":"default"}"#),
        )
        .unwrap();
        assert_eq!(old.rope, new.rope);
        assert_eq!(old.rope.theta, 1e6);
        assert_eq!((old.head_dim, old.qkv_bias, old.out_bias), (64, true, false));
        assert_eq!(old.eos_ids, [7, 8]);
    }

    /// What transformers 4.43 and later save of a config that said `type`.
    #[test]
    fn both_names_of_the_rope_type_may_stand_together() {
        let both = r#""rope_scaling":{"type":"linear","rope_type":"linear","factor":4.0},"hidden_size":896"#;
        let config = ModelConfig::parse(&OLD.replace(r#""hidden_size":896"#, both)).unwrap();
        assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_by_name() {
        assert!(refusal(&OLD.replace("896", "897")).contains("`hidden_size` 897 is not a multiple"));
        assert!(refusal(&OLD.replace("\"num_key_value_heads\":2", "\"num_key_value_heads\":3")).contains("14"));
        assert!(refusal(&OLD.replace("4864", "0")).contains("`intermediate_size` is 0"));
        assert!(refusal(&OLD.replace("\"hidden_size\":896,", "")).contains("`hidden_size` is missing"));
    }

    #[test]
    fn an_unknown_family_is_refused_and_the_known_are_named() {
        let message = refusal(&OLD.replace("qwen2", "mamba"));
        assert!(message.contains("`mamba`") && message.contains("`llama`, `qwen2`"), "{message}");
    }

    #[test]
    fn what_would_silently_change_the_result_is_refused() {
        assert!(refusal(&OLD.replace("{\"model", "{\"use_sliding_window\":true,\"model")).contains("sliding"));
        assert!(refusal(&OLD.replace("{\"model", "{\"hidden_act\":\"relu\",\"model")).contains("`relu`"));
        let yarn = r#"{"rope_scaling":{"type":"yarn","factor":2.0},"model"#;
        assert!(refusal(&OLD.replace("{\"model", yarn)).contains("`yarn`"));
    }
}
