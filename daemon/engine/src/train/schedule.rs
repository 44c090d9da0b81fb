//! The learning rate of a step: a warm-up from 0, then the recipe's course. As transformers'
//! `get_{cosine,linear,constant}_schedule_with_warmup`.

use std::f64::consts::PI;

use cloister_wire::recipe::{Schedule, Training};

/// Learning rate of a step (from 0) of a run of so many steps.
pub fn learning_rate(training: &Training, step: u64, steps: u64) -> f64 {
    let warmup = (training.warmup_ratio * steps as f64).ceil() as u64;
    if step < warmup {
        return training.learning_rate * step as f64 / warmup.max(1) as f64;
    }
    let progress = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    let factor = match training.schedule {
        Schedule::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        Schedule::Linear => 1.0 - progress,
        Schedule::Constant => 1.0,
    };
    training.learning_rate * factor.max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `[scheduler.get_last_lr() for 10 steps]` of transformers 5.23, lr 1, 3 warm-up steps of 10.
    #[test]
    fn courses_are_those_of_transformers() {
        let warmup = [0.0, 1.0 / 3.0, 2.0 / 3.0];
        let cosine = [
            1.0,
            0.9504844339512095,
            0.8117449009293668,
            0.6112604669781572,
            0.38873953302184283,
            0.18825509907063326,
            0.04951556604879043,
        ];
        let linear = [1.0, 6.0 / 7.0, 5.0 / 7.0, 4.0 / 7.0, 3.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0];
        for (schedule, course) in
            [(Schedule::Cosine, cosine), (Schedule::Linear, linear), (Schedule::Constant, [1.0; 7])]
        {
            let training = Training { learning_rate: 1.0, warmup_ratio: 0.3, schedule, ..Training::default() };
            for (step, expected) in warmup.iter().chain(&course).enumerate() {
                let found = learning_rate(&training, step as u64, 10);
                assert!((found - expected).abs() < 1e-12, "{schedule:?} step {step}: {found}");
            }
        }
    }
}
