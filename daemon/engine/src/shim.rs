//! The seam to the C++ of `shim/`: what `tch` lacks. With the descriptor that arrives as standard input, it
//! and the CPU's kernels are the only unsafe code of the crate.
//!
//! INVARIANT: no C++ exception crosses; a failed call is an error message, freed here.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use tch::{Device, Kind, Tensor};

use crate::model::ModelError;
use crate::quant::Nf4Weight;
use crate::quant::kernel::{self, Kernels};
use crate::quant::nf4::{Absmax, dynamic_map};

#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Memory {
    allocated: i64,
    peak_allocated: i64,
    reserved: i64,
}

unsafe extern "C" {
    fn cloister_nf4_linear(
        result: *mut *mut c_void,
        x: *const c_void,
        packed: *const c_void,
        codes: *const c_void,
        absmax: *const c_void,
        map: *const c_void,
        offset: f64,
        out_features: i64,
        in_features: i64,
        kernels: *const Kernels,
    ) -> *mut c_char;
    fn cloister_narrow_linear(
        result: *mut *mut c_void,
        x: *const c_void,
        weight: *const c_void,
        kernels: *const Kernels,
    ) -> *mut c_char;
    fn cloister_nf4_dequantize(
        result: *mut *mut c_void,
        packed: *const c_void,
        codes: *const c_void,
        absmax: *const c_void,
        map: *const c_void,
        offset: f64,
        out_features: i64,
        in_features: i64,
        kind: c_int,
    ) -> *mut c_char;
    fn cloister_generator_state(result: *mut *mut c_void, device: c_int) -> *mut c_char;
    fn cloister_set_generator_state(state: *const c_void, device: c_int) -> *mut c_char;
    fn cloister_set_deterministic(on: c_int) -> *mut c_char;
    fn cloister_gpu_memory(result: *mut Memory, device: c_int) -> *mut c_char;
    fn cloister_reset_gpu_peak(device: c_int) -> *mut c_char;
    fn cloister_load_cuda(loaded: *mut c_int) -> *mut c_char;
    fn cloister_free(message: *mut c_char);
}

/// `x [rows, in]` times a 16-bit weight `[out, in]`, transposed. Panics as tch's own operations do, with
/// libtorch's message; a task catches that at its boundary.
pub fn narrow_linear(x: &Tensor, weight: &Tensor) -> Tensor {
    // SAFETY: the pointers are live tensors for the length of the call; `result` is written on success.
    or_unwind(produced(|result| unsafe { cloister_narrow_linear(result, raw(x), raw(weight), &kernel::KERNELS) }))
}

/// `x [rows, in]` times a 4-bit weight `[out, in]`, transposed. Panics as [`narrow_linear`] does.
pub fn nf4_linear(x: &Tensor, weight: &Nf4Weight) -> Tensor {
    let parts = Parts::of(weight);
    let [out_features, in_features] = weight.shape;
    // SAFETY: as above; the C++ side checks every size against the shape before a kernel reads.
    or_unwind(produced(|result| unsafe {
        cloister_nf4_linear(
            result,
            raw(x),
            raw(&weight.packed),
            parts.codes,
            parts.absmax,
            parts.map,
            parts.offset,
            out_features,
            in_features,
            &kernel::KERNELS,
        )
    }))
}

/// The whole of a 4-bit weight, by plain libtorch operations.
pub fn nf4_dequantize(weight: &Nf4Weight, kind: Kind) -> Tensor {
    let parts = Parts::of(weight);
    let [out_features, in_features] = weight.shape;
    // SAFETY: as above.
    or_unwind(produced(|result| unsafe {
        cloister_nf4_dequantize(
            result,
            raw(&weight.packed),
            parts.codes,
            parts.absmax,
            parts.map,
            parts.offset,
            out_features,
            in_features,
            scalar_type(kind),
        )
    }))
}

/// The state of a device's default random generator, as bytes in a tensor.
pub fn generator_state(device: Device) -> Result<Tensor, ModelError> {
    // SAFETY: `result` is written on success.
    produced(|result| unsafe { cloister_generator_state(result, index(device)) })
}

/// Puts a device's default random generator into a state taken before.
pub fn set_generator_state(device: Device, state: &Tensor) -> Result<(), ModelError> {
    // SAFETY: the state is a live tensor; a malformed one is refused by libtorch.
    checked(unsafe { cloister_set_generator_state(raw(state), index(device)) })
}

/// Whether operations that differ from run to run are refused from now on.
pub fn set_deterministic(on: bool) -> Result<(), ModelError> {
    // SAFETY: takes no pointer.
    checked(unsafe { cloister_set_deterministic(c_int::from(on)) })
}

/// Memory of a device's allocator, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuMemory {
    /// Held by tensors now.
    pub allocated: u64,
    /// Most that tensors ever held.
    pub peak_allocated: u64,
    /// Taken from the device, used or not.
    pub reserved: u64,
}

/// Memory of a GPU's allocator; `None` on the CPU, which has none of its own.
pub fn gpu_memory(device: Device) -> Result<Option<GpuMemory>, ModelError> {
    let Device::Cuda(at) = device else { return Ok(None) };
    let mut memory = Memory::default();
    // SAFETY: `memory` outlives the call.
    checked(unsafe { cloister_gpu_memory(&mut memory, at as c_int) })?;
    Ok(Some(GpuMemory {
        allocated: memory.allocated as u64,
        peak_allocated: memory.peak_allocated as u64,
        reserved: memory.reserved as u64,
    }))
}

/// Starts the GPU's peak anew.
pub fn reset_gpu_peak(device: Device) -> Result<(), ModelError> {
    match device {
        // SAFETY: takes no pointer.
        Device::Cuda(at) => checked(unsafe { cloister_reset_gpu_peak(at as c_int) }),
        _ => Ok(()),
    }
}

/// Opens `libtorch_cuda.so` when it lies beside `libtorch_cpu.so`; says whether it did. Once, at start,
/// before the sandbox closes the file system.
pub fn load_cuda() -> Result<bool, ModelError> {
    let mut loaded = 0;
    // SAFETY: `loaded` outlives the call.
    checked(unsafe { cloister_load_cuda(&mut loaded) })?;
    Ok(loaded != 0)
}

/// The elements of a tensor that lies whole in the CPU's memory, as bytes; empty for any other.
pub fn bytes(tensor: &Tensor) -> &[u8] {
    match span(tensor) {
        // SAFETY: a contiguous CPU tensor owns this many bytes at its data pointer while it is borrowed, and
        // any bytes are valid bytes.
        Some(len) => unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), len) },
        None => &[],
    }
}

/// As [`bytes`], to be written: for a tensor that was just made and has no second handle.
pub(crate) fn bytes_mut(tensor: &mut Tensor) -> &mut [u8] {
    match span(tensor) {
        // SAFETY: as above, and the caller holds the only handle.
        Some(len) => unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), len) },
        None => &mut [],
    }
}

/// Bytes of a tensor that is contiguous, on the CPU and not empty.
fn span(tensor: &Tensor) -> Option<usize> {
    let len = tensor.numel() * tensor.kind().elt_size_in_bytes();
    (tensor.device() == Device::Cpu && tensor.is_contiguous() && len > 0).then_some(len)
}

/// The tensors of a weight as the C++ side takes them.
struct Parts {
    codes: *const c_void,
    absmax: *const c_void,
    map: *const c_void,
    offset: f64,
}

impl Parts {
    fn of(weight: &Nf4Weight) -> Self {
        match &weight.absmax {
            Absmax::Plain(absmax) => Parts { codes: ptr::null(), absmax: raw(absmax), map: ptr::null(), offset: 0.0 },
            Absmax::Nested(nested) => Parts {
                codes: raw(&nested.codes),
                absmax: raw(&nested.absmax),
                map: raw(&nested.map),
                offset: f64::from(nested.offset),
            },
        }
    }
}

/// The dynamic map as a tensor on a device; made once a weight, since every product reads it.
pub(crate) fn map_tensor(device: Device) -> Tensor {
    Tensor::from_slice(&dynamic_map()).to_device(device)
}

/// libtorch's `ScalarType`, whose numbers tch keeps to itself.
fn scalar_type(kind: Kind) -> c_int {
    match kind {
        Kind::Half => 5,
        Kind::Double => 7,
        Kind::BFloat16 => 15,
        _ => 6,
    }
}

fn raw(tensor: &Tensor) -> *const c_void {
    tensor.as_ptr().cast()
}

fn index(device: Device) -> c_int {
    match device {
        Device::Cuda(index) => index as c_int,
        _ => -1,
    }
}

fn produced(call: impl FnOnce(*mut *mut c_void) -> *mut c_char) -> Result<Tensor, ModelError> {
    let mut result: *mut c_void = ptr::null_mut();
    checked(call(&mut result))?;
    if result.is_null() {
        return Err(ModelError::Torch("the shim returned nothing".into()));
    }
    // SAFETY: on success the C++ side has allocated a `torch::Tensor`, which is what tch owns.
    Ok(unsafe { Tensor::from_ptr(result.cast()) })
}

fn checked(message: *mut c_char) -> Result<(), ModelError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so it is a string from `strdup`, freed once, here.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: as above.
    unsafe { cloister_free(message) };
    Err(ModelError::Torch(crate::model::first_line(&text)))
}

fn or_unwind(result: Result<Tensor, ModelError>) -> Tensor {
    result.unwrap_or_else(|error| std::panic::resume_unwind(Box::new(error.to_string())))
}
