//! Base against adapter on held-out records: loss and perplexity of the reference answers (`train::measure`),
//! and how close greedily generated answers come to them (`answers`, `rouge`).

mod answers;
mod rouge;

use cloister_wire::engine::{EvaluateTask, Evaluation, FromEngine, Metrics, RecordSet};
use cloister_wire::recipe::OverLong;
use cloister_wire::record::Record;

pub use answers::{Answering, answer};
pub use rouge::{Rouge, rouge};

use crate::adapt::{Adapter, peft};
use crate::model::{Decoder, ModelError, Tokenizer};
use crate::task::{InputError, Inputs, TaskError, TaskIo};
use crate::train::data::{self, DataError, Example, Limit};
use crate::train::measure::measure;
use crate::train::plan::Plan;

/// Evaluates the adapter that was sent, and ends with `Evaluated`; ends early when asked to stop.
pub fn run(
    io: &mut impl TaskIo,
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    task: &EvaluateTask,
    inputs: &Inputs,
) -> Result<(), TaskError> {
    let suite = Suite::prepare(decoder, tokenizer, task, inputs)?;
    let adapter = read_adapter(decoder, inputs)?;
    let mut done = Counter { done: 0, total: 2 * (suite.examples.len() + suite.questions.len()) as u64 };
    let Some(base) = suite.metrics(io, None, &mut done)? else { return stopped(io) };
    let Some(adapted) = suite.metrics(io, Some(&adapter), &mut done)? else { return stopped(io) };
    let evaluation = Evaluation {
        base,
        adapter: adapted,
        records: suite.examples.len() as u64,
        generated: suite.questions.len() as u64,
        peak_rss_bytes: io.peak_rss_bytes(),
    };
    io.send(FromEngine::Evaluated(evaluation), &[])?;
    Ok(())
}

/// Nothing is kept of a stopped evaluation.
fn stopped(io: &mut impl TaskIo) -> Result<(), TaskError> {
    io.send(FromEngine::Stopped { step: 0 }, &[])?;
    Ok(())
}

/// The adapter among a task's files.
pub fn read_adapter(decoder: &Decoder, inputs: &Inputs) -> Result<Adapter, TaskError> {
    let config = std::str::from_utf8(inputs.file(peft::CONFIG_FILE)?)
        .map_err(|_| InputError::File(peft::CONFIG_FILE.to_owned()))?;
    let modules = decoder.linear_modules();
    let base = peft::Base { modules: &modules, digest: decoder.weight_digest(), device: decoder.device() };
    Ok(peft::read(config, inputs.file(peft::WEIGHTS_FILE)?, base)?)
}

/// What both sides are asked.
struct Suite<'s> {
    decoder: &'s Decoder,
    tokenizer: &'s Tokenizer,
    examples: Vec<Example>,
    questions: Vec<Question>,
    max_tokens: usize,
}

struct Question {
    prompt: String,
    reference: String,
}

struct Counter {
    done: u64,
    total: u64,
}

impl Counter {
    fn add(&mut self, io: &mut impl TaskIo, count: usize) -> Result<bool, TaskError> {
        self.done += count as u64;
        io.send(FromEngine::Evaluating { done: self.done, total: self.total }, &[])?;
        Ok(!io.stopped())
    }
}

impl<'s> Suite<'s> {
    fn prepare(
        decoder: &'s Decoder,
        tokenizer: &'s Tokenizer,
        task: &EvaluateTask,
        inputs: &Inputs,
    ) -> Result<Self, TaskError> {
        let records = inputs.records(RecordSet::HeldOut)?;
        if records.is_empty() {
            return Err(TaskError::HeldOut(DataError::Empty("measure on")));
        }
        // Both sides read the same, so an over-long record loses the beginning of its prompt.
        let limit = Limit { max_length: decoder.config().max_positions as usize, over_long: OverLong::Truncate };
        let examples = data::examples(tokenizer, &records, limit).map_err(TaskError::HeldOut)?;
        examples.report("held-out", limit);
        let examples = examples.examples;
        let questions = records.iter().take(task.generate as usize).map(|record| question(tokenizer, record));
        let questions = questions.collect::<Result<_, ModelError>>()?;
        Ok(Suite { decoder, tokenizer, examples, questions, max_tokens: (task.max_tokens as usize).max(1) })
    }

    /// One side's figures; `None` when stopped.
    fn metrics(
        &self,
        io: &mut impl TaskIo,
        adapter: Option<&Adapter>,
        done: &mut Counter,
    ) -> Result<Option<Metrics>, TaskError> {
        let plan = Plan::measuring(self.decoder);
        let measured = measure(self.decoder, adapter, &self.examples, &plan, |count| done.add(io, count))?;
        let Some(measured) = measured else { return Ok(None) };
        let loss = measured.loss();
        if !loss.is_finite() {
            let (of, remedy) = match adapter {
                None => ("of the base", "it cannot read these records; import it again, or look at them"),
                Some(_) => ("with the adapter", "train it again with a lower `training.learning_rate`"),
            };
            return Err(TaskError::HeldOutLoss { of: of.into(), value: loss, remedy });
        }
        let Some(scores) = self.scores(io, adapter, done)? else { return Ok(None) };
        let mean = |part: fn(&Score) -> f64| scores.iter().map(part).sum::<f64>() / scores.len().max(1) as f64;
        Ok(Some(Metrics {
            loss,
            // An infinity is no JSON number, and the report could not be sent.
            perplexity: loss.exp().min(f64::MAX),
            rouge1: mean(|score| score.rouge.rouge1),
            rouge2: mean(|score| score.rouge.rouge2),
            rouge_l: mean(|score| score.rouge.rouge_l),
            exact_match: mean(|score| f64::from(u8::from(score.exact))),
        }))
    }

    fn scores(
        &self,
        io: &mut impl TaskIo,
        adapter: Option<&Adapter>,
        done: &mut Counter,
    ) -> Result<Option<Vec<Score>>, TaskError> {
        let how = Answering { decoder: self.decoder, tokenizer: self.tokenizer, adapter, max_tokens: self.max_tokens };
        let prompts: Vec<String> = self.questions.iter().map(|question| question.prompt.clone()).collect();
        let answers = answer::<TaskError>(how, &prompts, || done.add(io, 1))?;
        Ok(answers.map(|answers| {
            self.questions.iter().zip(answers).map(|(question, answer)| score(&question.reference, &answer)).collect()
        }))
    }
}

struct Score {
    rouge: Rouge,
    exact: bool,
}

fn score(reference: &str, answer: &str) -> Score {
    let exact = reference.split_whitespace().eq(answer.split_whitespace());
    Score { rouge: rouge(reference, answer), exact }
}

fn question(tokenizer: &Tokenizer, record: &Record) -> Result<Question, ModelError> {
    // `data::examples` has refused records without an answer.
    let (prompt, reference) = record.split_answer().map_or((&[][..], ""), |(p, a)| (p, a.content.as_str()));
    Ok(Question { prompt: tokenizer.render_chat(prompt, true)?, reference: reference.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_match_looks_past_white_space_only() {
        assert!(score("No known\n allergies. ", "No known allergies.").exact);
        assert!(!score("No known allergies.", "No Known allergies.").exact);
    }
}
