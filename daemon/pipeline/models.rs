//! Base models: Hugging Face folders of public weights, digest-checked at import and at every load.
//!
//! A folder is staged file by file, looked at by an engine, and takes its name in one rename. Weights are public,
//! so they are not encrypted; what matters is that nobody changes them, which the digests tell.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use cloister_wire::admin::{Adapter, FileDigest, Model};
use cloister_wire::engine::ModelInfo;
use cloister_wire::recipe::{BaseFormat, Quantization, valid_name};
use ring::digest::{Context, SHA256};
use serde_json::json;

use super::{Act, Appliance, appliance, now};
use crate::access::Principal;
use crate::error::{Error, Result};
use crate::policy::Action;
use crate::workers::engine::Engine;

const STAGING: &str = ".staging-";
/// Files in a folder that may be needed and are never executed.
const ENDINGS: [&str; 3] = [".json", ".safetensors", ".jinja"];

/// Takes one file of a model that is being imported.
pub fn stage(a: &Appliance, who: &Principal, name: &str, file: &str, mut content: impl Read) -> Result<()> {
    valid_name(name).map_err(|why| Error::invalid(format!("the model's name {why}")))?;
    a.allow(who, &Act::new(Action::ImportModel, appliance()).details(json!({"model": name})))?;
    let _reserved = a.reserve("model", name)?;
    acceptable_file(file)?;
    must_be_new(a, name)?;
    let folder = staging(a, name);
    let storage = a.vault.storage();
    storage.create_dir(&folder).map_err(storage_error)?;
    let path = folder.join(file);
    match storage.remove(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(storage_error(error)),
        _ => {}
    }
    let mut out = storage.create_new(&path).map_err(storage_error)?;
    let mut buffer = vec![0; 1 << 20];
    let copied = loop {
        let read = content
            .read(&mut buffer)
            .map_err(|error| Error::invalid(format!("the upload of `{file}` broke off: {error}")));
        match read {
            Ok(0) => break out.sync().map_err(storage_error),
            Ok(n) => {
                if let Err(error) = out.write_all(&buffer[..n]) {
                    break Err(storage_error(error));
                }
            }
            Err(error) => break Err(error),
        }
    };
    if copied.is_err() {
        // What is left is removed with the staging folder at the next start.
        let _ = storage.remove(&path);
    }
    copied
}

fn acceptable_file(file: &str) -> Result<()> {
    let plain = file.len() <= 128
        && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !file.starts_with('.');
    if plain && ENDINGS.iter().any(|ending| file.ends_with(ending)) {
        return Ok(());
    }
    let pickle = [".bin", ".pt", ".pth", ".ckpt", ".pkl"].iter().any(|ending| file.ends_with(ending));
    let (why, remedy) = if pickle {
        (
            "is a pickle, which can run code when it is read",
            "convert it to safetensors: `model.save_pretrained(DIR, safe_serialization=True)`",
        )
    } else {
        ("does not belong to a model folder", "only *.safetensors, *.json and *.jinja are taken")
    };
    let shown: String = file.chars().take(64).collect();
    Err(Error::invalid(format!("`{shown}` {why}")).remedy(remedy))
}

fn must_be_new(a: &Appliance, name: &str) -> Result<()> {
    if a.catalog.find::<Model>(name)?.is_some() {
        return Err(Error::conflict(format!("there is a model `{name}` already"))
            .remedy(format!("choose another name, or `cloister model rm {name}` first")));
    }
    Ok(())
}

/// Ends an import: an engine reads every tensor, then the folder takes its name.
pub fn commit(a: &Appliance, who: &Principal, name: &str) -> Result<Model> {
    valid_name(name).map_err(|why| Error::invalid(format!("the model's name {why}")))?;
    let act = Act::new(Action::ImportModel, appliance()).details(json!({"model": name}));
    // Before anything else: a failed commit removes the staged files, and so must not be a stranger's.
    a.allow(who, &act)?;
    let _reserved = a.reserve("model", name)?;
    must_be_new(a, name)?;
    let folder = staging(a, name);
    let result = a.act(who, act, || {
        let files = digests(a, &folder)?;
        let info = inspect(a, &folder, &files)?;
        let model = Model {
            name: name.into(),
            digest: digest_of(&files),
            files,
            info,
            imported_by: who.name.clone(),
            imported_at: now(),
        };
        a.vault.storage().rename(&folder, &a.models.join(name)).map_err(storage_error)?;
        a.vault.storage().sync_dir(&a.models).map_err(storage_error)?;
        a.catalog.put(&model)?;
        Ok(model)
    });
    if result.is_err() {
        remove_folder(a, &folder);
    }
    result
}

fn inspect(a: &Appliance, folder: &Path, files: &BTreeMap<String, FileDigest>) -> Result<ModelInfo> {
    let opened = open_files(folder, files)?;
    let quantization = Quantization { base: BaseFormat::None, double: false };
    Ok(Engine::open(&a.workers, &opened, "cpu", quantization)?.inspect()?)
}

/// The model's files, opened, after each digest was compared: what was imported is what is loaded.
pub fn open(a: &Appliance, model: &Model) -> Result<Vec<(String, File)>> {
    let folder = a.models.join(&model.name);
    let found = digests(a, &folder)?;
    let changed = model.files.iter().find(|(name, digest)| found.get(*name) != Some(digest));
    if let Some((file, _)) = changed {
        return Err(Error::failed(format!("`{file}` of model `{}` is not what was imported", model.name))
            .remedy(format!("`cloister model rm {0}`, then import it again", model.name)));
    }
    open_files(&folder, &model.files)
}

fn open_files(folder: &Path, files: &BTreeMap<String, FileDigest>) -> Result<Vec<(String, File)>> {
    let open = |name: &String| {
        let file =
            File::open(folder.join(name)).map_err(|error| Error::failed(format!("`{name}` does not open: {error}")))?;
        Ok((name.clone(), file))
    };
    files.keys().map(open).collect()
}

/// A model by name.
pub fn find(a: &Appliance, name: &str) -> Result<Model> {
    a.catalog.find::<Model>(name)?.ok_or_else(|| Error::not_found("model", name))
}

/// Compares every digest again.
pub fn verify(a: &Appliance, who: &Principal, name: &str) -> Result<Model> {
    a.allow(who, &Act::new(Action::ReadCatalog, appliance()))?;
    let model = find(a, name)?;
    open(a, &model)?;
    Ok(model)
}

/// Removes a model that no adapter needs.
pub fn remove(a: &Appliance, who: &Principal, name: &str) -> Result<()> {
    let act = Act::new(Action::RemoveModel, appliance()).details(json!({"model": name}));
    // Who may not remove it is not told which adapters need it either.
    a.allow(who, &act)?;
    let _reserved = a.reserve("model", name)?;
    find(a, name)?;
    if let Some(adapter) = a.catalog.list::<Adapter>()?.into_iter().find(|adapter| adapter.base == name) {
        return Err(Error::conflict(format!("adapter `{}` needs model `{name}`", adapter.name))
            .remedy(format!("`cloister adapter rm {}` first", adapter.name)));
    }
    a.act(who, act, || {
        a.catalog.remove::<Model>(name)?;
        remove_folder(a, &a.models.join(name));
        Ok(())
    })
}

/// Removes what interrupted imports left, and folders that no catalog entry names.
pub fn sweep(a: &Appliance) -> Result<()> {
    let known: Vec<String> = a.catalog.list::<Model>()?.into_iter().map(|model| model.name).collect();
    for entry in a.vault.storage().list(&a.models).map_err(storage_error)? {
        if !known.contains(&entry.name) {
            remove_folder(a, &a.models.join(&entry.name));
        }
    }
    Ok(())
}

fn remove_folder(a: &Appliance, folder: &Path) {
    let storage = a.vault.storage();
    for entry in storage.list(folder).unwrap_or_default() {
        if let Err(error) = storage.remove(&folder.join(&entry.name)) {
            log::warn!("{}: {error}", folder.display());
        }
    }
    if let Err(error) = storage.remove_dir(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("{}: {error}", folder.display());
    }
}

fn staging(a: &Appliance, name: &str) -> PathBuf {
    a.models.join(format!("{STAGING}{name}"))
}

/// SHA-256 of every file in a folder.
fn digests(a: &Appliance, folder: &Path) -> Result<BTreeMap<String, FileDigest>> {
    let entries = a.vault.storage().list(folder).map_err(storage_error)?;
    if !entries.iter().any(|entry| entry.name.ends_with(".safetensors")) {
        return Err(Error::invalid("the folder holds no *.safetensors file")
            .remedy("a model folder is what `save_pretrained` writes"));
    }
    entries.into_iter().map(|entry| Ok((entry.name.clone(), file_digest(&folder.join(&entry.name))?))).collect()
}

fn file_digest(path: &Path) -> Result<FileDigest> {
    let unreadable = |error: std::io::Error| Error::failed(format!("`{}` does not open: {error}", path.display()));
    let mut file = File::open(path).map_err(unreadable)?;
    let (mut context, mut bytes, mut buffer) = (Context::new(&SHA256), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).map_err(unreadable)?;
        if read == 0 {
            return Ok(FileDigest { sha256: cloister_vault::hex::encode(context.finish().as_ref()), bytes });
        }
        context.update(&buffer[..read]);
        bytes += read as u64;
    }
}

/// One digest for all files: of lines `name digest`, in the names' order.
fn digest_of(files: &BTreeMap<String, FileDigest>) -> String {
    let lines: String = files.iter().map(|(name, digest)| format!("{name} {}\n", digest.sha256)).collect();
    cloister_vault::hex::encode(ring::digest::digest(&SHA256, lines.as_bytes()).as_ref())
}

fn storage_error(error: impl std::fmt::Display) -> Error {
    Error::failed(format!("the model's folder could not be written: {error}"))
        .remedy("free some room on the state folder's disk, then repeat; nothing was kept")
}
