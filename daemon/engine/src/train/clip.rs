//! Clipping by the global norm, as `torch.nn.utils.clip_grad_norm_`.

use tch::{TchError, Tensor};

/// Scales gradients so that their common norm is at most `most` (0: leaves them), and returns the norm
/// before.
pub fn by_global_norm(gradients: &mut [Tensor], most: f64) -> Result<f64, TchError> {
    let norms: Vec<Tensor> = gradients.iter().map(Tensor::f_norm).collect::<Result<_, _>>()?;
    if norms.is_empty() {
        return Ok(0.0);
    }
    let norm = Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?;
    if most > 0.0 && norm.is_finite() {
        let coefficient = (most / (norm + 1e-6)).min(1.0);
        for gradient in gradients {
            let _ = gradient.f_mul_scalar_(coefficient)?;
        }
    }
    Ok(norm)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_is_common_to_all_tensors() {
        let mut gradients = [Tensor::from_slice(&[3f32]), Tensor::from_slice(&[0f32, 4.0])];
        assert_eq!(by_global_norm(&mut gradients, 10.0).unwrap(), 5.0);
        assert_eq!(by_global_norm(&mut gradients, 0.0).unwrap(), 5.0);
        assert_eq!(by_global_norm(&mut gradients, 1.0).unwrap(), 5.0);
        assert!((by_global_norm(&mut gradients, 1.0).unwrap() - 1.0).abs() < 1e-5);
    }
}
