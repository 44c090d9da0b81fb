//! Training, in the order of the work: `data` (records → token examples), `order` (which examples a step
//! learns from), `plan` (what fits into memory), `step` (forward and backward of one micro-batch, with
//! `loss` at its end), `clip` and `optimizer` (one update), `schedule` (how large), `checkpoint` (stop and
//! go on), `measure` (held-out loss) and `run`, the loop that puts them together.
//!
//! INVARIANT: what is learnt depends on recipe, records and base alone: the same seed gives the same bytes on
//! the CPU, and a run that was stopped and resumed gives those of the run that was not.

pub mod checkpoint;
pub mod clip;
pub mod data;
pub mod loss;
pub mod measure;
pub mod optimizer;
pub mod order;
pub mod plan;
mod run;
pub mod schedule;
pub mod step;

pub use run::run;
