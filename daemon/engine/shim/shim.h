// The C interface of the shim: what `tch` lacks. Every function returns null, or an error message that the
// caller frees with `cloister_free`; no C++ exception crosses. Tensors pass as `torch::Tensor*`, as in tch.
#pragma once
#include <cstdint>

extern "C" {

// A 4-bit weight as the CPU's kernels see it. `codes` is null when absmax is not quantised.
struct CloisterNf4View {
  const uint8_t* packed;
  const uint8_t* codes;
  const float* absmax;
  const float* map;
  float offset;
};

// The CPU's kernels, written in Rust (`quant/kernel.rs`) and called from libtorch's threads.
struct CloisterKernels {
  // Elements [start, start + count) of the flat weight, dequantised into `out`.
  void (*nf4_fill)(const CloisterNf4View*, int64_t start, int64_t count, float* out);
  // y[t * stride + row] = weight[row] · x[t] for rows [begin, end) and t in [0, count).
  void (*nf4_rows)(const CloisterNf4View*, int64_t in, int64_t begin, int64_t end, const float* x, int64_t count,
                   float* y, int64_t stride);
  // The same for a bfloat16 weight.
  void (*bf16_rows)(const uint16_t*, int64_t in, int64_t begin, int64_t end, const float* x, int64_t count, float* y,
                    int64_t stride);
};

struct CloisterMemory {
  int64_t allocated, peak_allocated, reserved;
};

// Both linear layers: `*result = x @ weightᵀ`, differentiable in x only.
char* cloister_nf4_linear(void** result, void* x, void* packed, void* codes, void* absmax, void* map, double offset,
                          int64_t out_features, int64_t in_features, const CloisterKernels*);
char* cloister_narrow_linear(void** result, void* x, void* weight, const CloisterKernels*);
// The whole weight by plain libtorch operations; `kind` is a libtorch ScalarType.
char* cloister_nf4_dequantize(void** result, void* packed, void* codes, void* absmax, void* map, double offset,
                              int64_t out_features, int64_t in_features, int kind);

// `device` is -1 for the CPU, else the GPU's index.
char* cloister_generator_state(void** result, int device);
char* cloister_set_generator_state(void* state, int device);
char* cloister_set_deterministic(int on);
char* cloister_gpu_memory(CloisterMemory* result, int device);
char* cloister_reset_gpu_peak(int device);
// Opens libtorch_cuda.so when it lies beside libtorch_cpu.so; `*loaded` says whether it did.
char* cloister_load_cuda(int* loaded);
void cloister_free(char* message);
}
