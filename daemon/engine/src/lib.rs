//! The engine: everything that touches a tensor. It loads a base model, quantises it, tunes adapters on
//! it, evaluates them and serves them. It runs as a process of its own, because libtorch's C++ faults
//! must cost a job and never the keys, and it opens neither files nor sockets: what it reads arrives as
//! descriptors, what it writes leaves as frames.
//!
//! Read in the order of the work: `model` (files → decoder), `quant` (4-bit weights), `adapt` (LoRA),
//! `train`, `evaluate`, `generate` (sampling, serving). `task` is what a task is given and how it answers,
//! `random` the one source of chance. `warm_up` is what libtorch has to see of the machine
//! before the process is confined. `shim` is the seam to the C++ that `tch` lacks.

pub mod adapt;
pub mod device;
pub mod evaluate;
pub mod generate;
pub mod memory;
pub mod model;
pub mod process;
pub mod quant;
pub mod random;
pub mod shim;
pub mod task;
pub mod train;
pub mod warm_up;
