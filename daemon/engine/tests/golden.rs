//! The forward pass against transformers, on tiny random models (fixtures/make_golden.py).
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use cloister_engine::model::{Batch, Decoder, LoadOptions, ModelFiles, Quantization, Segment, inspect};
use tch::{Device, Kind, Tensor};

const FAMILIES: [&str; 2] = ["llama", "qwen2"];

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(family)
}

fn load(family: &str, quantization: Quantization) -> Decoder {
    let files = ModelFiles::open_folder(&folder(family)).unwrap();
    Decoder::load(&files, &LoadOptions::new(Device::Cpu, quantization)).unwrap()
}

fn golden(family: &str) -> impl Fn(&str) -> Tensor {
    let tensors = Tensor::read_safetensors(folder(family).join("golden.out")).unwrap();
    move |name| tensors.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1.shallow_clone()
}

fn whole<'a>(len: i64) -> Segment<'a> {
    Segment { len, start: 0, cache: None, adapter: None }
}

fn largest_error(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn logits_are_those_of_transformers() {
    for family in FAMILIES {
        let (model, golden) = (load(family, Quantization::None), golden(family));
        for i in 0..3 {
            let ids = golden(&format!("ids.{i}"));
            let hidden = model.hidden(&ids, &mut Batch::new(vec![whole(ids.size()[0])]));
            let error = largest_error(&model.logits(&hidden), &golden(&format!("logits.{i}")));
            assert!(error < 1e-4, "{family}, sequence {i}: off by {error}");
        }
    }
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    for family in FAMILIES {
        let (model, golden) = (load(family, Quantization::None), golden(family));
        let all: Vec<Tensor> = (0..3).map(|i| golden(&format!("ids.{i}"))).collect();
        let segments = all.iter().map(|ids| whole(ids.size()[0])).collect();
        let hidden = model.hidden(&Tensor::cat(&all, 0), &mut Batch::new(segments));
        let expected: Vec<Tensor> = (0..3).map(|i| golden(&format!("logits.{i}"))).collect();
        let error = largest_error(&model.logits(&hidden), &Tensor::cat(&expected, 0));
        assert!(error < 1e-4, "{family}: off by {error}");
    }
}

#[test]
fn greedy_decoding_with_a_cache_gives_the_tokens_of_transformers() {
    for family in FAMILIES {
        let (model, golden) = (load(family, Quantization::None), golden(family));
        let (mut cache, mut ids, mut start) = (model.new_cache(), golden("ids.2"), 0);
        let mut tokens = Vec::new();
        for _ in 0..32 {
            let len = ids.size()[0];
            let segment = Segment { len, start, cache: Some(&mut cache), adapter: None };
            let hidden = model.hidden(&ids, &mut Batch::new(vec![segment]));
            let next = model.logits(&hidden.narrow(0, len - 1, 1)).argmax(1, false);
            tokens.push(next.int64_value(&[0]));
            start += len;
            ids = next;
        }
        assert_eq!(tokens, Vec::<i64>::try_from(golden("greedy")).unwrap(), "{family}");
    }
}

#[test]
fn a_prompt_read_in_pieces_is_the_prompt_read_at_once() {
    let (model, golden) = (load("llama", Quantization::None), golden("llama"));
    let ids = golden("ids.1");
    let mut cache = model.new_cache();
    let mut parts = Vec::new();
    for (start, len) in [(0, 10), (10, 20), (30, 3)] {
        let segment = Segment { len, start, cache: Some(&mut cache), adapter: None };
        parts.push(model.hidden(&ids.narrow(0, start, len), &mut Batch::new(vec![segment])));
    }
    let error = largest_error(&model.logits(&Tensor::cat(&parts, 0)), &golden("logits.1"));
    assert!(error < 1e-4, "off by {error}");
    assert_eq!(cache.len(), 33);
}

#[test]
fn a_quantised_model_computes_with_its_dequantised_weights() {
    for double in [false, true] {
        let (model, golden) = (load("qwen2", Quantization::Nf4 { double }), golden("qwen2"));
        let ids = golden("ids.1");
        let dense = load("qwen2", Quantization::None);
        let run = |model: &Decoder| model.hidden(&ids, &mut Batch::new(vec![whole(33)]));
        let difference = largest_error(&run(&model), &run(&dense));
        assert!(difference > 1e-3 && difference < 5.0, "4 bits change something, and not everything: {difference}");
        let module = &model.linear_modules()[0];
        let weight = model.module_weight(&module.path).unwrap();
        assert_eq!(weight.size(), [module.out_features, module.in_features]);
        assert_eq!(weight.kind(), Kind::Float);
        assert!(model.info().weight_bytes < dense.info().weight_bytes / 2);
    }
}

#[test]
fn the_digest_names_the_weights_and_not_their_form() {
    let plain = load("llama", Quantization::None);
    let packed = load("llama", Quantization::Nf4 { double: true });
    assert_eq!(plain.weight_digest(), packed.weight_digest());
    assert_ne!(plain.weight_digest(), load("qwen2", Quantization::None).weight_digest());
    for family in FAMILIES {
        let (_, summary) = inspect(&ModelFiles::open_folder(&folder(family)).unwrap()).unwrap();
        let loaded = load(family, Quantization::None);
        assert_eq!(summary.digest, loaded.weight_digest(), "{family}: inspecting reads what loading reads");
        assert_eq!(summary.parameters, loaded.info().parameters);
    }
}
