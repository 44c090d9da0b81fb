//! One line a step: what is being done, and how long it took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Times the story's steps and says each as it ends.
#[derive(Default)]
pub(crate) struct Steps {
    total: Duration,
}

impl Steps {
    /// Does a step. What it returns beside its value is said behind the step's name.
    pub(crate) fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        eprint!("▸ {name} … ");
        let begun = Instant::now();
        let done = work();
        let took = begun.elapsed();
        self.total += took;
        match &done {
            Ok((_, note)) => eprintln!("{note} ({:.1} s)", took.as_secs_f64()),
            Err(_) => eprintln!("failed ({:.1} s)", took.as_secs_f64()),
        }
        done.map(|(value, _)| value).with_context(|| format!("step `{name}`"))
    }

    /// All steps together.
    pub(crate) fn seconds(&self) -> f64 {
        self.total.as_secs_f64()
    }
}
