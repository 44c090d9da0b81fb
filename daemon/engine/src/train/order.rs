//! Which examples a step learns from: every example once an epoch, in an order that seed and epoch decide.
//! A pure function of the step, so that a resumed run needs nothing but its number.

use cloister_wire::recipe::Training;

use crate::random::Stream;

/// The course of a run over its examples.
#[derive(Debug, Clone)]
pub struct Order {
    seed: u64,
    examples: usize,
    batch_size: usize,
    /// Optimiser steps in all.
    pub steps: u64,
    /// The epoch that was shuffled last, and its permutation.
    shuffled: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// Steps are counted as transformers counts them: an epoch's last batch may be short.
    pub fn new(seed: u64, examples: usize, training: &Training) -> Self {
        let batch_size = training.batch_size as usize;
        let per_epoch = examples.div_ceil(batch_size) as f64;
        let steps = ((training.epochs * per_epoch).ceil() as u64).max(1);
        let steps = training.max_steps.map_or(steps, |most| steps.min(most));
        Order { seed, examples, batch_size, steps, shuffled: None }
    }

    /// The examples of a step (from 0), by index.
    pub fn batch(&mut self, step: u64) -> Vec<usize> {
        let (per_epoch, batch_size) = (self.examples.div_ceil(self.batch_size) as u64, self.batch_size);
        let (epoch, within) = (step / per_epoch, (step % per_epoch) as usize);
        self.permutation(epoch).iter().skip(within * batch_size).take(batch_size).copied().collect()
    }

    /// Passes over the data after so many steps.
    pub fn epoch(&self, steps: u64) -> f64 {
        steps as f64 / self.examples.div_ceil(self.batch_size) as f64
    }

    fn permutation(&mut self, epoch: u64) -> &[usize] {
        let order = match self.shuffled.take() {
            Some((known, order)) if known == epoch => order,
            _ => {
                let mut order: Vec<usize> = (0..self.examples).collect();
                Stream::new(self.seed, &format!("order {epoch}")).shuffle(&mut order);
                order
            }
        };
        &self.shuffled.insert((epoch, order)).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(examples: usize, epochs: f64, max_steps: Option<u64>) -> Order {
        Order::new(3, examples, &Training { batch_size: 4, epochs, max_steps, ..Training::default() })
    }

    #[test]
    fn an_epoch_shows_every_example_once() {
        let mut order = order(10, 2.0, None);
        assert_eq!(order.steps, 6);
        let epochs: Vec<Vec<usize>> =
            [0..3, 3..6].map(|steps| steps.flat_map(|step| order.batch(step)).collect()).into();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1], "each epoch has an order of its own");
        assert_eq!(order.batch(0), epochs[0][..4], "a step's examples do not depend on what was asked before");
    }

    #[test]
    fn steps_follow_epochs_unless_capped() {
        assert_eq!(order(10, 0.5, None).steps, 2);
        assert_eq!(order(10, 5.0, Some(7)).steps, 7);
        assert_eq!(order(1, 0.1, None).steps, 1);
        assert_eq!(order(10, 2.0, None).epoch(3), 1.0);
    }
}
