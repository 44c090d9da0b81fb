//! Ingest: a file becomes a [`RawSet`], on disk only under a key of its own that sealing destroys.
//!
//! A file is taken whole or not at all, unless the importer asked to skip bad rows; each refusal names its row
//! and never shows its text.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};

use cloister_vault::{KeyInfo, KeyKind};
use cloister_wire::admin::{Dataset, DatasetState, Format, ImportSpec, ObjectRef, SkippedRow};
use cloister_wire::recipe::valid_name;
use cloister_wire::record::{Message, Record};
use serde_json::json;

use super::check::dataset_resource;
use super::{Act, Appliance, key_id, now};
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::policy::Action;

mod rows;

/// A row may not be longer: what is, is a broken file or an attack on memory.
pub const MAX_ROW_BYTES: usize = 512 << 10;
/// Skipped rows that the catalog remembers.
const SKIPPED_KEPT: usize = 100;

/// Records as they came, not yet looked at by any plugin.
#[derive(Debug)]
pub struct RawSet {
    dataset: Dataset,
    object: ObjectRef,
}

impl RawSet {
    /// The raw records of a dataset that is not sealed yet.
    pub fn of(dataset: Dataset) -> Result<Self> {
        match (dataset.state, dataset.object.clone()) {
            (DatasetState::Raw, Some(object)) => Ok(Self { dataset, object }),
            (DatasetState::Sealed, _) => {
                Err(Error::conflict(format!("dataset `{}` is cleaned and sealed already", dataset.name))
                    .remedy("import the file under another name to clean it differently"))
            }
            _ => Err(Error::not_found("dataset", &dataset.name)),
        }
    }

    /// What the catalog knows of it.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Where the raw records lie.
    pub fn object(&self) -> &ObjectRef {
        &self.object
    }
}

/// Takes a file in.
///
/// # Errors
/// `Conflict` for a name in use; `Invalid` with the row and the reason; `Denied`; the vault's.
pub fn ingest(a: &Appliance, who: &Principal, name: &str, spec: &ImportSpec, content: impl Read) -> Result<Dataset> {
    valid_name(name).map_err(|why| Error::invalid(format!("the dataset's name {why}")))?;
    if spec.purposes.is_empty() {
        return Err(Error::invalid("a dataset needs at least one purpose")
            .remedy("add `--purpose`, such as `--purpose clinical-notes`"));
    }
    let _reserved = a.reserve("dataset", name)?;
    if a.catalog.find::<Dataset>(name)?.is_some_and(|d| d.state != DatasetState::Shredded) {
        return Err(Error::conflict(format!("there is a dataset `{name}` already"))
            .remedy(format!("choose another name, or `cloister dataset rm {name}` first")));
    }
    let mut dataset = Dataset {
        name: name.into(),
        state: DatasetState::Raw,
        label: spec.label,
        purposes: spec.purposes.clone(),
        records_in: 0,
        skipped: Vec::new(),
        records: 0,
        cleaning: None,
        object: None,
        digest: None,
        owner: who.name.clone(),
        imported_at: now(),
    };
    let act = Act::new(Action::ImportDataset, dataset_resource(&dataset))
        .details(json!({"label": spec.label, "purposes": spec.purposes, "format": spec.format}));
    a.act(who, act, || {
        let object = store(a, &mut dataset, spec, content)?;
        dataset.object = Some(object);
        a.catalog.put(&dataset)?;
        Ok(dataset)
    })
}

/// Writes the records under a new key; on any error the key is destroyed again.
fn store(a: &Appliance, dataset: &mut Dataset, spec: &ImportSpec, content: impl Read) -> Result<ObjectRef> {
    let info =
        KeyInfo { name: format!("{} (raw)", dataset.name), kind: KeyKind::Dataset, owner: dataset.owner.clone() };
    let key = a.vault.new_key(info)?;
    let object = ObjectRef { object: format!("dataset/{}/raw/{key}", dataset.name), key: key.to_string() };
    let written = write_records(a, dataset, spec, content, &object);
    if written.is_err()
        && let Err(error) = a.vault.shred(&key)
    {
        log::warn!("a key of a refused import was not destroyed, the next start does it: {error}");
    }
    written.map(|()| object)
}

fn write_records(
    a: &Appliance,
    dataset: &mut Dataset,
    spec: &ImportSpec,
    content: impl Read,
    object: &ObjectRef,
) -> Result<()> {
    let mut writer = a.vault.writer(&object.object, &key_id(&object.key)?)?;
    let mut line = Vec::new();
    each_row(spec, content, |row, parsed| match parsed.and_then(|record| acceptable(&record).map(|()| record)) {
        Ok(record) => {
            line.clear();
            serde_json::to_writer(&mut line, &record).map_err(|error| Error::failed(error.to_string()))?;
            line.push(b'\n');
            writer.write_all(&line).map_err(no_room)?;
            dataset.records_in += 1;
            Ok(())
        }
        Err(reason) if spec.skip_bad_rows => {
            if dataset.skipped.len() < SKIPPED_KEPT {
                dataset.skipped.push(SkippedRow { row, reason });
            }
            Ok(())
        }
        Err(reason) => Err(Error::invalid(format!("row {row}: {reason}"))
            .remedy("mend the row, or add `--skip-bad-rows` to leave such rows out; nothing was imported")),
    })?;
    if dataset.records_in == 0 {
        return Err(
            Error::invalid("the file holds no usable record").remedy("check `--format`, `--prompt` and `--answer`")
        );
    }
    writer.commit()?;
    Ok(())
}

/// A full disk is told as such.
pub(super) fn no_room(error: std::io::Error) -> Error {
    let full = error.kind() == std::io::ErrorKind::StorageFull;
    let error = Error::failed(format!("the sealed object could not be written: {error}"));
    if full { error.remedy("free some room on the state folder's disk, then repeat; nothing was kept") } else { error }
}

fn acceptable(record: &Record) -> std::result::Result<(), String> {
    let Some((prompt, answer)) = record.split_answer() else {
        return Err("the last message is not the assistant's".into());
    };
    if answer.content.trim().is_empty() {
        return Err("the answer is empty".into());
    }
    if prompt.iter().any(|m| !["system", "user", "assistant"].contains(&m.role.as_str())) {
        return Err("a message's role is none of system, user, assistant".into());
    }
    if prompt.iter().any(|m| m.role == "user" && m.content.trim().is_empty()) {
        return Err("the prompt is empty".into());
    }
    let bytes: usize = record.messages.iter().map(|m| m.content.len()).sum();
    if bytes > MAX_ROW_BYTES {
        return Err(format!("it is {bytes} bytes long; the limit is {MAX_ROW_BYTES}"));
    }
    Ok(())
}

type Parsed = std::result::Result<Record, String>;

/// Calls `take` for each row with its record, or with the reason why there is none.
fn each_row(spec: &ImportSpec, content: impl Read, mut take: impl FnMut(u64, Parsed) -> Result<()>) -> Result<()> {
    let shape = rows::Shape::new(spec);
    let mut content = BufReader::with_capacity(1 << 16, content);
    skip_byte_order_mark(&mut content)?;
    match spec.format {
        Format::Csv => rows::csv(&shape, content, &mut take),
        Format::Jsonl => rows::json_lines(&shape, content, &mut take),
        Format::Text => rows::documents(content, &mut take),
    }
}

fn skip_byte_order_mark(content: &mut impl BufRead) -> Result<()> {
    let begins = content.fill_buf().map_err(|error| Error::invalid(format!("the upload broke off: {error}")))?;
    if begins.starts_with(&[0xef, 0xbb, 0xbf]) {
        content.consume(3);
    }
    Ok(())
}

/// The usual column of a prompt, and of an answer.
fn first_of<'a>(names: &[&'a str], present: &BTreeSet<String>) -> Option<&'a str> {
    names.iter().copied().find(|name| present.contains(*name))
}

/// With the system message that the importer gave.
fn conversation(system: Option<&str>, user: String, answer: String) -> Vec<Message> {
    let system = system.map(|text| Message::new("system", text));
    system.into_iter().chain([Message::new("user", user), Message::new("assistant", answer)]).collect()
}
