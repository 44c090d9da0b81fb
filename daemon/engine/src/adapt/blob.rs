//! Tensors to and from one safetensors blob. The writer is ours because the crate keeps metadata in a hash
//! map, whose order changes from run to run: here the same tensors give the same bytes on every machine.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use tch::{Device, Kind, Tensor};

/// What a blob holds: named tensors (float32, on the CPU) and free text beside them.
#[derive(Debug, Default)]
pub struct Blob {
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
    /// safetensors' `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// Writes tensors as float32, sorted by name.
pub fn write<'t>(
    tensors: impl IntoIterator<Item = (String, &'t Tensor)>,
    metadata: &BTreeMap<&str, String>,
) -> Result<Vec<u8>, tch::TchError> {
    let tensors: BTreeMap<String, &Tensor> = tensors.into_iter().collect();
    let mut header = BTreeMap::from([("__metadata__", json!(metadata))]);
    let mut data = Vec::new();
    for (name, tensor) in &tensors {
        let start = data.len();
        data.extend(bytes(tensor)?);
        let place = json!({ "dtype": "F32", "shape": tensor.size(), "data_offsets": [start, data.len()] });
        header.insert(name, place);
    }
    let mut header = json!(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut blob = Vec::with_capacity(8 + header.len() + data.len());
    blob.extend((header.len() as u64).to_le_bytes());
    blob.extend(header);
    blob.extend(data);
    Ok(blob)
}

/// Reads a blob; 16-bit floats are widened. The error is one line without a remedy.
pub fn read(bytes: &[u8]) -> Result<Blob, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let parsed = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let mut tensors = BTreeMap::new();
    for (name, view) in parsed.iter() {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            other => return Err(format!("`{name}` has type {other:?} where F32, F16 or BF16 is expected")),
        };
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|e| e.to_string())?;
        tensors.insert(name.to_owned(), tensor.to_kind(Kind::Float));
    }
    Ok(Blob { tensors, metadata })
}

/// The elements, float32, little endian, row-major.
pub fn bytes(tensor: &Tensor) -> Result<Vec<u8>, tch::TchError> {
    let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut values = vec![0f32; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}
