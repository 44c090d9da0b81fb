//! Clean: every record goes through sandboxed plugins; what comes out is encrypted at once.
//!
//! Cleaners run in order, then run once more over what they made (what they still find there is the residue that
//! policy looks at), then scorers. A record that a plugin failed on is dropped and counted, never passed on.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};

use cloister_vault::{KeyInfo, KeyKind};
use cloister_wire::admin::{CleanSpec, Cleaning, Dataset, JobProgress, ObjectRef};
use cloister_wire::record::Record;
use cloister_wire::sandbox::{PluginWorld, RecordResult};

use super::ingest::{RawSet, no_room};
use super::{Appliance, Control, key_id, plugins};
use crate::error::{Error, Result};
use crate::workers::sandbox::Sandbox;

/// A run fails when more than this part of the records would be dropped, unless asked otherwise.
const MOST_DROPPED: f64 = 0.5;

/// Different reasons for dropping that are kept apart; the rest is counted as [`OTHER`]. A plugin chooses its
/// reasons, and one a record would be a way out for the record's text.
const MOST_REASONS: usize = 16;
const OTHER: &str = "other";

/// Records as the plugins left them, encrypted, and what was found. Dropped unsealed, its key is destroyed.
#[derive(Debug)]
pub struct CleanSet {
    dataset: Dataset,
    raw: ObjectRef,
    object: ObjectRef,
    digest: String,
}

impl CleanSet {
    /// What the catalog will know of it.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// SHA-256 of the cleaned records, hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The dataset, the raw object, the clean object and its digest.
    pub(super) fn into_parts(self) -> (Dataset, ObjectRef, ObjectRef, String) {
        (self.dataset, self.raw, self.object, self.digest)
    }

    /// Destroys what was made, when it may not be sealed.
    pub fn discard(self, a: &Appliance) -> Result<()> {
        super::seal::destroy(a, &self.object)
    }
}

/// Runs the plugins over raw records.
///
/// # Errors
/// `Invalid` when too much would be dropped or nothing is left; `Lost` when a sandbox died; `Stopped`.
pub fn clean(a: &Appliance, raw: &RawSet, spec: &CleanSpec, control: &dyn Control) -> Result<CleanSet> {
    let mut line = Line::start(a, spec)?;
    let dataset = raw.dataset();
    let info = KeyInfo { name: dataset.name.clone(), kind: KeyKind::Dataset, owner: dataset.owner.clone() };
    let key = a.vault.new_key(info)?;
    let object = ObjectRef { object: format!("dataset/{}/{key}", dataset.name), key: key.to_string() };
    let made = run(a, raw, spec, control, &mut line, &object);
    if made.is_err()
        && let Err(error) = a.vault.shred(&key)
    {
        log::warn!("a key of a failed cleaning was not destroyed, the next start does it: {error}");
    }
    made
}

fn run(
    a: &Appliance,
    raw: &RawSet,
    spec: &CleanSpec,
    control: &dyn Control,
    line: &mut Line,
    object: &ObjectRef,
) -> Result<CleanSet> {
    let mut dataset = raw.dataset().clone();
    let mut reader = Records::new(BufReader::new(a.open(raw.object())?));
    let mut writer = a.vault.writer(&object.object, &key_id(&object.key)?)?;
    let mut done = 0;
    loop {
        if control.stop().requested() {
            return Err(Error::Stopped);
        }
        let batch = reader.batch(a.batch_records)?;
        if batch.is_empty() {
            break;
        }
        done += batch.len() as u64;
        for record in line.pass(batch)? {
            dataset.records += 1;
            let mut bytes = serde_json::to_vec(&record).map_err(|error| Error::failed(error.to_string()))?;
            bytes.push(b'\n');
            writer.write_all(&bytes).map_err(no_room)?;
        }
        control.progress(JobProgress::Records { done, total: dataset.records_in, stage: "clean".into() });
    }
    enough_left(&dataset, spec, &line.cleaning)?;
    let committed = writer.commit()?;
    dataset.cleaning = Some(line.finish());
    Ok(CleanSet { dataset, raw: raw.object().clone(), object: object.clone(), digest: committed.digest_hex() })
}

fn enough_left(dataset: &Dataset, spec: &CleanSpec, cleaning: &Cleaning) -> Result<()> {
    let dropped: u64 = cleaning.dropped.values().sum();
    let most = spec.most_dropped.unwrap_or(MOST_DROPPED);
    let reasons = cleaning.dropped.iter().map(|(why, n)| format!("{why}: {n}")).collect::<Vec<_>>().join(", ");
    if dataset.records == 0 {
        return Err(Error::invalid(format!(
            "nothing is left of dataset `{}` after cleaning ({reasons})",
            dataset.name
        ))
        .remedy("look at the reasons; `cloister plugin test` shows what a plugin does to a record"));
    }
    if dropped as f64 > most * dataset.records_in as f64 {
        return Err(Error::invalid(format!(
            "cleaning would drop {dropped} of {} records ({reasons})",
            dataset.records_in
        ))
        .remedy("look at the reasons, or allow more with `--most-dropped`"));
    }
    Ok(())
}

/// Records from JSON Lines, a batch at a time.
struct Records<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: BufRead> Records<R> {
    fn new(reader: R) -> Self {
        Self { reader, line: Vec::new() }
    }

    fn batch(&mut self, most: usize) -> Result<Vec<Record>> {
        let mut batch = Vec::new();
        while batch.len() < most {
            self.line.clear();
            let read = self.reader.read_until(b'\n', &mut self.line);
            if read.map_err(|error| Error::failed(format!("the raw records do not open: {error}")))? == 0 {
                break;
            }
            let record = serde_json::from_slice(&self.line);
            batch.push(record.map_err(|_| Error::failed("a sealed record does not parse"))?);
        }
        Ok(batch)
    }
}

/// The plugins in a row, and what they have done so far.
struct Line {
    cleaners: Vec<Sandbox>,
    scorers: Vec<Sandbox>,
    minimum: BTreeMap<String, f64>,
    keep_duplicates: bool,
    seen: HashSet<u64>,
    score_sums: BTreeMap<String, (f64, u64)>,
    cleaning: Cleaning,
}

impl Line {
    fn start(a: &Appliance, spec: &CleanSpec) -> Result<Self> {
        let mut line = Self {
            cleaners: Vec::new(),
            scorers: Vec::new(),
            minimum: spec.minimum.clone(),
            keep_duplicates: spec.keep_duplicates,
            seen: HashSet::new(),
            score_sums: BTreeMap::new(),
            cleaning: Cleaning::default(),
        };
        for plugin in plugins::wanted(a, &spec.plugins)? {
            let sandbox = plugins::load(a, &plugin)?;
            line.cleaning.plugins.push(format!("{}@{}", plugin.name, plugin.manifest.version));
            match plugin.manifest.world {
                PluginWorld::Cleaner => line.cleaners.push(sandbox),
                PluginWorld::Scorer => line.scorers.push(sandbox),
            }
        }
        let known: HashSet<&String> = line.scorers.iter().flat_map(|s| &s.description().gives).collect();
        if let Some(unknown) = spec.minimum.keys().find(|name| !known.contains(name)) {
            return Err(Error::invalid(format!("no scorer gives a score `{unknown}`"))
                .remedy(format!("the scores are {:?}", known)));
        }
        Ok(line)
    }

    /// One batch through all plugins.
    fn pass(&mut self, records: Vec<Record>) -> Result<Vec<Record>> {
        let examined = records.len() as u64;
        let mut records = records;
        for cleaner in &mut self.cleaners {
            records = apply(cleaner, records, &mut self.cleaning, Pass::Clean)?;
        }
        for cleaner in &mut self.cleaners {
            records = apply(cleaner, records, &mut self.cleaning, Pass::Residue)?;
        }
        records = self.score(records)?;
        self.cleaning.examined += examined;
        Ok(records)
    }

    fn score(&mut self, mut records: Vec<Record>) -> Result<Vec<Record>> {
        for scorer in &mut self.scorers {
            let outcomes = scorer.run(&records)?.outcomes;
            let mut kept = Vec::with_capacity(records.len());
            for (record, outcome) in records.into_iter().zip(outcomes) {
                let reason = match outcome.result {
                    RecordResult::Scored { scores, fingerprint } => {
                        for (name, value) in &scores {
                            let sum = self.score_sums.entry(name.clone()).or_default();
                            *sum = (sum.0 + value, sum.1 + 1);
                        }
                        let low = scores.iter().find(|(name, value)| {
                            self.minimum.get(name).is_some_and(|least| value.is_nan() || value < least)
                        });
                        let seen = fingerprint.is_some_and(|mark| !self.seen.insert(mark));
                        match low {
                            Some((name, _)) => Some(format!("low-{name}")),
                            None if seen && !self.keep_duplicates => Some("duplicate".into()),
                            None => None,
                        }
                    }
                    other => Some(dropped_because(other)),
                };
                match reason {
                    Some(reason) => count_dropped(&mut self.cleaning.dropped, reason),
                    None => kept.push(record),
                }
            }
            records = kept;
        }
        Ok(records)
    }

    fn finish(&mut self) -> Cleaning {
        let mut cleaning = std::mem::take(&mut self.cleaning);
        cleaning.scores = self.score_sums.iter().map(|(name, (sum, n))| (name.clone(), sum / *n as f64)).collect();
        cleaning
    }
}

/// The two passes of a cleaner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Clean,
    Residue,
}

fn apply(cleaner: &mut Sandbox, records: Vec<Record>, cleaning: &mut Cleaning, pass: Pass) -> Result<Vec<Record>> {
    let batch = cleaner.run(&records)?;
    let mut kept = batch.kept;
    let mut out = Vec::with_capacity(records.len());
    for outcome in batch.outcomes {
        match outcome.result {
            RecordResult::Kept { findings } => {
                let record = kept.pop_front().filter(|record| record.row == outcome.row);
                out.push(record.ok_or_else(|| Error::failed("the sandbox kept a record and did not return it"))?);
                match pass {
                    Pass::Clean => {
                        findings.into_iter().for_each(|f| *cleaning.findings.entry(f.kind).or_default() += 1)
                    }
                    Pass::Residue => cleaning.residual_findings += findings.len() as u64,
                }
            }
            other => count_dropped(&mut cleaning.dropped, dropped_because(other)),
        }
    }
    Ok(out)
}

fn count_dropped(dropped: &mut BTreeMap<String, u64>, reason: String) {
    let known = dropped.contains_key(&reason) || dropped.len() < MOST_REASONS;
    *dropped.entry(if known { reason } else { OTHER.into() }).or_default() += 1;
}

/// A short word for why a record did not get through.
fn dropped_because(result: RecordResult) -> String {
    match result {
        RecordResult::Dropped { reason } => reason.chars().take(40).collect(),
        RecordResult::Failed { reason } => {
            format!("plugin-{}", reason.split([':', ' ']).next().unwrap_or("failed"))
        }
        RecordResult::Kept { .. } | RecordResult::Scored { .. } => "plugin-invalid".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_cannot_give_every_record_a_reason_of_its_own() {
        let mut dropped = BTreeMap::new();
        for row in 0..1000 {
            count_dropped(&mut dropped, format!("mrs-canary-{row}"));
        }
        assert_eq!(dropped.len(), MOST_REASONS + 1);
        assert_eq!(dropped.values().sum::<u64>(), 1000);
    }
}
