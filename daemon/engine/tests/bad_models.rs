//! Damaged, incomplete and hostile model folders: each gets one line that names the place and the remedy.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::Path;

use cloister_engine::model::{Decoder, LoadOptions, ModelFiles, Quantization};
use tch::Device;

/// Copies a fixture, lets `damage` change it, and returns why it is refused.
fn refusal(family: &str, damage: impl Fn(&Path)) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(family);
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    damage(folder.path());
    let files = ModelFiles::open_folder(folder.path()).unwrap();
    let options = LoadOptions::new(Device::Cpu, Quantization::Nf4 { double: true });
    let message = Decoder::load(&files, &options).map(|_| ()).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

/// Rewrites the weights of the qwen2 fixture, header (as JSON) and data.
fn rewrite(folder: &Path, change: impl Fn(&mut serde_json::Value, &mut Vec<u8>)) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    let mut data = bytes[8 + size..].to_vec();
    change(&mut header, &mut data);
    let header = serde_json::to_vec(&header).unwrap();
    let whole = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    fs::write(path, whole).unwrap();
}

#[test]
fn a_missing_weight_file_is_named() {
    let message = refusal("qwen2", |f| fs::remove_file(f.join("model.safetensors")).unwrap());
    says(&message, &["`model.safetensors` is missing", "import the whole"]);
}

#[test]
fn a_missing_shard_is_named() {
    let message = refusal("llama", |f| fs::remove_file(f.join("model-00002-of-00002.safetensors")).unwrap());
    says(&message, &["model-00002-of-00002.safetensors", "copy every shard"]);
}

#[test]
fn a_pickle_is_never_opened() {
    let message = refusal("qwen2", |f| {
        fs::rename(f.join("model.safetensors"), f.join("pytorch_model.bin")).unwrap();
    });
    says(&message, &["`pytorch_model.bin`", "pickle", "safetensors"]);
}

#[test]
fn a_truncated_file_is_refused_whatever_is_left_of_it() {
    for keep in [0, 4, 8, 100, 5_000, 159_000] {
        let message = refusal("qwen2", |f| {
            let path = f.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..keep]).unwrap();
        });
        says(&message, &["`model.safetensors`", "import the model again"]);
    }
}

#[test]
fn a_lying_header_length_allocates_nothing() {
    let message = refusal("qwen2", |f| {
        let path = f.join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
    });
    says(&message, &["claims a header of 18446744073709551615 bytes"]);
}

#[test]
fn a_shape_that_disagrees_with_the_configuration_is_refused() {
    let message = refusal("qwen2", |f| {
        let config = fs::read_to_string(f.join("config.json")).unwrap();
        fs::write(f.join("config.json"), config.replace("\"intermediate_size\": 96", "\"intermediate_size\": 80"))
            .unwrap();
    });
    says(&message, &["mlp.gate_proj.weight", "[96, 64]", "[80, 64]"]);
}

#[test]
fn a_missing_and_an_extra_tensor_are_named() {
    let message = refusal("qwen2", |f| {
        rewrite(f, |header, _| {
            let map = header.as_object_mut().unwrap();
            let norm = map.remove("model.norm.weight").unwrap();
            map.insert("model.extra.weight".into(), norm);
        });
    });
    says(&message, &["`model.norm.weight` is missing"]);
    let message = refusal("qwen2", |f| {
        let config = fs::read_to_string(f.join("config.json")).unwrap();
        fs::write(f.join("config.json"), config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"))
            .unwrap();
    });
    says(&message, &["model.layers.1.", "belongs to no layer"]);
}

#[test]
fn a_nan_is_found() {
    let message = refusal("qwen2", |f| rewrite(f, |_, data| data[1000..1002].copy_from_slice(&[0xc0, 0x7f])));
    says(&message, &["model.embed_tokens.weight", "NaN"]);
}

#[test]
fn weights_that_are_no_floats_are_refused() {
    let message = refusal("qwen2", |f| rewrite(f, |header, _| header["model.norm.weight"]["dtype"] = "I16".into()));
    says(&message, &["model.norm.weight", "I16", "BF16"]);
}

#[test]
fn overlapping_tensors_are_refused() {
    let message = refusal("qwen2", |f| {
        rewrite(f, |header, _| {
            let other = header["model.layers.0.input_layernorm.weight"]["data_offsets"].clone();
            header["model.norm.weight"]["data_offsets"] = other;
        });
    });
    says(&message, &["damaged header"]);
}
