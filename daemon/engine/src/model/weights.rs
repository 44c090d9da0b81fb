//! Safetensors, single or sharded: every tensor's presence, shape, type and finiteness is checked before
//! it is used, and each is read once, hashed as it is read.
//!
//! Tensors are read by position rather than mapped: a file that shrinks while it is read is then an error
//! and not a SIGBUS, no page of it stays in the engine's memory, and no `unsafe` is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use ring::digest;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use tch::{Device, Kind, Tensor};

use super::files::file_length;
use super::{ModelError, ModelFiles};
use crate::shim;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const REMEDY: &str = "import the model again from its source";

/// A header longer than this is no model's (the format's own limit).
const HEADER_LIMIT: u64 = 100_000_000;

/// The weight files of a model, opened and checked, their tensors not yet read.
#[derive(Debug)]
pub struct Weights<'f> {
    entries: BTreeMap<String, Entry<'f>>,
    read: BTreeMap<String, [u8; 32]>,
    parameters: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Entry<'f> {
    file_name: String,
    file: &'f File,
    dtype: Dtype,
    shape: Vec<i64>,
    offset: u64,
}

/// What reading all weights yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Number of elements read.
    pub parameters: u64,
    /// Bytes read.
    pub bytes: u64,
    /// SHA-256, hexadecimal, over the sorted list of name, type, shape and the tensor's own SHA-256.
    pub digest: String,
}

impl<'f> Weights<'f> {
    /// Finds the weight files and checks their headers.
    pub fn open(files: &'f ModelFiles) -> Result<Self, ModelError> {
        let mut entries = BTreeMap::new();
        for name in shards(files)? {
            for (tensor, entry) in header(files, &name)? {
                if entries.contains_key(&tensor) {
                    return Err(tensor_error(&name, &tensor, "is in two files"));
                }
                entries.insert(tensor, entry);
            }
        }
        Ok(Weights { entries, read: BTreeMap::new(), parameters: 0, bytes: 0 })
    }

    /// Reads a tensor that has to be there, with that shape, in a float type, and finite: on the CPU, in the
    /// file's type, straight into its place.
    pub fn read(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let entry = self.entries.get(name).ok_or_else(|| {
            let reason = format!("is missing, and config.json needs it; {REMEDY}");
            tensor_error(SINGLE, name, &reason)
        })?;
        if entry.shape != shape {
            let reason = format!("has shape {:?}, config.json says {shape:?}; {REMEDY}", entry.shape);
            return Err(tensor_error(&entry.file_name, name, &reason));
        }
        let kind = entry.kind(name)?;
        let mut tensor = Tensor::f_empty(shape, (kind, Device::Cpu))?;
        let bytes = shim::bytes_mut(&mut tensor);
        let io = |source| ModelError::Io { file: entry.file_name.clone(), source };
        entry.file.read_exact_at(bytes, entry.offset).map_err(io)?;
        if !all_finite(bytes, kind) {
            let reason = format!("holds a NaN or an infinity; {REMEDY}");
            return Err(tensor_error(&entry.file_name, name, &reason));
        }
        self.read.insert(name.to_owned(), sha256(bytes));
        self.bytes += bytes.len() as u64;
        self.parameters += shape.iter().product::<i64>() as u64;
        Ok(tensor)
    }

    /// Refuses tensors that nobody asked for (the folder is then not what config.json says), and returns
    /// the digest over those that were.
    pub fn finish(&self, ignorable: impl Fn(&str) -> bool) -> Result<Summary, ModelError> {
        let extra = self.entries.iter().find(|(name, _)| !self.read.contains_key(*name) && !ignorable(name));
        if let Some((name, entry)) = extra {
            let reason = format!("belongs to no layer that config.json describes; {REMEDY}");
            return Err(tensor_error(&entry.file_name, name, &reason));
        }
        let mut all = digest::Context::new(&digest::SHA256);
        for (name, own) in &self.read {
            let entry = &self.entries[name];
            all.update(format!("{name}\0{:?}\0{:?}\0", entry.dtype, entry.shape).as_bytes());
            all.update(own);
        }
        Ok(Summary { parameters: self.parameters, bytes: self.bytes, digest: hex(all.finish().as_ref()) })
    }
}

impl Entry<'_> {
    fn kind(&self, name: &str) -> Result<Kind, ModelError> {
        match self.dtype {
            Dtype::F32 => Ok(Kind::Float),
            Dtype::F16 => Ok(Kind::Half),
            Dtype::BF16 => Ok(Kind::BFloat16),
            other => {
                let reason = format!("has type {other:?}; weights are F32, F16 or BF16");
                Err(tensor_error(&self.file_name, name, &reason))
            }
        }
    }
}

/// Which files hold the weights.
fn shards(files: &ModelFiles) -> Result<Vec<String>, ModelError> {
    if files.has(SINGLE) {
        return Ok(vec![SINGLE.to_owned()]);
    }
    if let Some(text) = files.text(INDEX)? {
        return indexed(files, &text);
    }
    if let Some(pickle) = files.names().find(|name| is_pickle(name)) {
        let reason = "is a pickle, which can run code when it is read, and is never opened; \
                      convert the model to safetensors (`model.save_pretrained(DIR)` in transformers)";
        return Err(ModelError::Weights { file: pickle.to_owned(), reason: reason.into() });
    }
    let remedy = "import the whole Hugging Face folder of the model";
    Err(ModelError::MissingFile { file: SINGLE.into(), remedy })
}

fn is_pickle(name: &str) -> bool {
    [".bin", ".pt", ".pth", ".pkl", ".ckpt"].iter().any(|end| name.ends_with(end))
}

fn indexed(files: &ModelFiles, text: &str) -> Result<Vec<String>, ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_str(text)
        .map_err(|e| ModelError::Weights { file: INDEX.into(), reason: format!("does not parse: {e}; {REMEDY}") })?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if let Some(missing) = names.iter().find(|name| !files.has(name)) {
        return Err(ModelError::MissingFile {
            file: missing.clone(),
            remedy: "model.safetensors.index.json names it: copy every shard and import again",
        });
    }
    Ok(names.into_iter().collect())
}

/// The tensors that a file's header lists, with their places checked against the file's length.
fn header<'f>(files: &'f ModelFiles, name: &str) -> Result<Vec<(String, Entry<'f>)>, ModelError> {
    let wrong = |reason: String| ModelError::Weights { file: name.to_owned(), reason: format!("{reason}; {REMEDY}") };
    let Some(file) = files.file(name) else { return Err(wrong("is missing".into())) };
    let io = |source| ModelError::Io { file: name.to_owned(), source };
    let length = file_length(file).map_err(io)?;
    let mut size = [0; 8];
    if length < 8 {
        return Err(wrong(format!("is {length} bytes long, which is no safetensors file")));
    }
    file.read_exact_at(&mut size, 0).map_err(io)?;
    let size = u64::from_le_bytes(size);
    if size > HEADER_LIMIT || size > length - 8 {
        return Err(wrong(format!(
            "claims a header of {size} bytes in a file of {length}: it is truncated or damaged"
        )));
    }
    let mut text = vec![0; size as usize];
    file.read_exact_at(&mut text, 8).map_err(io)?;
    // Deserialising checks that every tensor's bytes are as many as its shape needs, without gap or overlap.
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| wrong(format!("has a damaged header ({e})")))?;
    let data = 8 + size;
    let expected = data + metadata.data_len() as u64;
    if expected != length {
        return Err(wrong(format!(
            "is {length} bytes long where its header needs {expected}: it is truncated or damaged"
        )));
    }
    Ok(metadata
        .tensors()
        .into_iter()
        .map(|(tensor, info)| {
            let entry = Entry {
                file_name: name.to_owned(),
                file,
                dtype: info.dtype,
                shape: info.shape.iter().map(|&n| n as i64).collect(),
                offset: data + info.data_offsets.0 as u64,
            };
            (tensor, entry)
        })
        .collect())
}

fn tensor_error(file: &str, tensor: &str, reason: &str) -> ModelError {
    ModelError::Tensor { file: file.to_owned(), tensor: tensor.to_owned(), reason: reason.to_owned() }
}

/// An all-ones exponent is a NaN or an infinity in each of the three types.
fn all_finite(bytes: &[u8], kind: Kind) -> bool {
    let halves = |mask: u16| !bytes.chunks_exact(2).any(|b| u16::from_le_bytes([b[0], b[1]]) & mask == mask);
    match kind {
        Kind::BFloat16 => halves(0x7f80),
        Kind::Half => halves(0x7c00),
        _ => {
            const MASK: u32 = 0x7f80_0000;
            !bytes.chunks_exact(4).any(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & MASK == MASK)
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut own = [0; 32];
    own.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    own
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
