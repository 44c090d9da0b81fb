//! Which token comes next: the likeliest, or one drawn from the likeliest.
//!
//! A draw is a function of the seed and of how many tokens the answer has, so that the same seed, prompt and
//! model give the same answer whatever else is being computed.

use cloister_wire::engine::Sampling;

/// Below this part of the likeliest token's probability a token is never drawn: it keeps sorting short, and
/// leaves out less than rounding does.
const NEGLIGIBLE: f32 = 1e-7;

/// How one answer's tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    temperature: f32,
    top_p: f32,
    seed: u64,
}

impl Sampler {
    /// From a request's settings, brought into their ranges.
    pub fn new(sampling: &Sampling) -> Self {
        let temperature = sampling.temperature.clamp(0.0, 100.0) as f32;
        let top_p = sampling.top_p.clamp(0.0, 1.0) as f32;
        // A temperature this low is greedy, and would overflow.
        Sampler { temperature: if temperature < 1e-3 { 0.0 } else { temperature }, top_p, seed: sampling.seed }
    }

    /// The token after `position` tokens of the answer, from the logits of the whole vocabulary; `None` when
    /// they are no numbers, so that a broken model does not answer with the first token for ever.
    pub fn choose(&self, logits: &[f32], position: u64) -> Option<u32> {
        let (best, top) = likeliest(logits);
        if !top.is_finite() {
            return None;
        }
        if self.temperature == 0.0 || self.top_p == 0.0 {
            return Some(best);
        }
        let mut weights: Vec<(u32, f32)> = (0..)
            .zip(logits)
            .map(|(id, logit)| (id, ((logit - top) / self.temperature).exp()))
            .filter(|(_, weight)| *weight >= NEGLIGIBLE)
            .collect();
        // The likeliest first; equal ones by id, so that the order is one and the same everywhere.
        weights.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f32 = weights.iter().map(|(_, weight)| weight).sum();
        let kept = nucleus(&weights, total * self.top_p);
        draw(kept, uniform(self.seed, position)).or(Some(best))
    }
}

/// The first of the largest logits and its value.
fn likeliest(logits: &[f32]) -> (u32, f32) {
    (0..).zip(logits).fold((0, f32::NEG_INFINITY), |best, (id, &logit)| if logit > best.1 { (id, logit) } else { best })
}

/// The shortest beginning that weighs at least `wanted`.
fn nucleus(weights: &[(u32, f32)], wanted: f32) -> &[(u32, f32)] {
    let mut sum = 0.0;
    let reached = weights.iter().position(|(_, weight)| {
        sum += weight;
        sum >= wanted
    });
    &weights[..reached.map_or(weights.len(), |last| last + 1)]
}

fn draw(weights: &[(u32, f32)], uniform: f64) -> Option<u32> {
    let total: f64 = weights.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let mut left = uniform * total;
    for (id, weight) in weights {
        left -= f64::from(*weight);
        if left < 0.0 {
            return Some(*id);
        }
    }
    weights.last().map(|(id, _)| *id)
}

/// A number in [0, 1), decided by seed and counter: SplitMix64's finaliser (Steele et al. 2014) over both.
fn uniform(seed: u64, counter: u64) -> f64 {
    let mixed = mix(mix(seed).wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_p: f64, seed: u64) -> Sampler {
        Sampler::new(&Sampling { temperature, top_p, max_tokens: None, stop: Vec::new(), seed })
    }

    #[test]
    fn temperature_zero_takes_the_likeliest_and_the_first_of_equals() {
        assert_eq!(sampler(0.0, 1.0, 1).choose(&[0.5, 2.0, 2.0, -1.0], 0), Some(1));
        assert_eq!(sampler(1e-9, 1.0, 1).choose(&[0.5, 2.0, 3.0, -1.0], 0), Some(2));
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let logits = [0.0, (2.0_f32).ln(), (5.0_f32).ln()];
        let drawn = |s: &Sampler| {
            let mut counts = [0_u32; 3];
            (0..40_000).for_each(|at| counts[s.choose(&logits, at).unwrap() as usize] += 1);
            counts.map(|n| f64::from(n) / 40_000.0)
        };
        let all = drawn(&sampler(1.0, 1.0, 9));
        for (found, expected) in all.iter().zip([0.125, 0.25, 0.625]) {
            assert!((found - expected).abs() < 0.01, "{all:?}");
        }
        // A temperature of 1/2 squares the weights: 1, 4, 25.
        let cold = drawn(&sampler(0.5, 1.0, 9));
        assert!((cold[2] - 25.0 / 30.0).abs() < 0.01, "{cold:?}");
        // The nucleus of 0.7 holds the two likeliest.
        let nucleus = drawn(&sampler(1.0, 0.7, 9));
        assert!(nucleus[0] == 0.0 && (nucleus[2] - 5.0 / 7.0).abs() < 0.01, "{nucleus:?}");
    }

    #[test]
    fn logits_that_are_no_numbers_choose_nothing() {
        for broken in [[f32::NAN; 3], [f32::INFINITY, 0.0, 1.0], [f32::NEG_INFINITY; 3]] {
            assert_eq!(sampler(0.0, 1.0, 1).choose(&broken, 0), None);
            assert_eq!(sampler(1.0, 0.9, 1).choose(&broken, 0), None);
        }
        assert_eq!(sampler(1.0, 0.9, 1).choose(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 0), Some(1));
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_alone() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
        let run = |seed| (0..20).map(|at| sampler(1.0, 0.95, seed).choose(&logits, at)).collect::<Vec<_>>();
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
