//! What libtorch looks up about the machine, at the first use of a part of it, while it still can: the kinds of
//! vector instructions (`/sys/devices/system/cpu`, `/proc/cpuinfo`), MKL's count of cores, the seed of a random
//! generator (`/dev/urandom`). A confined process opens none of these: libtorch would then compute with its slowest
//! kernels, and refuse to make a generator. Found with `strace -f -k` over whole tasks.
//!
//! INVARIANT: it starts no thread; `cloister_confine` refuses a process that has two.

use tch::{Device, Kind, Tensor};

use crate::model::ModelError;
use crate::shim;

/// Makes libtorch's lookups; the results are of no interest.
pub fn warm_up() -> Result<(), ModelError> {
    // Two by two: far below the size from which operations are shared out to threads.
    let small = Tensor::f_ones([2, 2], (Kind::Float, Device::Cpu))?;
    let _ = small.f_cos()?.f_matmul(&small)?;
    let _ = shim::generator_state(Device::Cpu)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_answers_on_this_machine() {
        warm_up().unwrap();
    }
}
