//! The random generator's state, in a process of its own: other tests draw from the same generator.
#![allow(clippy::unwrap_used, missing_docs)]

use cloister_engine::shim;
use tch::{Device, Kind, Tensor};

#[test]
fn a_generator_put_back_repeats_itself() {
    let state = shim::generator_state(Device::Cpu).unwrap();
    let first = Tensor::randn([3, 3], (Kind::Float, Device::Cpu));
    shim::set_generator_state(Device::Cpu, &state).unwrap();
    assert_eq!(first, Tensor::randn([3, 3], (Kind::Float, Device::Cpu)));
    assert!(shim::set_generator_state(Device::Cpu, &Tensor::from_slice(&[1_u8, 2])).is_err());
}
