//! Against PEFT, transformers and bitsandbytes: `fixtures/make_peft.py` made the expectations, not we.
#![allow(clippy::unwrap_used)]

mod kit;

use std::collections::BTreeMap;
use std::process::Command;

use cloister_engine::adapt::{Adapter, blob, lora, peft};
use cloister_engine::model::{Batch, Decoder, Quantization};
use cloister_engine::train::clip;
use cloister_engine::train::data::Example;
use cloister_engine::train::optimizer::AdamW;
use cloister_engine::train::step::{Packed, Pass, learn};
use cloister_wire::recipe::{Lora, Training};
use kit::{NF4, decoder, fixture};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

#[derive(Deserialize)]
struct Expected {
    batches: Vec<Vec<Row>>,
    plain: Course,
    nf4: Course,
}

#[derive(Deserialize)]
struct Row {
    ids: Vec<i64>,
    learnt_from: usize,
}

#[derive(Deserialize)]
struct Course {
    losses: Vec<f64>,
    norms: Vec<f64>,
}

fn expected() -> Expected {
    serde_json::from_slice(&std::fs::read(fixture("peft/expected.json")).unwrap()).unwrap()
}

fn base(decoder: &Decoder) -> (Vec<cloister_engine::model::ModuleInfo>, String) {
    (decoder.linear_modules(), decoder.weight_digest().to_owned())
}

/// The adapter as PEFT saved it.
fn pefts_adapter(decoder: &Decoder) -> Adapter {
    let (modules, digest) = base(decoder);
    let config = std::fs::read_to_string(fixture("peft/adapter_config.json")).unwrap();
    let weights = std::fs::read(fixture("peft/adapter_model.safetensors")).unwrap();
    let mut adapter =
        peft::read(&config, &weights, peft::Base { modules: &modules, digest: &digest, device: Device::Cpu }).unwrap();
    for pair in adapter.modules.values_mut() {
        pair.a = pair.a.set_requires_grad(true);
        pair.b = pair.b.set_requires_grad(true);
    }
    adapter
}

fn examples(rows: &[Row]) -> Vec<Example> {
    rows.iter().map(|row| Example { row: 0, ids: row.ids.clone(), learnt_from: row.learnt_from }).collect()
}

fn logits(decoder: &Decoder, adapter: &Adapter, ids: &[i64]) -> Tensor {
    let example = Example { row: 0, ids: ids.to_vec(), learnt_from: 1 };
    let packed = Packed::new([&example], Device::Cpu);
    tch::no_grad(|| {
        let mut batch = Batch::new(packed.segments(Some(adapter)));
        decoder.logits(&decoder.hidden(&packed.ids, &mut batch))
    })
}

/// Distance of two tensors, relative to the second.
fn distance(ours: &Tensor, theirs: &Tensor) -> f64 {
    let norm = |t: &Tensor| t.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(ours - theirs)) / norm(theirs)
}

fn check(quantization: Quantization, name: &str, course: &Course, recompute: bool) {
    let decoder = decoder(quantization);
    let adapter = pefts_adapter(&decoder);
    let theirs = blob::read(&std::fs::read(fixture("peft/expected.safetensors")).unwrap()).unwrap().tensors;
    let training = Training { weight_decay: 0.01, ..Training::default() };
    let mut optimizer = AdamW::new(&adapter, &training);
    let batches = expected().batches;
    for (step, rows) in batches.iter().enumerate() {
        let examples = examples(rows);
        let learnt: usize = examples.iter().map(Example::learnt).sum();
        let pass = Pass { decoder: &decoder, adapter: &adapter, recompute, seed: 0 };
        let loss = learn(pass, &Packed::new(&examples, Device::Cpu), learnt as f64).unwrap();
        assert!((loss - course.losses[step]).abs() < 1e-3, "{name} step {step}: {loss} {}", course.losses[step]);
        if step == 0 {
            for (tensor, value) in adapter.tensors() {
                let apart = distance(&value.grad(), &theirs[&format!("{name}.{tensor}")]);
                assert!(apart < 1e-4, "{name} gradient of {tensor}: {apart}");
            }
        }
        let mut gradients: Vec<Tensor> = adapter.tensors().map(|(_, tensor)| tensor.grad()).collect();
        let norm = clip::by_global_norm(&mut gradients, 1.0).unwrap();
        assert!((norm / course.norms[step] - 1.0).abs() < 1e-3, "{name} step {step}: norm {norm}");
        optimizer.update(&adapter, 5e-3).unwrap();
        gradients.iter_mut().for_each(|gradient| drop(gradient.zero_()));
    }
    let apart = distance(&logits(&decoder, &adapter, &batches[0][0].ids), &theirs[&format!("{name}.logits")]);
    assert!(apart < 1e-3, "{name} logits after {} steps: {apart}", batches.len());
}

#[test]
fn twenty_steps_on_a_plain_base_are_those_of_peft() {
    check(Quantization::None, "plain", &expected().plain, false);
}

#[test]
fn twenty_steps_on_an_nf4_base_are_those_of_peft_and_bitsandbytes() {
    check(NF4, "nf4", &expected().nf4, false);
}

#[test]
fn recomputing_blocks_is_as_exact() {
    check(NF4, "nf4", &expected().nf4, true);
}

/// A Python with PEFT: `$CLOISTER_PEERS_PYTHON`, or the system's.
fn peers_python() -> Option<String> {
    let python = std::env::var("CLOISTER_PEERS_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import peft, bitsandbytes"]).output().ok()?;
    found.status.success().then_some(python)
}

#[test]
fn peft_loads_what_is_written_here() {
    let Some(python) = peers_python() else {
        println!("skipped: no Python with peft and bitsandbytes (set CLOISTER_PEERS_PYTHON)");
        return;
    };
    let decoder = decoder(NF4);
    let lora = Lora { rank: 3, alpha: 5.0, targets: vec!["q_proj".into(), "mlp.down_proj".into()], dropout: 0.1 };
    let mut adapter = lora::init(&decoder.linear_modules(), &lora, 9, Device::Cpu).unwrap();
    tch::no_grad(|| adapter.modules.values_mut().for_each(|pair| drop(pair.b.fill_(0.03))));
    let files = peft::write(&adapter, &lora, "tiny", decoder.weight_digest()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<i64> = (10..40).collect();
    let written: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
        (peft::CONFIG_FILE, files.config.into_bytes()),
        (peft::WEIGHTS_FILE, files.weights),
        ("ids.json", serde_json::to_vec(&ids).unwrap()),
    ]);
    written.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
    let output = Command::new(python)
        .arg(fixture("make_peft.py"))
        .arg("logits")
        .args([fixture("tiny"), folder.path().to_owned(), folder.path().join("ids.json")])
        .arg("nf4")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<Vec<f32>> = serde_json::from_slice(&output.stdout).unwrap();
    let theirs = Tensor::from_slice2(&theirs);
    let apart = distance(&logits(&decoder, &adapter, &ids), &theirs);
    assert!(apart < 1e-4, "{apart}");
    let without = distance(&logits(&decoder, &Adapter::default(), &ids), &theirs);
    assert!(without > 0.01, "the adapter acts: {without}");
}
