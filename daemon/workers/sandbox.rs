//! One plugin in one `cloister-sandbox`, over as many batches as its job has.

use std::collections::VecDeque;

use cloister_wire::record::Record;
use cloister_wire::sandbox::{Description, FromSandbox, Limits, Outcome, PluginWorld, ToSandbox};

use super::{Source, Worker, WorkerError};

/// A plugin that is loaded and waits for records.
#[derive(Debug)]
pub struct Sandbox {
    worker: Worker,
    description: Description,
    next_batch: u64,
}

/// What a plugin made of a batch.
#[derive(Debug)]
pub struct Batch {
    /// One a record, in order.
    pub outcomes: Vec<Outcome>,
    /// The records that a cleaner kept, in order.
    pub kept: VecDeque<Record>,
}

impl Sandbox {
    /// Starts a sandbox and loads one component into it.
    pub fn load(source: &Source, world: PluginWorld, limits: &Limits, component: &[u8]) -> Result<Self, WorkerError> {
        let mut worker = source.start()?;
        worker.channel.send_with(&ToSandbox::Load { world, limits: limits.clone() }, component, &[])?;
        match receive(&mut worker)? {
            (FromSandbox::Loaded(description), _) => Ok(Self { worker, description, next_batch: 0 }),
            (FromSandbox::Refused { reason } | FromSandbox::Failed { reason }, _) => Err(WorkerError::Refused(reason)),
            (other, _) => Err(WorkerError::OutOfTurn(format!("{other:?}"))),
        }
    }

    /// What the plugin says of itself.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Runs the plugin over records.
    pub fn run(&mut self, records: &[Record]) -> Result<Batch, WorkerError> {
        let batch = self.next_batch;
        self.next_batch += 1;
        let lines = to_lines(records).map_err(|error| WorkerError::OutOfTurn(error.to_string()))?;
        self.worker.channel.send_with(&ToSandbox::Run { batch }, &lines, &[])?;
        match receive(&mut self.worker)? {
            (FromSandbox::Ran { batch: answered, outcomes }, blob) if answered == batch => {
                let kept = from_lines(&blob).map_err(|error| WorkerError::OutOfTurn(error.to_string()))?;
                check_rows(records, &outcomes)?;
                Ok(Batch { outcomes, kept })
            }
            (FromSandbox::Failed { reason }, _) => Err(WorkerError::Refused(reason)),
            _ => Err(WorkerError::OutOfTurn("an answer to another batch".into())),
        }
    }
}

/// A sandbox speaks for exactly the records that it was given: a hostile one can add or hide none.
fn check_rows(records: &[Record], outcomes: &[Outcome]) -> Result<(), WorkerError> {
    let same = records.len() == outcomes.len() && records.iter().zip(outcomes).all(|(r, o)| r.row == o.row);
    if same { Ok(()) } else { Err(WorkerError::OutOfTurn("rows that it was not given".into())) }
}

fn receive(worker: &mut Worker) -> Result<(FromSandbox, Vec<u8>), WorkerError> {
    match worker.channel.recv::<FromSandbox>()? {
        Some(frame) => Ok((frame.message, frame.blob)),
        None => Err(WorkerError::Lost(worker.how_it_ended())),
    }
}

/// Records as JSON Lines.
pub fn to_lines(records: &[Record]) -> Result<Vec<u8>, serde_json::Error> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Records from JSON Lines.
pub fn from_lines(bytes: &[u8]) -> Result<VecDeque<Record>, serde_json::Error> {
    serde_json::Deserializer::from_slice(bytes).into_iter().collect()
}
