//! Round trips and refusals; against PEFT itself see `tests/peft_parity.rs`.
#![allow(clippy::unwrap_used)]

use cloister_wire::recipe::Lora;

use super::*;
use crate::adapt::lora;

fn modules() -> Vec<ModuleInfo> {
    ["self_attn.q_proj", "mlp.up_proj"]
        .map(|name| ModuleInfo { path: format!("model.layers.0.{name}"), in_features: 6, out_features: 4 })
        .into()
}

fn adapter() -> Adapter {
    let lora = Lora { rank: 2, ..Lora::default() };
    let mut adapter = lora::init(&modules(), &lora, 3, Device::Cpu).unwrap();
    tch::no_grad(|| {
        for pair in adapter.modules.values_mut() {
            let _ = pair.b.fill_(0.25);
        }
    });
    adapter
}

fn files() -> Files {
    write(&adapter(), &Lora { rank: 2, ..Lora::default() }, "demo", "d1").unwrap()
}

fn read_with(config: &str, weights: &[u8], digest: &str) -> Result<Adapter, AdaptError> {
    read(config, weights, Base { modules: &modules(), digest, device: Device::Cpu })
}

/// The files' configuration with some keys set, read.
fn read_changed(changes: Value) -> Result<Adapter, AdaptError> {
    let files = files();
    let mut config: Value = serde_json::from_str(&files.config).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    read_with(&config.to_string(), &files.weights, "d1")
}

/// The files' tensors, changed, read.
fn read_tensors(change: impl Fn(&mut BTreeMap<String, Tensor>)) -> String {
    let mut tensors: BTreeMap<String, Tensor> =
        adapter().tensors().map(|(name, tensor)| (name, tensor.detach().copy())).collect();
    change(&mut tensors);
    let weights = blob::write(tensors.iter().map(|(n, t)| (n.clone(), t)), &BTreeMap::new()).unwrap();
    read_with(&files().config, &weights, "d1").unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_and_bytes_repeat() {
    let (files, again) = (files(), files());
    assert_eq!(files, again);
    let read = read_with(&files.config, &files.weights, "d1").unwrap();
    for ((name, one), (_, other)) in read.tensors().zip(adapter().tensors()) {
        assert_eq!(*one, *other, "{name}");
    }
    assert_eq!(read.modules["model.layers.0.mlp.up_proj"].scale, 16.0);
}

#[test]
fn another_base_is_refused_by_its_digest() {
    let files = files();
    let error = read_with(&files.config, &files.weights, "d2").unwrap_err();
    assert!(matches!(error, AdaptError::Base { .. }));
}

#[test]
fn scales_follow_rslora_and_the_patterns() {
    let scale = |changes: Value| read_changed(changes).unwrap().modules["model.layers.0.mlp.up_proj"].scale;
    assert!((scale(json!({"use_rslora": true})) - 32.0 / 2f64.sqrt()).abs() < 1e-12);
    assert_eq!(scale(json!({"alpha_pattern": {"up_proj": 8}})), 4.0);
    assert_eq!(scale(json!({"alpha_pattern": null, "some_future_key": {"a": 1}})), 16.0);
}

/// PEFT takes the first pattern that matches, in the file's order, which is not the alphabet's.
#[test]
fn of_several_patterns_the_first_in_the_file_counts() {
    let files = files();
    let scale = |patterns: &str| {
        let config = files.config.replace(r#""alpha_pattern": {}"#, &format!(r#""alpha_pattern": {patterns}"#));
        read_with(&config, &files.weights, "d1").unwrap().modules["model.layers.0.mlp.up_proj"].scale
    };
    assert_eq!(scale(r#"{"up_proj": 8, "layers.0.mlp.up_proj": 4}"#), 4.0);
    assert_eq!(scale(r#"{"layers.0.mlp.up_proj": 4, "up_proj": 8}"#), 2.0);
}

#[test]
fn what_cannot_be_reproduced_is_refused_by_key() {
    for (changes, word) in [
        (json!({"peft_type": "IA3"}), "IA3"),
        (json!({"use_dora": true}), "use_dora"),
        (json!({"bias": "all"}), "bias"),
        (json!({"modules_to_save": ["lm_head"]}), "modules_to_save"),
        (json!({"init_lora_weights": "pissa_niter_4"}), "pissa"),
        (json!({"init_lora_weights": "lora_ga"}), "lora_ga"),
        (json!({"init_lora_weights": "OLoRA"}), "OLoRA"),
        (json!({"kasa_config": {"beta": 1e-4}}), "kasa_config"),
        (json!({"use_bdlora": {"nblocks": 1}}), "use_bdlora"),
        (json!({"rank_pattern": {".*q_proj": 4}}), ".*q_proj"),
        (json!({"r": 0}), "`r`"),
    ] {
        let error = read_changed(changes).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_wrong_tensor_is_named() {
    let name = name_b("model.layers.0.mlp.up_proj");
    let missing = read_tensors(|tensors| drop(tensors.remove(&name)));
    assert!(missing.contains(&name) && missing.contains("missing"), "{missing}");
    let shape = read_tensors(|tensors| drop(tensors.insert(name.clone(), Tensor::zeros([4, 3], tch::kind::FLOAT_CPU))));
    assert!(shape.contains(&name) && shape.contains("[4, 2]"), "{shape}");
    let nan = read_tensors(|tensors| drop(tensors.get_mut(&name).unwrap().fill_(f64::NAN)));
    assert!(nan.contains(&name) && nan.contains("NaN"), "{nan}");
    let foreign =
        read_tensors(|tensors| drop(tensors.insert("lm_head.x".into(), Tensor::zeros([1], tch::kind::FLOAT_CPU))));
    assert!(foreign.contains("lm_head.x"), "{foreign}");
    let lost = read_tensors(|tensors| tensors.retain(|name, _| !name.contains("up_proj")));
    assert!(lost.contains("up_proj") && lost.contains("missing"), "{lost}");
}

#[test]
fn every_truncation_is_refused() {
    let files = files();
    for length in 0..files.weights.len() {
        assert!(read_with(&files.config, &files.weights[..length], "d1").is_err(), "{length} bytes");
    }
}

#[test]
fn a_nan_is_never_written() {
    let mut adapter = adapter();
    tch::no_grad(|| adapter.modules.values_mut().for_each(|pair| drop(pair.a.fill_(f64::INFINITY))));
    let error = write(&adapter, &Lora { rank: 2, ..Lora::default() }, "demo", "d1").unwrap_err();
    assert!(matches!(error, AdaptError::NonFinite(_)));
}
