//! Rotary position embedding, in the half-split convention of Hugging Face's Llama.

use std::f64::consts::PI;

use tch::{Device, Kind, Tensor};

use super::config::{RopeConfig, RopeScaling};

/// The inverse frequencies of a head, `[head_dim / 2]`.
#[derive(Debug)]
pub struct Rope {
    inverse_frequencies: Tensor,
}

/// Cosines and sines of a batch's positions, each `[tokens, 1, head_dim / 2]`.
#[derive(Debug)]
pub struct Angles {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// The frequencies that the configuration describes.
    pub fn new(config: &RopeConfig, head_dim: i64, device: Device) -> Self {
        let scaled: Vec<f32> = (0..head_dim / 2)
            .map(|i| {
                // As transformers does it: the power in float32, then the reciprocal.
                let power = (config.theta as f32).powf((2 * i) as f32 / head_dim as f32);
                scale(f64::from(1.0 / power), &config.scaling) as f32
            })
            .collect();
        Rope { inverse_frequencies: Tensor::from_slice(&scaled).to_device(device) }
    }

    /// Angles of the given absolute positions, in `kind`.
    pub fn angles(&self, positions: &[i64], kind: Kind) -> Angles {
        let device = self.inverse_frequencies.device();
        let positions = Tensor::from_slice(positions).to_device(device).to_kind(Kind::Float);
        let angles = positions.outer(&self.inverse_frequencies).unsqueeze(1);
        Angles { cos: angles.cos().to_kind(kind), sin: angles.sin().to_kind(kind) }
    }
}

impl Angles {
    /// Rotates `x` (`[tokens, heads, head_dim]`).
    pub fn rotate(&self, x: &Tensor) -> Tensor {
        let half = x.size()[2] / 2;
        let (first, second) = (x.narrow(2, 0, half), x.narrow(2, half, half));
        let turned = [&first * &self.cos - &second * &self.sin, &second * &self.cos + &first * &self.sin];
        Tensor::cat(&turned, 2)
    }
}

fn scale(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
            let wavelength = 2.0 * PI / frequency;
            if wavelength > original_context / low_frequency_factor {
                return frequency / factor;
            }
            if wavelength < original_context / high_frequency_factor {
                return frequency;
            }
            let smooth =
                (original_context / wavelength - low_frequency_factor) / (high_frequency_factor - low_frequency_factor);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}
