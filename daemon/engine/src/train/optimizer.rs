//! AdamW (Loshchilov & Hutter 2019) over an adapter's tensors, as `torch.optim.AdamW`. Written here because
//! tch's optimisers cannot save their state, and a run that resumes without its moments is another run.

use std::collections::BTreeMap;

use cloister_wire::recipe::Training;
use tch::{TchError, Tensor};

use crate::adapt::Adapter;

/// The optimiser and its state.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    /// Updates done.
    pub updates: u64,
    /// By the tensor's name.
    pub moments: BTreeMap<String, Moments>,
}

/// Running means of one tensor's gradient.
#[derive(Debug)]
pub struct Moments {
    /// Of the gradient.
    pub exp_avg: Tensor,
    /// Of its square.
    pub exp_avg_sq: Tensor,
}

impl AdamW {
    /// Fresh, for these tensors.
    pub fn new(adapter: &Adapter, training: &Training) -> Self {
        let zero = |tensor: &Tensor| Moments { exp_avg: tensor.zeros_like(), exp_avg_sq: tensor.zeros_like() };
        AdamW {
            beta1: training.beta1,
            beta2: training.beta2,
            epsilon: training.epsilon,
            weight_decay: training.weight_decay,
            updates: 0,
            moments: tch::no_grad(|| adapter.tensors().map(|(name, tensor)| (name, zero(tensor))).collect()),
        }
    }

    /// One update in place, from the gradients that lie in the tensors; a tensor without one is left.
    pub fn update(&mut self, adapter: &Adapter, learning_rate: f64) -> Result<(), TchError> {
        self.updates += 1;
        let corrections = [self.beta1, self.beta2].map(|beta| 1.0 - beta.powf(self.updates as f64));
        tch::no_grad(|| {
            for (name, tensor) in adapter.tensors() {
                let gradient = tensor.f_grad()?;
                if gradient.defined() {
                    self.update_one(&name, tensor, &gradient, learning_rate, corrections)?;
                }
            }
            Ok(())
        })
    }

    fn update_one(
        &mut self,
        name: &str,
        tensor: &Tensor,
        gradient: &Tensor,
        learning_rate: f64,
        [correction1, correction2]: [f64; 2],
    ) -> Result<(), TchError> {
        let Some(Moments { exp_avg, exp_avg_sq }) = self.moments.get_mut(name) else { return Ok(()) };
        let mut tensor = tensor.shallow_clone(); // another handle on the same numbers
        let _ = tensor.f_mul_scalar_(1.0 - learning_rate * self.weight_decay)?;
        let _ = exp_avg.f_lerp_(gradient, 1.0 - self.beta1)?;
        let _ = exp_avg_sq.f_mul_scalar_(self.beta2)?;
        let _ = exp_avg_sq.f_addcmul_(&(gradient * (1.0 - self.beta2)), gradient)?;
        let denominator = exp_avg_sq.f_sqrt()? / correction2.sqrt() + self.epsilon;
        let _ = tensor.f_addcdiv_(&(&*exp_avg * (-learning_rate / correction1)), &denominator)?;
        Ok(())
    }
}
