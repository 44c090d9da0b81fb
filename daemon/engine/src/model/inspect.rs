//! Reads a whole model once and keeps nothing: what import and `model verify` need to know.

use super::config::ModelConfig;
use super::decoder::ignorable;
use super::weights::{Summary, Weights};
use super::{ModelError, ModelFiles};

/// Checks the configuration and every tensor, and returns the digest that loading the model would.
pub fn inspect(files: &ModelFiles) -> Result<(ModelConfig, Summary), ModelError> {
    let config = ModelConfig::load(files)?;
    let mut weights = Weights::open(files)?;
    for (name, shape) in tensors(&config) {
        drop(weights.read(&name, &shape)?);
    }
    let summary = weights.finish(|name| ignorable(name, config.tied))?;
    Ok((config, summary))
}

/// Every tensor that a decoder of this configuration has.
fn tensors(c: &ModelConfig) -> Vec<(String, Vec<i64>)> {
    let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let linears = [
        ("self_attn.q_proj", q_width, c.hidden_size, c.qkv_bias),
        ("self_attn.k_proj", kv_width, c.hidden_size, c.qkv_bias),
        ("self_attn.v_proj", kv_width, c.hidden_size, c.qkv_bias),
        ("self_attn.o_proj", c.hidden_size, q_width, c.out_bias),
        ("mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias),
        ("mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias),
        ("mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias),
    ];
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![c.vocab_size, c.hidden_size]),
        ("model.norm.weight".to_owned(), vec![c.hidden_size]),
    ];
    if !c.tied {
        all.push(("lm_head.weight".to_owned(), vec![c.vocab_size, c.hidden_size]));
    }
    for at in (0..c.layers).map(|layer| format!("model.layers.{layer}")) {
        for (name, out_features, in_features, bias) in linears {
            all.push((format!("{at}.{name}.weight"), vec![out_features, in_features]));
            if bias {
                all.push((format!("{at}.{name}.bias"), vec![out_features]));
            }
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            all.push((format!("{at}.{name}.weight"), vec![c.hidden_size]));
        }
    }
    all
}
