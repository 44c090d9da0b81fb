//! Messages between the daemon and `cloister-engine`.
//!
//! One engine process does one task: [`ToEngine::Open`] first, then `Inspect`, `Train`, `Evaluate` or `Serve`.
//! The engine holds no keys and writes no file: records, checkpoints and adapters travel as frames, and the
//! daemon's vault opens and seals them. A file larger than [`crate::frame::CHUNK`] is cut into several
//! `File` messages of the same name, the last of which says so.

use serde::{Deserialize, Serialize};

use crate::recipe::{BaseFormat, Quantization, Recipe};
use crate::record::Message;

/// From the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one at a time; a box would only be in every reader's way")]
pub enum ToEngine {
    /// The base model; its files ride along as descriptors, in the order of `files`.
    Open(Open),
    /// Read every tensor once and answer with [`FromEngine::Inspected`]; nothing is quantised or kept.
    Inspect,
    /// Train: `Records` of both sets follow, then, if `resume`, the checkpoint as `File`s, then `Begin`.
    Train(TrainTask),
    /// Evaluate: `Records` of the held-out set follow, then the adapter as `File`s, then `Begin`.
    Evaluate(EvaluateTask),
    /// Serve until the connection closes.
    Serve,
    /// A piece of a record set in the blob, JSON Lines of [`crate::record::Record`].
    Records {
        /// Which set.
        set: RecordSet,
    },
    /// A piece of a file in the blob.
    File(FilePiece),
    /// All input of the task has been sent.
    Begin,
    /// Serving: the adapter whose `File`s were sent since the last one is now known by this id.
    AddAdapter {
        /// Chosen by the daemon; unique for ever.
        adapter: String,
    },
    /// Serving: forget an adapter; requests that use it are finished first.
    RemoveAdapter {
        /// As added.
        adapter: String,
    },
    /// Serving: one completion.
    Generate(Generate),
    /// Serving: stop one completion; unknown ids are ignored.
    Cancel {
        /// As in `Generate`.
        id: u64,
    },
    /// Training: write a checkpoint at the next step boundary, then end with [`FromEngine::Stopped`].
    Stop,
    /// Answered with [`FromEngine::Pong`], from a thread that computing does not block.
    Ping,
}

/// A base model to open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// File names within the Hugging Face folder, one a descriptor.
    pub files: Vec<String>,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// How linear layers are held.
    pub quantization: Quantization,
    /// Threads for computing on a CPU; 0 for as many as there are cores.
    pub threads: u32,
}

/// A record set of a training task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordSet {
    /// Learnt from.
    Train,
    /// Only measured on.
    HeldOut,
}

/// A piece of a file; its bytes are the frame's blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePiece {
    /// Such as `adapter_model.safetensors` or `checkpoint`.
    pub name: String,
    /// Whether it ends here.
    pub last: bool,
}

/// What to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainTask {
    /// How.
    pub recipe: Recipe,
    /// Whether a checkpoint follows.
    pub resume: bool,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluateTask {
    /// Answers are generated for at most so many records; losses are measured on all.
    pub generate: u32,
    /// Longest generated answer, in tokens.
    pub max_tokens: u32,
}

/// One completion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Chosen by the daemon; every answer carries it.
    pub id: u64,
    /// An added adapter, or the base alone.
    pub adapter: Option<String>,
    /// What to continue.
    pub prompt: Prompt,
    /// How.
    pub sampling: Sampling,
}

/// What to continue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// Through the model's chat template.
    Chat(Vec<Message>),
    /// As it stands.
    Text(String),
}

/// How to choose tokens; names and meanings are OpenAI's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 for the likeliest token always.
    pub temperature: f64,
    /// Only the likeliest tokens that together have this probability.
    pub top_p: f64,
    /// Longest answer; `None`: to the end of the context.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer and do not appear in it.
    pub stop: Vec<String>,
    /// Same seed, same prompt, same answer.
    pub seed: u64,
}

/// To the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromEngine {
    /// The base is loaded (after `Open`, once a task is named).
    Opened(ModelInfo),
    /// Answer to `Inspect`.
    Inspected(ModelInfo),
    /// A training step, or the state before the first.
    Progress(Progress),
    /// Held-out loss during training.
    HeldOut(HeldOutLoss),
    /// A checkpoint follows as `File`s named `checkpoint`, then `CheckpointEnd`; it replaces the one before.
    CheckpointBegin {
        /// Optimiser steps done.
        step: u64,
    },
    /// The checkpoint is whole.
    CheckpointEnd {
        /// As begun.
        step: u64,
    },
    /// A piece of a checkpoint or of the finished adapter, in the blob.
    File(FilePiece),
    /// Training has ended, the adapter's files have been sent.
    Trained(TrainSummary),
    /// Training has stopped as asked, after a checkpoint.
    Stopped {
        /// Optimiser steps done.
        step: u64,
    },
    /// Evaluating, so many of so many.
    Evaluating {
        /// Records done.
        done: u64,
        /// Records in all.
        total: u64,
    },
    /// The evaluation has ended.
    Evaluated(Evaluation),
    /// Serving: an adapter is loaded.
    AdapterReady {
        /// As added.
        adapter: String,
    },
    /// Serving: an adapter was refused; serving goes on.
    AdapterRefused {
        /// As added.
        adapter: String,
        /// One line.
        reason: String,
    },
    /// Serving: more text of an answer (whole characters, stop texts held back).
    Text {
        /// The completion.
        id: u64,
        /// What follows.
        text: String,
    },
    /// Serving: an answer has ended.
    Finished {
        /// The completion.
        id: u64,
        /// Why.
        reason: FinishReason,
        /// Tokens read.
        prompt_tokens: u64,
        /// Tokens written.
        completion_tokens: u64,
    },
    /// Serving: a completion that could not be begun; the caller's fault.
    Refused {
        /// The completion.
        id: u64,
        /// One line.
        reason: String,
    },
    /// The task failed; the process ends.
    Failed(Failure),
    /// Alive.
    Pong {
        /// Peak resident memory of the process, in bytes.
        peak_rss_bytes: u64,
    },
}

/// What a base model turned out to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `llama`, `qwen2` …
    pub family: String,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Transformer blocks.
    pub layers: u32,
    /// Width.
    pub hidden_size: u32,
    /// Tokens known.
    pub vocabulary: u32,
    /// Longest sequence.
    pub context: u32,
    /// Whether chat messages can be rendered.
    pub chat_template: bool,
    /// Where it computes: `cpu` or `cuda:N`.
    pub device: String,
    /// How linear layers are held.
    pub format: BaseFormat,
    /// Bytes of the weights as held.
    pub weight_bytes: u64,
}

/// One step of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps in all.
    pub steps: u64,
    /// Passes over the data done.
    pub epoch: f64,
    /// Mean loss of the step's learnt tokens; absent before the first step.
    pub loss: Option<f64>,
    /// As used in this step.
    pub learning_rate: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Tokens a second, prompt and answer, no padding, smoothed.
    pub tokens_per_s: f64,
    /// Peak resident memory, in bytes.
    pub peak_rss_bytes: u64,
    /// Seconds left, estimated.
    pub seconds_left: f64,
}

/// Loss on records that are not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutLoss {
    /// Optimiser steps done.
    pub step: u64,
    /// Mean negative log-likelihood of the answers' tokens, in nats.
    pub loss: f64,
    /// Learnt tokens measured.
    pub tokens: u64,
}

/// How a training run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSummary {
    /// Optimiser steps.
    pub steps: u64,
    /// Loss of the last step.
    pub final_loss: f64,
    /// Held-out loss before the first step, if there was a held-out set.
    pub held_out_before: Option<f64>,
    /// Held-out loss after the last step.
    pub held_out_after: Option<f64>,
    /// Examples learnt from.
    pub examples: u64,
    /// Examples left out for their length.
    pub dropped: u64,
    /// Tokens processed, prompt and answer.
    pub tokens: u64,
    /// Seconds of training, held-out measurements not counted.
    pub seconds: f64,
    /// Mean tokens a second.
    pub tokens_per_s: f64,
    /// Numbers that were trained.
    pub trainable: u64,
    /// Peak resident memory, in bytes.
    pub peak_rss_bytes: u64,
}

/// Base against adapter on the same held-out records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The base alone.
    pub base: Metrics,
    /// With the adapter.
    pub adapter: Metrics,
    /// Records whose loss was measured.
    pub records: u64,
    /// Records for which an answer was generated.
    pub generated: u64,
    /// Peak resident memory, in bytes.
    pub peak_rss_bytes: u64,
}

/// Figures of one side.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean negative log-likelihood of the answers' tokens, in nats.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// ROUGE-1 F-measure of generated answers, mean over records, 0 to 1.
    pub rouge1: f64,
    /// ROUGE-2 F-measure.
    pub rouge2: f64,
    /// ROUGE-L F-measure.
    pub rouge_l: f64,
    /// Part of generated answers equal to the reference, white space aside.
    pub exact_match: f64,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop text was met.
    Stop,
    /// `max_tokens` or the context.
    Length,
    /// Cancelled.
    Cancelled,
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault.
    pub kind: FailureKind,
    /// One line: place and remedy, never a record's text.
    pub message: String,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The model folder.
    Model,
    /// The recipe, for this model and these records.
    Recipe,
    /// The records.
    Data,
    /// The numbers: a non-finite loss or gradient.
    Numeric,
    /// The adapter or the checkpoint.
    Adapter,
    /// Memory.
    Memory,
    /// The engine itself.
    Internal,
}
