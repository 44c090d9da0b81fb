// Process-wide state of libtorch that `tch` does not reach: generators, determinism, memory, CUDA's library.
#include "shim.h"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>
#include <link.h>
#include <torch/torch.h>

#include <cstdlib>
#include <mutex>
#include <string>

#include "guard.h"

namespace {

at::Generator generator(int device) {
  if (device < 0) return at::globalContext().defaultGenerator(at::Device(at::kCPU));
  return at::globalContext().defaultGenerator(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device)));
}

// The path of libtorch_cuda.so beside the libtorch_cpu.so that this process runs.
int beside_libtorch_cpu(dl_phdr_info* info, size_t, void* found) {
  std::string path = info->dlpi_name ? info->dlpi_name : "";
  const auto slash = path.rfind('/');
  if (slash == std::string::npos || path.compare(slash + 1, 14, "libtorch_cpu.s") != 0) return 0;
  *static_cast<std::string*>(found) = path.substr(0, slash + 1) + "libtorch_cuda.so";
  return 1;
}

}  // namespace

extern "C" char* cloister_generator_state(void** result, int device) {
  return guarded([&] {
    auto source = generator(device);
    std::lock_guard<std::mutex> lock(source.mutex());
    *result = new at::Tensor(source.get_state());
  });
}

extern "C" char* cloister_set_generator_state(void* state, int device) {
  return guarded([&] {
    auto target = generator(device);
    std::lock_guard<std::mutex> lock(target.mutex());
    target.set_state(*static_cast<at::Tensor*>(state));
  });
}

extern "C" char* cloister_set_deterministic(int on) {
  return guarded([&] {
    at::globalContext().setDeterministicAlgorithms(on != 0, /*warn_only=*/false);
    // Filling every fresh tensor costs time and decides nothing: no operation here reads one unwritten.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

extern "C" char* cloister_gpu_memory(CloisterMemory* result, int device) {
  return guarded([&] {
    auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<at::DeviceIndex>(device));
    *result = {stats.allocated_bytes[0].current, stats.allocated_bytes[0].peak, stats.reserved_bytes[0].current};
  });
}

extern "C" char* cloister_reset_gpu_peak(int device) {
  return guarded([&] { at::getDeviceAllocator(at::kCUDA)->resetPeakStats(static_cast<at::DeviceIndex>(device)); });
}

extern "C" char* cloister_load_cuda(int* loaded) {
  return guarded([&] {
    std::string path;
    dl_iterate_phdr(beside_libtorch_cpu, &path);
    *loaded = !path.empty() && dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr;
  });
}

extern "C" void cloister_free(char* message) { std::free(message); }
