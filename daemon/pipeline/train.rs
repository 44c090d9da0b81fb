//! Train: sealed records and a recipe become an adapter, encrypted as it is written.
//!
//! The engine sees records as they stream by and never a key; what it sends back (checkpoints, the adapter's
//! files) goes straight into sealed objects. A checkpoint counts from the moment the job's entry names it, so
//! that a death at any point leaves either the one before or this one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};

use cloister_vault::{KeyId, KeyInfo, KeyKind, ObjectWriter};
use cloister_wire::admin::{Adapter, AdapterImport, Dataset, Job, JobProgress, Label, Model, ObjectRef};
use cloister_wire::engine::{FromEngine, RecordSet, ToEngine, TrainSummary, TrainTask};
use cloister_wire::recipe::{HeldOut, Recipe};
use cloister_wire::record::Record;
use ring::digest::{Context, SHA256};

use super::check::{self, Clearance};
use super::ingest::no_room;
use super::seal::SealedSet;
use super::{Appliance, Control, key_id, models, now};
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::policy::Action;
use crate::workers::engine::{Engine, out_of_turn};

/// The two files of a PEFT adapter.
pub const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Says no at once to what could not be trained, before a job exists.
pub fn admit(a: &Appliance, who: &Principal, recipe: &Recipe) -> Result<()> {
    let dataset =
        a.catalog.find::<Dataset>(&recipe.dataset)?.ok_or_else(|| Error::not_found("dataset", &recipe.dataset))?;
    a.allow(who, &check::training(&dataset, recipe.purpose.as_deref()))?;
    models::find(a, &recipe.base)?;
    if a.catalog.find::<Adapter>(&recipe.name)?.is_some() {
        return Err(Error::conflict(format!("there is an adapter `{}` already", recipe.name))
            .remedy(format!("change `name` in the recipe, or `cloister adapter rm {}` first", recipe.name)));
    }
    Input::find(a, who, recipe).map(|_| ())
}

/// The records of a run, each cleared.
struct Input {
    train: SealedSet,
    held_out: Option<SealedSet>,
    clearance: Clearance,
}

impl Input {
    fn find(a: &Appliance, who: &Principal, recipe: &Recipe) -> Result<Self> {
        let purpose = recipe.purpose.as_deref();
        let train = SealedSet::find(a, &recipe.dataset)?;
        let clearance = check::for_training(a, who, &train, purpose)?;
        let held_out = match &recipe.held_out {
            HeldOut::Fraction(_) => None,
            HeldOut::Dataset(name) => {
                let held_out = SealedSet::find(a, name)?;
                check::for_training(a, who, &held_out, purpose)?.covers(held_out.digest())?;
                Some(held_out)
            }
        };
        Ok(Self { train, held_out, clearance })
    }

    /// The strictest label of all records, and the purposes that all of them allow.
    fn inherited(&self) -> (Label, std::collections::BTreeSet<String>) {
        let dataset = self.train.dataset();
        let label = self.held_out.iter().map(|set| set.dataset().label).fold(dataset.label, Label::max);
        (label, dataset.purposes.clone())
    }
}

/// Runs a training job to its end, or to where it was stopped.
///
/// # Errors
/// `Denied`, when policy has changed its mind; `Invalid`, when recipe, model and records do not fit; `Lost`, when
/// the engine died; `Stopped`, after a checkpoint.
pub fn train(a: &Appliance, who: &Principal, job: &Job, recipe: &Recipe, control: &dyn Control) -> Result<Adapter> {
    let _reserved = a.reserve("adapter", &recipe.name)?;
    if let Some(adapter) = a.catalog.find::<Adapter>(&recipe.name)? {
        // The daemon died between the adapter's entry and the job's: nothing is left to do.
        return Ok(adapter);
    }
    let input = Input::find(a, who, recipe)?;
    input.clearance.covers(input.train.digest())?;
    let model = models::find(a, &recipe.base)?;
    let files = models::open(a, &model)?;
    let mut engine = Engine::open(&a.workers, &files, &recipe.device, recipe.quantization)?;
    let remote = engine.remote();
    control.stop().on_request(move || {
        if remote.send(&ToEngine::Stop).is_err() {
            log::debug!("the engine was gone before it could be asked to stop");
        }
    });
    let key = key_of(a, who, job, recipe)?;
    let mut run =
        Run { a, job, control, key: &key, writer: None, files: BTreeMap::new(), checkpoint: job.checkpoint.clone() };
    let summary = match feed(a, &engine, job, recipe, &input) {
        Ok(()) => run.follow(&mut engine),
        // An engine that gave up has said why before it closed the socket.
        Err(error) => Err(engine.recv().err().map_or(error, Error::from)),
    };
    if summary.is_err() && run.checkpoint.is_none() {
        // Nothing under this key is of use: the next attempt makes its own.
        run.writer = None;
        if let Err(error) = a.vault.shred(&key) {
            log::warn!("a key of a failed training was not destroyed, the next start does it: {error}");
        }
    }
    let summary = summary?;
    let (label, purposes) = input.inherited();
    let mut adapter = Adapter {
        name: recipe.name.clone(),
        base: model.name,
        base_digest: model.digest,
        label,
        purposes,
        datasets: [&input.train].into_iter().chain(&input.held_out).map(|set| set.dataset().name.clone()).collect(),
        recipe: Some(recipe.clone()),
        trained_by: who.name.clone(),
        trained_at: now(),
        summary: Some(summary),
        digest: String::new(),
        files: BTreeMap::new(),
        evaluation: None,
        approvals: Vec::new(),
    };
    set_files(&mut adapter, run.files);
    complete(&adapter)?;
    a.catalog.put(&adapter)?;
    Ok(adapter)
}

fn complete(adapter: &Adapter) -> Result<()> {
    match ADAPTER_FILES.iter().find(|name| !adapter.files.contains_key(**name)) {
        Some(missing) => Err(Error::failed(format!("the engine did not write `{missing}`"))),
        None => Ok(()),
    }
}

/// The key of a job's checkpoints and of the adapter it will make.
fn key_of(a: &Appliance, who: &Principal, job: &Job, recipe: &Recipe) -> Result<KeyId> {
    match &job.checkpoint {
        Some(checkpoint) => key_id(&checkpoint.key),
        None => Ok(a.vault.new_key(KeyInfo {
            name: recipe.name.clone(),
            kind: KeyKind::Adapter,
            owner: who.name.clone(),
        })?),
    }
}

fn feed(a: &Appliance, engine: &Engine, job: &Job, recipe: &Recipe, input: &Input) -> Result<()> {
    let resume = job.checkpoint.is_some();
    engine.send(&ToEngine::Train(TrainTask { recipe: recipe.clone(), resume }))?;
    let part = held_out_part(recipe);
    let train = Split { seed: recipe.seed, part, side: RecordSet::Train };
    engine.send_records(RecordSet::Train, train.of(a.open(input.train.object())?))?;
    let (held_out, split) = match &input.held_out {
        Some(other) => (other, Split { part: 1.0, side: RecordSet::HeldOut, ..train }),
        None => (&input.train, Split { side: RecordSet::HeldOut, ..train }),
    };
    engine.send_records(RecordSet::HeldOut, split.of(a.open(held_out.object())?))?;
    if let Some(checkpoint) = &job.checkpoint {
        engine.remote().send_file("checkpoint", a.open(checkpoint)?)?;
    }
    engine.send(&ToEngine::Begin)?;
    Ok(())
}

/// The part of the training dataset that is held out.
pub(super) fn held_out_part(recipe: &Recipe) -> f64 {
    match recipe.held_out {
        HeldOut::Fraction(part) => part,
        HeldOut::Dataset(_) => 0.0,
    }
}

/// One side of a split by seed and content: a record is on the same side whatever stands around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    pub(super) seed: u64,
    /// Part that is held out, 0 to 1.
    pub(super) part: f64,
    pub(super) side: RecordSet,
}

impl Split {
    /// The lines of this side.
    pub(super) fn of(self, lines: impl Read) -> impl Read {
        SplitReader { split: self, lines: BufReader::with_capacity(1 << 18, lines), line: Vec::new(), at: 0 }
    }

    fn takes(&self, line: &[u8]) -> std::io::Result<bool> {
        let broken = |_| std::io::Error::other("a sealed record does not parse");
        let record: Record = serde_json::from_slice(line).map_err(broken)?;
        let mut context = Context::new(&SHA256);
        context.update(&self.seed.to_le_bytes());
        context.update(&serde_json::to_vec(&record.messages).map_err(broken)?);
        let mut first = [0u8; 8];
        first.copy_from_slice(&context.finish().as_ref()[..8]);
        // 53 bits are exact in a float.
        let drawn = (u64::from_le_bytes(first) >> 11) as f64 / (1u64 << 53) as f64;
        Ok((drawn < self.part) == (self.side == RecordSet::HeldOut))
    }
}

struct SplitReader<R> {
    split: Split,
    lines: BufReader<R>,
    line: Vec<u8>,
    at: usize,
}

impl<R: Read> Read for SplitReader<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.line.len() {
            self.line.clear();
            self.at = 0;
            if self.lines.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(0);
            }
            if !self.split.takes(&self.line)? {
                self.line.clear();
            }
        }
        let count = out.len().min(self.line.len() - self.at);
        out[..count].copy_from_slice(&self.line[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// A run that is under way.
struct Run<'a> {
    a: &'a Appliance,
    job: &'a Job,
    control: &'a dyn Control,
    key: &'a KeyId,
    writer: Option<(ObjectRef, ObjectWriter)>,
    /// The adapter's finished files: where each lies, and its digest.
    files: BTreeMap<String, (ObjectRef, String)>,
    checkpoint: Option<ObjectRef>,
}

impl Run<'_> {
    fn follow(&mut self, engine: &mut Engine) -> Result<TrainSummary> {
        loop {
            let (message, blob) = engine.recv()?;
            match message {
                FromEngine::Opened(_) => {}
                FromEngine::Progress(step) => self.control.progress(JobProgress::Step(step)),
                FromEngine::HeldOut(loss) => self.control.progress(JobProgress::HeldOut(loss)),
                FromEngine::CheckpointBegin { step } => self.begin(format!("{}/checkpoint/{step}", self.job.id))?,
                FromEngine::File(piece) => {
                    self.write(&piece.name, &blob)?;
                    if piece.last && piece.name != "checkpoint" {
                        self.end_file(&piece.name)?;
                    }
                }
                FromEngine::CheckpointEnd { step } => self.end_checkpoint(step)?,
                FromEngine::Trained(summary) => return Ok(summary),
                FromEngine::Stopped { .. } => return Err(Error::Stopped),
                other => return Err(out_of_turn(&other).into()),
            }
        }
    }

    fn begin(&mut self, name: String) -> Result<()> {
        let object = ObjectRef { object: name, key: self.key.to_string() };
        let writer = self.a.vault.writer(&object.object, self.key)?;
        self.writer = Some((object, writer));
        Ok(())
    }

    fn write(&mut self, name: &str, blob: &[u8]) -> Result<()> {
        if self.writer.is_none() {
            if !ADAPTER_FILES.contains(&name) {
                return Err(Error::failed("the engine sent a file that nobody asked for"));
            }
            self.begin(format!("{}/adapter/{name}", self.job.id))?;
        }
        match &mut self.writer {
            Some((_, writer)) => writer.write_all(blob).map_err(no_room),
            None => Ok(()),
        }
    }

    fn end_file(&mut self, name: &str) -> Result<()> {
        if let Some((object, writer)) = self.writer.take() {
            self.files.insert(name.into(), (object, writer.commit()?.digest_hex()));
        }
        Ok(())
    }

    fn end_checkpoint(&mut self, step: u64) -> Result<()> {
        let Some((object, writer)) = self.writer.take() else {
            return Err(Error::failed("the engine ended a checkpoint that it had not begun"));
        };
        writer.commit()?;
        self.control.checkpoint(step, object.clone())?;
        if let Some(before) = self.checkpoint.replace(object.clone())
            && before.object != object.object
        {
            self.a.vault.remove_object(&before.object)?;
        }
        Ok(())
    }
}

/// One digest for an adapter: of lines `name digest`, in the names' order.
fn digest_of(files: &BTreeMap<String, (ObjectRef, String)>) -> String {
    let lines: String = files.iter().map(|(name, (_, digest))| format!("{name} {digest}\n")).collect();
    cloister_vault::hex::encode(ring::digest::digest(&SHA256, lines.as_bytes()).as_ref())
}

/// Removes an adapter: its key is destroyed.
pub fn remove(a: &Appliance, who: &Principal, name: &str) -> Result<()> {
    let _reserved = a.reserve("adapter", name)?;
    let adapter = find(a, name)?;
    if a.catalog.find::<cloister_wire::admin::Deployment>(name)?.is_some() {
        return Err(
            Error::conflict(format!("adapter `{name}` is served")).remedy(format!("`cloister undeploy {name}` first"))
        );
    }
    let act = check::adapter_act(a, Action::RemoveAdapter, &adapter)?;
    a.act(who, act, || {
        for object in adapter.files.values() {
            super::seal::destroy(a, object)?;
        }
        a.catalog.remove::<Adapter>(name)?;
        Ok(())
    })
}

/// The entry of an adapter from elsewhere, before its files are sealed.
pub fn imported(name: &str, model: &Model, import: &AdapterImport, by: &str, at: String) -> Adapter {
    Adapter {
        name: name.into(),
        base: model.name.clone(),
        base_digest: model.digest.clone(),
        label: import.label,
        purposes: import.purposes.clone(),
        datasets: Vec::new(),
        recipe: None,
        trained_by: by.into(),
        trained_at: at,
        summary: None,
        files: BTreeMap::new(),
        digest: String::new(),
        evaluation: None,
        approvals: Vec::new(),
    }
}

/// Gives an adapter its sealed files, and the digest over them.
pub fn set_files(adapter: &mut Adapter, files: BTreeMap<String, (ObjectRef, String)>) {
    adapter.digest = digest_of(&files);
    adapter.files = files.into_iter().map(|(name, (object, _))| (name, object)).collect();
}

/// An adapter by name.
pub fn find(a: &Appliance, name: &str) -> Result<Adapter> {
    a.catalog.find::<Adapter>(name)?.ok_or_else(|| Error::not_found("adapter", name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use cloister_wire::record::Message;

    fn lines(n: u64) -> Vec<u8> {
        let record = |row| Record {
            row,
            messages: vec![Message::new("user", format!("q{row}")), Message::new("assistant", "a")],
        };
        (1..=n).flat_map(|row| serde_json::to_vec(&record(row)).unwrap().into_iter().chain([b'\n'])).collect()
    }

    fn side(content: &[u8], side: RecordSet) -> String {
        let mut out = String::new();
        Split { seed: 7, part: 0.25, side }.of(content).read_to_string(&mut out).unwrap();
        out
    }

    #[test]
    fn a_split_takes_every_record_on_one_side_and_near_the_part() {
        let content = lines(2000);
        let (train, held) = (side(&content, RecordSet::Train), side(&content, RecordSet::HeldOut));
        assert_eq!(train.lines().count() + held.lines().count(), 2000);
        assert!((400..600).contains(&held.lines().count()), "{}", held.lines().count());
    }

    #[test]
    fn a_record_keeps_its_side_when_others_come_or_go() {
        let held = side(&lines(100), RecordSet::HeldOut);
        assert!(side(&lines(200), RecordSet::HeldOut).starts_with(&held));
    }
}
