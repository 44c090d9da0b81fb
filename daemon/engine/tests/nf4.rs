//! The 4-bit format against bitsandbytes' own bytes, and the quantised layer against a dense one.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;

use cloister_engine::model::ModelError;
use cloister_engine::quant::nf4::{Absmax, LEVELS, Nf4Weight, dynamic_map};
use cloister_engine::quant::Weight;
use cloister_engine::shim;
use tch::{Device, Kind, Tensor};

fn fixture() -> impl Fn(&str) -> Tensor {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4.safetensors");
    let tensors = Tensor::read_safetensors(path).unwrap();
    move |name| tensors.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}")).1.shallow_clone()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    Vec::<f32>::try_from(tensor.view([-1])).unwrap().into_iter().map(f32::to_bits).collect()
}

const CASES: [&str; 6] = ["whole", "short", "zero_block", "zero_tail", "bf16", "outliers"];

#[test]
fn the_tables_are_those_of_bitsandbytes() {
    let given = fixture();
    assert_eq!(bits(&Tensor::from_slice(&LEVELS)), bits(&given("levels")));
    assert!(bits(&Tensor::from_slice(&dynamic_map())) == bits(&given("map")), "dynamic map");
}

#[test]
fn every_byte_is_that_of_bitsandbytes() {
    for quantize in [Nf4Weight::quantize, Nf4Weight::quantize_by_operations] {
        CASES.iter().for_each(|case| same_bytes(case, quantize));
    }
}

fn same_bytes(case: &str, quantize: fn(&Tensor, bool) -> Result<Nf4Weight, ModelError>) {
    let given = fixture();
    let of = |part: &str| given(&format!("{case}.{part}"));
    let plain = quantize(&of("weight"), false).unwrap();
    assert_eq!(plain.packed, of("packed"), "{case}: packed");
    let Absmax::Plain(absmax) = &plain.absmax else { panic!("{case}: not plain") };
    assert_eq!(bits(absmax), bits(&of("absmax")), "{case}: absmax");
    let double = quantize(&of("weight"), true).unwrap();
    assert_eq!(double.packed, of("packed"), "{case}: packed");
    let Absmax::Nested(nested) = &double.absmax else { panic!("{case}: not nested") };
    assert_eq!(nested.offset.to_bits(), bits(&of("offset"))[0], "{case}: offset");
    assert_eq!(bits(&nested.absmax), bits(&of("nested_absmax")), "{case}: nested absmax");
    assert_eq!(nested.codes, of("codes"), "{case}: codes");
}

#[test]
fn many_threads_pack_what_one_operation_packs() {
    let weight = random(1201, 517);
    let (ours, theirs) = (Nf4Weight::quantize(&weight, false), Nf4Weight::quantize_by_operations(&weight, false));
    assert!(ours.unwrap().packed == theirs.unwrap().packed);
}

#[test]
fn both_dequantisers_give_the_values_of_bitsandbytes() {
    let given = fixture();
    for case in CASES {
        let original = given(&format!("{case}.weight"));
        let weight = Nf4Weight::quantize(&original, true).unwrap();
        let columns = weight.shape[1];
        let expected = given(&format!("{case}.dequantized")).reshape(weight.shape);
        // bitsandbytes gives back the type that it was given; in float32 ours is what the layer computes with.
        let in_kind = weight.dequantize(original.kind()).to_kind(Kind::Float);
        assert!(bits(&in_kind) == bits(&expected), "{case}");
        let plain = weight.dequantize(Kind::Float);
        // The product with an identity of many rows goes through the CPU's tiles, and yields the weight itself.
        let identity = Tensor::eye(columns, (Kind::Float, Device::Cpu));
        assert!(shim::nf4_linear(&identity, &weight).tr() == plain, "{case}: tiles");
    }
}

fn random(rows: i64, columns: i64) -> Tensor {
    Tensor::randn([rows, columns], (Kind::Float, Device::Cpu))
}

#[test]
fn forward_and_gradient_are_those_of_a_dense_layer() {
    for (out, columns, double) in [(37, 61, false), (96, 200, true), (300, 128, true)] {
        let weight = Nf4Weight::quantize(&random(out, columns), double).unwrap();
        let dense = weight.dequantize(Kind::Float);
        for rows in [1, 3, 40] {
            let (x, g) = (random(rows, columns), random(rows, out));
            same_as_dense(&x, &g, &dense, |x| shim::nf4_linear(x, &weight));
        }
    }
}

#[test]
fn a_narrow_table_is_a_dense_layer_too() {
    for kind in [Kind::BFloat16, Kind::Half] {
        let weight = Weight::table(random(301, 64).to_kind(kind), Kind::Float).unwrap();
        assert!(matches!(weight, Weight::Narrow(_)));
        let dense = weight.dense(Kind::Float);
        for rows in [1, 40] {
            let (x, g) = (random(rows, 64), random(rows, 301));
            same_as_dense(&x, &g, &dense, |x| weight.forward(x));
        }
    }
}

fn same_as_dense(x: &Tensor, g: &Tensor, dense: &Tensor, layer: impl Fn(&Tensor) -> Tensor) {
    let gradient = |f: &dyn Fn(&Tensor) -> Tensor| {
        let x = x.copy().set_requires_grad(true);
        let y = f(&x);
        (&y * g).sum(Kind::Float).backward();
        (y.detach(), x.grad())
    };
    let (y, dx) = gradient(&layer);
    let (y_dense, dx_dense) = gradient(&|x| x.matmul(&dense.tr()));
    let untracked = tch::no_grad(|| layer(x));
    for (name, ours, theirs) in [("y", &y, &y_dense), ("dx", &dx, &dx_dense), ("no grad", &untracked, &y_dense)] {
        let error = (ours - theirs).abs().max().double_value(&[]);
        assert!(error <= 1e-4, "{name} is off by {error}");
    }
}

#[test]
fn the_numerical_gradient_agrees_in_double() {
    // In float64 the layer takes the path of plain libtorch operations, the one of every GPU.
    let weight = Nf4Weight::quantize(&random(5, 7), false).unwrap();
    let x = random(2, 7).to_kind(Kind::Double).set_requires_grad(true);
    let value = |x: &Tensor| shim::nf4_linear(x, &weight).sin().sum(Kind::Double);
    value(&x).backward();
    let (gradient, step) = (x.grad(), 1e-6);
    for i in 0..14 {
        let nudge = Tensor::zeros([14], (Kind::Double, Device::Cpu)).index_fill(0, &Tensor::from_slice(&[i]), step);
        let nudge = nudge.view([2, 7]);
        let (up, down) = (value(&(x.detach() + &nudge)), value(&(x.detach() - &nudge)));
        let numerical = ((up - down) / (2.0 * step)).double_value(&[]);
        let exact = gradient.view([14]).double_value(&[i]);
        assert!((numerical - exact).abs() < 1e-6, "{i}: {numerical} against {exact}");
    }
}

#[test]
fn a_failed_call_is_a_message_and_not_an_abort() {
    let weight = Nf4Weight::quantize(&random(4, 8), false).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shim::nf4_linear(&random(2, 9), &weight)));
    let message = caught.unwrap_err();
    assert!(message.downcast_ref::<String>().unwrap().contains("does not fit a weight of 8 columns"));
}
