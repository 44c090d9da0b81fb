//! Sealed things that a person may look at, take out or bring in, if policy lets them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloister_vault::{KeyInfo, KeyKind};
use cloister_wire::admin as wire;
use cloister_wire::admin::ObjectRef;
use cloister_wire::recipe::valid_name;
use cloister_wire::record::Record;
use serde_json::json;

use crate::access::Principal;
use crate::error::{Error, Result};
use crate::pipeline::check::{adapter_act, dataset_resource};
use crate::pipeline::seal::SealedSet;
use crate::pipeline::train::{ADAPTER_FILES, find, imported};
use crate::pipeline::{Act, Appliance, key_id, models, now};
use crate::policy::{self, Action, Resource};

/// Most records of one look.
const MOST: usize = 100;

/// The first records of a sealed dataset.
pub(super) fn sample(a: &Appliance, who: &Principal, name: &str, n: usize) -> Result<Vec<Record>> {
    let entry = a.catalog.find::<wire::Dataset>(name)?.ok_or_else(|| Error::not_found("dataset", name))?;
    let act = Act::new(Action::SampleDataset, dataset_resource(&entry)).details(json!({"records": n.min(MOST)}));
    a.act(who, act, || {
        let sealed = SealedSet::of(entry)?;
        let lines = BufReader::new(a.open(sealed.object())?).lines().take(n.min(MOST));
        lines
            .map(|line| {
                let line = line.map_err(|error| Error::failed(format!("the sealed records do not open: {error}")))?;
                serde_json::from_str(&line).map_err(|_| Error::failed("a sealed record does not parse"))
            })
            .collect()
    })
}

/// An adapter's two files.
pub(super) fn export(a: &Appliance, who: &Principal, name: &str) -> Result<wire::AdapterFiles> {
    let adapter = find(a, name)?;
    a.act(who, adapter_act(a, Action::ExportAdapter, &adapter)?, || {
        let mut files = BTreeMap::new();
        for (file, object) in &adapter.files {
            let mut bytes = Vec::new();
            a.open(object)?
                .read_to_end(&mut bytes)
                .map_err(|error| Error::failed(format!("`{file}` does not open: {error}")))?;
            files.insert(file.clone(), STANDARD.encode(bytes));
        }
        Ok(wire::AdapterFiles { files })
    })
}

/// May this person bring any adapter in? Asked before its files are read, when only its name is known.
pub(super) fn may_import(a: &Appliance, who: &Principal, name: &str) -> Result<()> {
    let unread = policy::Adapter { id: name.into(), label: wire::Label::Phi, ..policy::Adapter::default() };
    a.allow(who, &Act::new(Action::ImportAdapter, Resource::Adapter(unread)))
}

/// Brings a PEFT adapter in. What it was trained on is the importer's word, so its label is the strictest that they
/// dare to leave off; whether its tensors fit its base is told when it is evaluated or served.
pub(super) fn import(
    a: &Appliance,
    who: &Principal,
    name: &str,
    import: &wire::AdapterImport,
) -> Result<wire::Adapter> {
    valid_name(name).map_err(|why| Error::invalid(format!("the adapter's name {why}")))?;
    let _reserved = a.reserve("adapter", name)?;
    if a.catalog.find::<wire::Adapter>(name)?.is_some() {
        return Err(Error::conflict(format!("there is an adapter `{name}` already")));
    }
    let model = models::find(a, &import.base)?;
    let mut adapter = imported(name, &model, import, &who.name, now());
    let act =
        adapter_act(a, Action::ImportAdapter, &adapter)?.details(json!({"base": model.name, "label": import.label}));
    a.act(who, act, || {
        let key = a.vault.new_key(KeyInfo { name: name.into(), kind: KeyKind::Adapter, owner: who.name.clone() })?;
        let stored = store(a, name, &key.to_string(), import).and_then(|files| {
            crate::pipeline::train::set_files(&mut adapter, files);
            must_not_loosen(a, &adapter)
        });
        if stored.is_err()
            && let Err(error) = a.vault.shred(&key)
        {
            log::warn!("a key of a refused import was not destroyed, the next start does it: {error}");
        }
        stored?;
        a.catalog.put(&adapter)?;
        Ok(adapter)
    })
}

/// An adapter that is here already does not come back under a looser label than it has.
fn must_not_loosen(a: &Appliance, imported: &wire::Adapter) -> Result<()> {
    let same = |other: &wire::Adapter| other.digest == imported.digest && other.label > imported.label;
    match a.catalog.list::<wire::Adapter>()?.into_iter().find(same) {
        Some(other) => {
            let label = other.label.as_str();
            Err(Error::invalid(format!("these are the files of adapter `{}`, which is labelled `{label}`", other.name))
                .remedy(format!("import them with `--label {label}`")))
        }
        None => Ok(()),
    }
}

fn store(
    a: &Appliance,
    name: &str,
    key: &str,
    import: &wire::AdapterImport,
) -> Result<BTreeMap<String, (ObjectRef, String)>> {
    let mut stored = BTreeMap::new();
    for file in ADAPTER_FILES {
        let text = import.files.files.get(file).ok_or_else(|| {
            Error::invalid(format!("`{file}` is missing"))
                .remedy("an adapter folder is what PEFT's `save_pretrained` writes")
        })?;
        let bytes = STANDARD.decode(text).map_err(|_| Error::invalid(format!("`{file}` is not base64")))?;
        let object = ObjectRef { object: format!("{name}/imported/{file}"), key: key.into() };
        let mut writer = a.vault.writer(&object.object, &key_id(key)?)?;
        writer.write_all(&bytes).map_err(|error| Error::failed(format!("`{file}` could not be sealed: {error}")))?;
        stored.insert(file.to_owned(), (object, writer.commit()?.digest_hex()));
    }
    Ok(stored)
}
