//! Which device a task computes on: `auto`, `cpu` or `cuda:N`, resolved once when the model is opened.

use tch::{Device, Kind};

use crate::model::ModelError;

/// Resolves a device as the configuration writes it. `auto` takes the first GPU when there is one.
pub fn parse(wanted: &str) -> Result<Device, ModelError> {
    match wanted {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(Device::cuda_if_available()),
        "cuda" => gpu(0, wanted),
        _ => match wanted.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(index) => gpu(index, wanted),
            None => {
                Err(ModelError::Device { wanted: wanted.to_owned(), reason: "write `auto`, `cpu` or `cuda:N`".into() })
            }
        },
    }
}

fn gpu(index: usize, wanted: &str) -> Result<Device, ModelError> {
    let count = tch::Cuda::device_count();
    if (index as i64) < count {
        return Ok(Device::Cuda(index));
    }
    let reason = format!("this machine shows {count} GPUs to the engine; write `cpu`, or check driver and unit");
    Err(ModelError::Device { wanted: wanted.to_owned(), reason })
}

/// As the configuration writes it.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// The type that activations are computed in: float32 on a CPU (bfloat16 matmul is hundreds of times
/// slower there), bfloat16 on a GPU.
pub fn compute_kind(device: Device) -> Kind {
    if device.is_cuda() { Kind::BFloat16 } else { Kind::Float }
}
