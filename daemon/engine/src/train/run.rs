//! The training loop. It reads like the recipe: take a batch, accumulate its micro-batches' gradients, clip,
//! update, report; now and then measure held-out loss and hand out a checkpoint.

use std::time::Instant;

use cloister_wire::engine::{FromEngine, HeldOutLoss, Progress, RecordSet, TrainSummary, TrainTask};
use cloister_wire::recipe::{Recipe, Training};
use ring::digest;

use super::checkpoint::{self, Binding, Checkpoint, Tally};
use super::clip;
use super::data::{self, DataError, Example, Examples, Limit};
use super::measure::measure;
use super::optimizer::AdamW;
use super::order::Order;
use super::plan::Plan;
use super::schedule::learning_rate;
use super::step::{self, Packed, Pass};
use crate::adapt::{AdaptError, Adapter, lora, peft};
use crate::model::{Decoder, Tokenizer};
use crate::random::Stream;
use crate::task::{Inputs, TaskError, TaskIo, send_file};

/// The name under which a checkpoint travels.
pub(crate) const CHECKPOINT_FILE: &str = "checkpoint";

/// How a loop turn ended.
enum Turn {
    Done,
    Stopped,
}

/// Trains as the task says, and ends with `Trained` or, when asked to stop, with `Stopped`.
pub fn run(
    io: &mut impl TaskIo,
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    task: &TrainTask,
    inputs: &Inputs,
) -> Result<(), TaskError> {
    let mut run = Run::prepare(decoder, tokenizer, task, inputs)?;
    io.send(FromEngine::Progress(run.progress(None, 0.0, io)), &[])?;
    if run.step() == 0 && matches!(run.measure_before(io)?, Turn::Stopped) {
        return run.stop(io);
    }
    while run.step() < run.order.steps {
        if io.stopped() || matches!(run.learn(io)?, Turn::Stopped) {
            return run.stop(io);
        }
        if run.due(run.training().evaluate_every) {
            run.measure(io)?;
        }
        if run.due(run.training().checkpoint_every) {
            run.send_checkpoint(io)?;
        }
    }
    run.finish(io)
}

/// A run in progress.
struct Run<'r> {
    decoder: &'r Decoder,
    recipe: &'r Recipe,
    train: Examples,
    held_out: Vec<Example>,
    order: Order,
    plan: Plan,
    adapter: Adapter,
    optimizer: AdamW,
    binding: Binding,
    tally: Tally,
    speed: Speed,
}

impl<'r> Run<'r> {
    fn prepare(
        decoder: &'r Decoder,
        tokenizer: &Tokenizer,
        task: &'r TrainTask,
        inputs: &Inputs,
    ) -> Result<Self, TaskError> {
        let recipe = &task.recipe;
        let limit = limit(decoder, &recipe.training);
        let train = data::examples(tokenizer, &inputs.records(RecordSet::Train)?, limit)?;
        if train.examples.is_empty() {
            return Err(DataError::Empty("learn from").into());
        }
        let held_out = data::examples(tokenizer, &inputs.records(RecordSet::HeldOut)?, limit);
        let held_out = held_out.map_err(TaskError::HeldOut)?;
        train.report("train", limit);
        held_out.report("held-out", limit);
        let adapter = lora::init(&decoder.linear_modules(), &recipe.lora, recipe.seed, decoder.device())?;
        let longest = train.examples.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        let (plan, estimate) = Plan::choose(decoder, recipe, longest);
        log::info!("plan: {plan:?}, {estimate:?}, longest example {longest} tokens");
        let mut run = Run {
            order: Order::new(recipe.seed, train.examples.len(), &recipe.training),
            optimizer: AdamW::new(&adapter, &recipe.training),
            binding: binding(recipe, decoder, &train.examples),
            tally: Tally::default(),
            speed: Speed::default(),
            decoder,
            recipe,
            train,
            held_out: held_out.examples,
            plan,
            adapter,
        };
        if task.resume {
            run.resume(inputs.file(CHECKPOINT_FILE)?)?;
        }
        Ok(run)
    }

    fn resume(&mut self, bytes: &[u8]) -> Result<(), TaskError> {
        let checkpoint = Checkpoint::read(bytes, &self.binding)?;
        checkpoint.restore(&self.adapter, &mut self.optimizer)?;
        self.plan = checkpoint.plan();
        self.tally = checkpoint.tally();
        Ok(())
    }

    fn training(&self) -> &Training {
        &self.recipe.training
    }

    /// Optimiser steps done.
    fn step(&self) -> u64 {
        self.optimizer.updates
    }

    fn due(&self, every: u64) -> bool {
        every > 0 && self.step().is_multiple_of(every) && self.step() < self.order.steps
    }

    /// One optimiser step.
    fn learn(&mut self, io: &mut impl TaskIo) -> Result<Turn, TaskError> {
        let began = Instant::now();
        let batch = self.order.batch(self.step());
        let examples: Vec<&Example> = batch.iter().map(|&index| &self.train.examples[index]).collect();
        let Some(loss) = self.accumulate(io, &examples)? else { return Ok(Turn::Stopped) };
        self.finite("loss", loss, &examples)?;
        let mut gradients = gradients(&self.adapter)?;
        let grad_norm = clip::by_global_norm(&mut gradients, self.training().max_grad_norm)?;
        self.finite("gradient", grad_norm, &examples)?;
        let rate = learning_rate(self.training(), self.step(), self.order.steps);
        self.optimizer.update(&self.adapter, rate)?;
        zero(&self.adapter);

        let tokens = examples.iter().map(|e| e.ids.len() as u64).sum();
        self.count(tokens, began.elapsed().as_secs_f64(), loss);
        io.send(FromEngine::Progress(self.progress(Some(rate), grad_norm, io)), &[])?;
        Ok(Turn::Done)
    }

    /// Adds up the gradients of a step's micro-batches; `None` when stopped in between, the gradients
    /// given up.
    fn accumulate(&self, io: &mut impl TaskIo, examples: &[&Example]) -> Result<Option<f64>, TaskError> {
        let learnt: usize = examples.iter().map(|e| e.learnt()).sum();
        let mut loss = 0.0;
        for (index, range) in self.plan.micro_batches(examples.iter().map(|e| e.ids.len())).into_iter().enumerate() {
            if index > 0 && io.stopped() {
                zero(&self.adapter);
                return Ok(None);
            }
            let packed = Packed::new(examples[range].iter().copied(), self.decoder.device());
            let pass = Pass {
                decoder: self.decoder,
                adapter: &self.adapter,
                recompute: self.plan.recompute,
                seed: Stream::new(self.recipe.seed, &format!("pass {} {index}", self.step())).long(),
            };
            loss += step::learn(pass, &packed, learnt as f64)?;
        }
        Ok(Some(loss))
    }

    fn finite(&self, what: &'static str, value: f64, examples: &[&Example]) -> Result<(), TaskError> {
        if value.is_finite() {
            return Ok(());
        }
        let rows: Vec<u64> = examples.iter().map(|e| e.row).collect();
        Err(TaskError::Numeric { what, value, step: self.step() + 1, rows: data::rows(&rows) })
    }

    fn count(&mut self, tokens: u64, seconds: f64, loss: f64) {
        self.speed.add(tokens, seconds);
        self.tally.tokens += tokens;
        self.tally.seconds += seconds;
        self.tally.loss = Some(loss);
    }

    fn progress(&self, rate: Option<f64>, grad_norm: f64, io: &impl TaskIo) -> Progress {
        let left = (self.order.steps - self.step().min(self.order.steps)) as f64;
        Progress {
            step: self.step(),
            steps: self.order.steps,
            epoch: self.order.epoch(self.step()),
            loss: self.tally.loss,
            learning_rate: rate.unwrap_or_else(|| learning_rate(self.training(), self.step(), self.order.steps)),
            grad_norm,
            tokens_per_s: self.speed.tokens_per_s(),
            peak_rss_bytes: io.peak_rss_bytes(),
            seconds_left: left * self.speed.seconds_per_step(),
        }
    }

    fn measure_before(&mut self, io: &mut impl TaskIo) -> Result<Turn, TaskError> {
        match self.measure(io)? {
            None if !self.held_out.is_empty() => Ok(Turn::Stopped),
            loss => {
                self.tally.held_out_before = loss;
                Ok(Turn::Done)
            }
        }
    }

    /// Held-out loss now; `None` without a held-out set, or when stopped on the way.
    fn measure(&self, io: &mut impl TaskIo) -> Result<Option<f64>, TaskError> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let go_on = |_| Ok::<bool, TaskError>(!io.stopped());
        let Some(found) = measure(self.decoder, Some(&self.adapter), &self.held_out, &self.plan, go_on)? else {
            return Ok(None);
        };
        if !found.loss().is_finite() {
            // Finite weights can overflow all the same: such an adapter is not handed out.
            let remedy = match self.step() {
                0 => "the base itself cannot read these records; import it again, or look at them",
                _ => "lower `training.learning_rate` and train again",
            };
            let of = format!("after step {}", self.step());
            return Err(TaskError::HeldOutLoss { of, value: found.loss(), remedy });
        }
        let message = HeldOutLoss { step: self.step(), loss: found.loss(), tokens: found.tokens };
        io.send(FromEngine::HeldOut(message), &[])?;
        Ok(Some(found.loss()))
    }

    fn send_checkpoint(&self, io: &mut impl TaskIo) -> Result<(), TaskError> {
        if let Some(name) = self.adapter.non_finite() {
            return Err(AdaptError::NonFinite(name).into());
        }
        let bytes = checkpoint::write(&self.adapter, &self.optimizer, &self.binding, self.plan, self.tally)?;
        io.send(FromEngine::CheckpointBegin { step: self.step() }, &[])?;
        send_file(io, CHECKPOINT_FILE, &bytes)?;
        io.send(FromEngine::CheckpointEnd { step: self.step() }, &[])?;
        Ok(())
    }

    fn stop(&self, io: &mut impl TaskIo) -> Result<(), TaskError> {
        self.send_checkpoint(io)?;
        io.send(FromEngine::Stopped { step: self.step() }, &[])?;
        Ok(())
    }

    fn finish(&self, io: &mut impl TaskIo) -> Result<(), TaskError> {
        let held_out_after = self.measure(io)?;
        if held_out_after.is_none() && !self.held_out.is_empty() {
            return self.stop(io);
        }
        let recipe = self.recipe;
        let files = peft::write(&self.adapter, &recipe.lora, &recipe.base, self.decoder.weight_digest())?;
        send_file(io, peft::CONFIG_FILE, files.config.as_bytes())?;
        send_file(io, peft::WEIGHTS_FILE, &files.weights)?;
        let summary = TrainSummary {
            steps: self.step(),
            final_loss: self.tally.loss.unwrap_or(f64::NAN),
            held_out_before: self.tally.held_out_before,
            held_out_after,
            examples: self.train.examples.len() as u64,
            dropped: self.train.dropped,
            tokens: self.tally.tokens,
            seconds: self.tally.seconds,
            tokens_per_s: self.tally.tokens as f64 / self.tally.seconds.max(1e-9),
            trainable: self.adapter.parameters(),
            peak_rss_bytes: io.peak_rss_bytes(),
        };
        io.send(FromEngine::Trained(summary), &[])?;
        Ok(())
    }
}

/// Speed, smoothed over about ten steps.
#[derive(Debug, Default)]
struct Speed {
    tokens: f64,
    seconds: f64,
    steps: f64,
}

impl Speed {
    fn add(&mut self, tokens: u64, seconds: f64) {
        let fade = |old: f64, new: f64| 0.9 * old + new;
        self.tokens = fade(self.tokens, tokens as f64);
        self.seconds = fade(self.seconds, seconds);
        self.steps = fade(self.steps, 1.0);
    }

    fn tokens_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens / self.seconds } else { 0.0 }
    }

    fn seconds_per_step(&self) -> f64 {
        if self.steps > 0.0 { self.seconds / self.steps } else { 0.0 }
    }
}

/// The examples' limit: the recipe's, and never more than the model can read.
fn limit(decoder: &Decoder, training: &Training) -> Limit {
    let context = decoder.config().max_positions as usize;
    let max_length = training.max_length.map_or(context, |most| context.min(most as usize));
    Limit { max_length, over_long: training.over_long }
}

fn binding(recipe: &Recipe, decoder: &Decoder, examples: &[Example]) -> Binding {
    // Every field is named in the derived form, so that a changed one changes the digest.
    let recipe = digest::digest(&digest::SHA256, format!("{recipe:?}").as_bytes());
    Binding {
        recipe: recipe.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        base: decoder.weight_digest().to_owned(),
        data: data::digest(examples),
    }
}

fn gradients(adapter: &Adapter) -> Result<Vec<tch::Tensor>, tch::TchError> {
    let gradients = adapter.tensors().map(|(_, tensor)| tensor.f_grad()).collect::<Result<Vec<_>, _>>()?;
    Ok(gradients.into_iter().filter(tch::Tensor::defined).collect())
}

fn zero(adapter: &Adapter) {
    for (_, tensor) in adapter.tensors() {
        tensor.shallow_clone().zero_grad();
    }
}
