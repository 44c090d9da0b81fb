//! The forward pass, without padding: the tokens of all sequences are concatenated, linear layers run on
//! `[tokens, hidden]`, and attention loops over the segments. The same code trains (no cache), prefills
//! and decodes (a cache per segment), for several sequences and several adapters at once.
//!
//! INVARIANT: a segment's rows depend on that segment alone, so an answer does not depend on its neighbours.

use tch::{Device, Kind, Tensor};

use super::cache::KvCache;
use super::config::{Activation, ModelConfig};
use super::linear::Linear;
use super::rope::{Angles, Rope};
use super::weights::Weights;
use super::{ModelError, ModelFiles};
use crate::adapt::{Adapter, LoraPair};
use crate::device::compute_kind;
use crate::quant::{Nf4Weight, Weight};

/// One sequence of a batch: some consecutive tokens of it.
#[derive(Debug)]
pub struct Segment<'a> {
    /// How many tokens of the batch are this sequence's.
    pub len: i64,
    /// Absolute position of the first of them.
    pub start: i64,
    /// Keys and values of the tokens before `start`; the new ones are appended. `None`: `start` is 0.
    pub cache: Option<&'a mut KvCache>,
    /// The adapter that this sequence is computed with; `None`: the base.
    pub adapter: Option<&'a Adapter>,
}

/// The segments of one forward pass.
#[derive(Debug)]
pub struct Batch<'a> {
    segments: Vec<Segment<'a>>,
    training: bool,
    angles: Option<Angles>,
}

/// Neighbouring rows that share an adapter.
#[derive(Debug)]
pub struct Run<'b> {
    /// First row.
    pub start: i64,
    /// Number of rows.
    pub len: i64,
    adapter: Option<&'b Adapter>,
}

/// Which rows of a batch belong to which adapter.
#[derive(Debug)]
pub struct Rows<'b> {
    /// Runs, in order, covering every row.
    pub runs: Vec<Run<'b>>,
    /// Whether dropout acts.
    pub training: bool,
}

impl<'b> Run<'b> {
    /// The run's pair for a module, if its adapter touches it.
    pub fn pair(&self, path: &str) -> Option<&'b LoraPair> {
        self.adapter.and_then(|adapter| adapter.modules.get(path))
    }
}

impl<'a> Batch<'a> {
    /// A batch for inference: no dropout.
    pub fn new(segments: Vec<Segment<'a>>) -> Self {
        Batch { segments, training: false, angles: None }
    }

    /// A batch in which the adapters' dropout acts.
    pub fn training(segments: Vec<Segment<'a>>) -> Self {
        Batch { segments, training: true, angles: None }
    }

    /// Number of rows of the forward.
    pub fn tokens(&self) -> i64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    fn positions(&self) -> Vec<i64> {
        self.segments.iter().flat_map(|segment| segment.start..segment.start + segment.len).collect()
    }

    /// Runs of rows that share an adapter, so that a batch with one adapter is one matmul.
    fn runs(segments: &'a [Segment<'_>]) -> Vec<Run<'a>> {
        let mut runs: Vec<Run<'a>> = Vec::new();
        let mut start = 0;
        for segment in segments {
            let adapter = segment.adapter;
            match runs.last_mut() {
                Some(run) if same(run.adapter, adapter) => run.len += segment.len,
                _ => runs.push(Run { start, len: segment.len, adapter }),
            }
            start += segment.len;
        }
        runs
    }
}

fn same(one: Option<&Adapter>, other: Option<&Adapter>) -> bool {
    one.map(std::ptr::from_ref) == other.map(std::ptr::from_ref)
}

/// How the linear layers of the base are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// As they are in the files.
    None,
    /// 4-bit NormalFloat; `double`: the blocks' scales are quantised too.
    Nf4 {
        /// Double quantisation.
        double: bool,
    },
}

/// How to load a model.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Where it computes.
    pub device: Device,
    /// How its linear layers are held.
    pub quantization: Quantization,
    /// The type that it computes in.
    pub kind: Kind,
}

impl LoadOptions {
    /// The device's own compute type.
    pub fn new(device: Device, quantization: Quantization) -> Self {
        LoadOptions { device, quantization, kind: compute_kind(device) }
    }
}

/// A linear layer that an adapter can touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleInfo {
    /// `model.layers.0.self_attn.q_proj`
    pub path: String,
    /// Columns of its weight.
    pub in_features: i64,
    /// Rows of its weight.
    pub out_features: i64,
}

/// What there is to say about a loaded model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// `llama`, `qwen2`, …
    pub family: &'static str,
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width of the feed-forward part.
    pub intermediate_size: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads.
    pub kv_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Longest context, in tokens.
    pub context: i64,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes that the weights occupy as loaded.
    pub weight_bytes: u64,
}

#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_attention_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn linears(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }
}

/// A decoder with frozen weights.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    kind: Kind,
    device: Device,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Tensor,
    /// `None`: tied to the embedding.
    head: Option<Weight>,
    rope: Rope,
    parameters: u64,
    weight_digest: String,
}

impl Decoder {
    /// Reads, checks and (when asked) quantises a model, one tensor at a time: there is never a second
    /// full copy of it.
    pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<Decoder, ModelError> {
        let config = ModelConfig::load(files)?;
        let mut loader = Loader { weights: Weights::open(files)?, config: &config, options };
        let embedding = loader.table("model.embed_tokens.weight")?;
        let layers = (0..config.layers).map(|i| loader.layer(i)).collect::<Result<Vec<_>, _>>()?;
        let norm = loader.norm("model.norm.weight")?;
        let head = if config.tied { None } else { Some(loader.table("lm_head.weight")?) };
        let summary = loader.weights.finish(|name| ignorable(name, config.tied))?;
        Ok(Decoder {
            rope: Rope::new(&config.rope, config.head_dim, options.device),
            kind: options.kind,
            device: options.device,
            embedding,
            layers,
            norm,
            head,
            parameters: summary.parameters,
            weight_digest: summary.digest,
            config,
        })
    }

    /// The checked configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the model computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The type that activations are computed in.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// SHA-256 over every tensor's name, type, shape and bytes: the same for the same weights, however
    /// they are sharded.
    pub fn weight_digest(&self) -> &str {
        &self.weight_digest
    }

    /// An empty cache for one sequence.
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(self.layers.len())
    }

    /// `ids [tokens]` → `[tokens, hidden]`.
    pub fn embed(&self, ids: &Tensor) -> Tensor {
        self.embedding.rows(&ids.to_device(self.device)).to_kind(self.kind)
    }

    /// One transformer block on `x [tokens, hidden]`.
    pub fn block(&self, layer: usize, x: &Tensor, batch: &mut Batch) -> Tensor {
        let angles = match batch.angles.take() {
            Some(angles) => angles,
            None => self.rope.angles(&batch.positions(), self.kind),
        };
        let index = layer;
        let layer = &self.layers[index];
        let normed = self.rms_norm(x, &layer.input_norm);
        let (q, k, v) = self.projections(layer, &normed, batch, &angles);
        let attended = self.attention(index, &q, &k, &v, &mut batch.segments);
        let rows = Rows { runs: Batch::runs(&batch.segments), training: batch.training };
        let x = x + layer.o.forward(&attended, &rows);
        let normed = self.rms_norm(&x, &layer.post_attention_norm);
        let gated = self.activate(&layer.gate.forward(&normed, &rows)) * layer.up.forward(&normed, &rows);
        let x = x + layer.down.forward(&gated, &rows);
        batch.angles = Some(angles);
        x
    }

    /// The norm before the output layer.
    pub fn final_norm(&self, x: &Tensor) -> Tensor {
        self.rms_norm(x, &self.norm)
    }

    /// `[n, hidden]` → `[n, vocab]`, in float32.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        self.head.as_ref().unwrap_or(&self.embedding).forward(hidden).to_kind(Kind::Float)
    }

    /// Embedding, all blocks and the final norm: `ids [tokens]` → `[tokens, hidden]`.
    pub fn hidden(&self, ids: &Tensor, batch: &mut Batch) -> Tensor {
        let mut x = self.embed(ids);
        for layer in 0..self.layers.len() {
            x = self.block(layer, &x, batch);
        }
        self.final_norm(&x)
    }

    /// Every linear layer that an adapter can touch, in the order of the forward pass.
    pub fn linear_modules(&self) -> Vec<ModuleInfo> {
        let linears = self.layers.iter().flat_map(|layer| layer.linears());
        linears
            .map(|linear| ModuleInfo {
                path: linear.path.clone(),
                in_features: linear.weight.in_features(),
                out_features: linear.weight.out_features(),
            })
            .collect()
    }

    /// The frozen weight of a module as float32 `[out_features, in_features]`, dequantised: for merging.
    pub fn module_weight(&self, path: &str) -> Option<Tensor> {
        let mut linears = self.layers.iter().flat_map(|layer| layer.linears());
        linears.find(|linear| linear.path == path).map(|linear| linear.weight.dense(Kind::Float))
    }

    /// Sizes of the model.
    pub fn info(&self) -> ModelInfo {
        let config = &self.config;
        ModelInfo {
            family: config.family.model_type,
            layers: config.layers,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            context: config.max_positions,
            parameters: self.parameters,
            weight_bytes: self.weight_bytes(),
        }
    }

    fn weight_bytes(&self) -> u64 {
        let linears = self.layers.iter().flat_map(|layer| layer.linears());
        let tables = std::iter::once(&self.embedding).chain(&self.head);
        linears.map(|linear| linear.weight.bytes()).chain(tables.map(Weight::bytes)).sum()
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        x.rms_norm([self.config.hidden_size], Some(weight), self.config.norm_epsilon)
    }

    fn activate(&self, x: &Tensor) -> Tensor {
        match self.config.activation {
            Activation::Silu => x.silu(),
            Activation::Gelu => x.gelu("none"),
            Activation::GeluTanh => x.gelu("tanh"),
        }
    }

    /// q `[tokens, heads, head_dim]`, k and v `[tokens, kv_heads, head_dim]`, q and k rotated.
    fn projections(&self, layer: &Layer, x: &Tensor, batch: &Batch, angles: &Angles) -> (Tensor, Tensor, Tensor) {
        let rows = Rows { runs: Batch::runs(&batch.segments), training: batch.training };
        let split = |linear: &Linear, heads| linear.forward(x, &rows).view([-1, heads, self.config.head_dim]);
        let q = split(&layer.q, self.config.heads);
        let k = split(&layer.k, self.config.kv_heads);
        let v = split(&layer.v, self.config.kv_heads);
        (angles.rotate(&q), angles.rotate(&k), v)
    }

    /// Causal attention within each segment → `[tokens, heads * head_dim]`.
    fn attention(&self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor, segments: &mut [Segment]) -> Tensor {
        let mut row = 0;
        let mut parts = Vec::with_capacity(segments.len());
        for segment in segments {
            let part = |t: &Tensor| t.narrow(0, row, segment.len).transpose(0, 1); // [heads, len, head_dim]
            let (q, k, v) = (part(q), part(k), part(v));
            let (k, v) = match &mut segment.cache {
                Some(cache) => cache.extend(layer, segment.start, &k, &v),
                None => (k, v),
            };
            let attended = self.attend(&q, &k, &v, segment.start);
            parts.push(attended.transpose(0, 1).reshape([segment.len, self.config.heads * self.config.head_dim]));
            row += segment.len;
        }
        if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) }
    }

    /// `q [heads, new, head_dim]` over `k, v [kv_heads, start + new, head_dim]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, start: i64) -> Tensor {
        let new = q.size()[1];
        // libtorch aligns `is_causal` to the first key, so that later tokens need a mask of their own.
        let mask =
            (new > 1 && start > 0).then(|| Tensor::ones([new, start + new], (Kind::Bool, self.device)).tril(start));
        let causal = new > 1 && start == 0;
        let grouped = self.config.heads != self.config.kv_heads;
        let [q, k, v] = [q, k, v].map(|t| t.unsqueeze(0));
        Tensor::scaled_dot_product_attention(&q, &k, &v, mask.as_ref(), 0.0, causal, None, grouped).squeeze_dim(0)
    }
}

/// Tensors that some folders hold and no forward pass needs.
pub(super) fn ignorable(name: &str, tied: bool) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (tied && name == "lm_head.weight")
}

/// Builds the layers, tensor by tensor.
struct Loader<'l> {
    weights: Weights<'l>,
    config: &'l ModelConfig,
    options: &'l LoadOptions,
}

impl Loader<'_> {
    fn layer(&mut self, index: usize) -> Result<Layer, ModelError> {
        let c = self.config;
        let (hidden, wide) = (c.hidden_size, c.intermediate_size);
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let at = format!("model.layers.{index}");
        Ok(Layer {
            input_norm: self.norm(&format!("{at}.input_layernorm.weight"))?,
            q: self.linear(format!("{at}.self_attn.q_proj"), [q_width, hidden], c.qkv_bias)?,
            k: self.linear(format!("{at}.self_attn.k_proj"), [kv_width, hidden], c.qkv_bias)?,
            v: self.linear(format!("{at}.self_attn.v_proj"), [kv_width, hidden], c.qkv_bias)?,
            o: self.linear(format!("{at}.self_attn.o_proj"), [hidden, q_width], c.out_bias)?,
            post_attention_norm: self.norm(&format!("{at}.post_attention_layernorm.weight"))?,
            gate: self.linear(format!("{at}.mlp.gate_proj"), [wide, hidden], c.mlp_bias)?,
            up: self.linear(format!("{at}.mlp.up_proj"), [wide, hidden], c.mlp_bias)?,
            down: self.linear(format!("{at}.mlp.down_proj"), [hidden, wide], c.mlp_bias)?,
        })
    }

    fn linear(&mut self, path: String, shape: [i64; 2], bias: bool) -> Result<Linear, ModelError> {
        let raw = self.weights.read(&format!("{path}.weight"), &shape)?;
        let weight = match self.options.quantization {
            Quantization::None => Weight::Dense(raw.to_device(self.options.device).to_kind(self.options.kind)),
            Quantization::Nf4 { double } => {
                let weight = Nf4Weight::quantize(&raw.to_device(self.options.device), double)?;
                Weight::Nf4(weight)
            }
        };
        let bias = match bias {
            true => Some(self.vector(&format!("{path}.bias"), shape[0])?),
            false => None,
        };
        Ok(Linear { path, weight, bias })
    }

    fn norm(&mut self, name: &str) -> Result<Tensor, ModelError> {
        self.vector(name, self.config.hidden_size)
    }

    fn vector(&mut self, name: &str, len: i64) -> Result<Tensor, ModelError> {
        let raw = self.weights.read(name, &[len])?;
        Ok(raw.to_device(self.options.device).to_kind(self.options.kind))
    }

    /// The embedding or the output layer, `[vocab, hidden]`: kept in the file's 16 bits.
    fn table(&mut self, name: &str) -> Result<Weight, ModelError> {
        let raw = self.weights.read(name, &[self.config.vocab_size, self.config.hidden_size])?;
        Weight::table(raw.to_device(self.options.device), self.options.kind)
    }
}
