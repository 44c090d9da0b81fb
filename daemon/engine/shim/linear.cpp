// The frozen linear layer: its weight stays packed (4-bit) or narrow (16-bit) from load to exit. Forward and
// backward widen it again, on a CPU tile by tile, so that no float copy of it is ever kept for backward.
#include "shim.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <algorithm>

#include "guard.h"

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlock = 64;         // elements that share an absmax
constexpr int64_t kNestedBlock = 256;  // absmax values that share a nested absmax
constexpr int64_t kTileFloats = 1 << 19;
constexpr int64_t kFewRows = 8;  // up to here, one pass over the packed weight beats widening tiles

const float kLevels[16] = {-1.0f,
                           -0.6961928009986877f,
                           -0.5250730514526367f,
                           -0.39491748809814453f,
                           -0.28444138169288635f,
                           -0.18477343022823334f,
                           -0.09105003625154495f,
                           0.0f,
                           0.07958029955625534f,
                           0.16093020141124725f,
                           0.24611230194568634f,
                           0.33791524171829224f,
                           0.44070982933044434f,
                           0.5626170039176941f,
                           0.7229568362236023f,
                           1.0f};

// `codes` is undefined when absmax is plain; all but `weight` are undefined for a narrow weight.
struct Weight {
  Tensor weight, codes, absmax, map;
  double offset;
  int64_t out, in;
  const CloisterKernels* kernels;

  bool narrow() const { return !absmax.defined(); }

  CloisterNf4View view() const {
    return {weight.const_data_ptr<uint8_t>(), codes.defined() ? codes.const_data_ptr<uint8_t>() : nullptr,
            absmax.const_data_ptr<float>(), map.defined() ? map.const_data_ptr<float>() : nullptr,
            static_cast<float>(offset)};
  }
};

Tensor scales(const Weight& w) {
  if (!w.codes.defined()) return w.absmax;
  auto values = w.map.index_select(0, w.codes.to(at::kInt));
  auto nested = w.absmax.repeat_interleave(kNestedBlock).narrow(0, 0, w.codes.numel());
  return values * nested + w.offset;
}

// Plain libtorch operations: the path of every device but the CPU, and the one the CPU's kernels are checked
// against.
Tensor dequantize(const Weight& w, at::ScalarType kind) {
  const int64_t count = w.out * w.in;
  auto levels = torch::from_blob(const_cast<float*>(kLevels), {16}, at::kFloat).to(w.weight.device());
  auto high = w.weight.bitwise_right_shift(4);
  auto low = w.weight.bitwise_and(15);
  auto codes = at::stack({high, low}, 1).view({-1}).narrow(0, 0, count).to(at::kInt);
  auto values = levels.index_select(0, codes);
  auto each = scales(w).repeat_interleave(kBlock).narrow(0, 0, count);
  return (values * each).view({w.out, w.in}).to(kind);
}

Tensor dense(const Weight& w, at::ScalarType kind) { return w.narrow() ? w.weight.to(kind) : dequantize(w, kind); }

// Rows [row, row + rows) of columns [col, col + cols), as float.
void fill_tile(const Weight& w, int64_t row, int64_t rows, int64_t col, int64_t cols, Tensor& tile) {
  if (w.narrow()) {
    tile.copy_(w.weight.narrow(0, row, rows).narrow(1, col, cols));
    return;
  }
  auto view = w.view();
  float* out = tile.mutable_data_ptr<float>();
  if (cols == w.in) {
    w.kernels->nf4_fill(&view, row * w.in, rows * cols, out);
    return;
  }
  for (int64_t r = 0; r < rows; ++r) w.kernels->nf4_fill(&view, (row + r) * w.in + col, cols, out + r * cols);
}

// How many of `whole` rows (or columns) of `across` elements a tile takes: some hundred kilobytes, and at least
// eight tiles. It does not depend on the number of threads, so neither do the numbers.
int64_t tile_extent(int64_t whole, int64_t across) {
  const int64_t by_memory = std::max<int64_t>(kBlock, kTileFloats / across);
  const int64_t by_count = std::max<int64_t>(16, (whole + 7) / 8);
  const int64_t rounded = (std::min(by_memory, by_count) + 15) / 16 * 16;
  return std::min(whole, rounded);
}

template <typename Body>
void for_tiles(int64_t whole, int64_t across, const Body& body) {
  const int64_t extent = tile_extent(whole, across);
  const int64_t tiles = (whole + extent - 1) / extent;
  at::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    // Worker threads do not inherit the caller's autograd state.
    at::AutoDispatchBelowADInplaceOrView below;
    auto scratch = at::empty({extent * across}, at::kFloat);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = t * extent;
      const int64_t count = std::min(extent, whole - first);
      auto tile = scratch.narrow(0, 0, count * across);
      body(first, count, tile);
    }
  });
}

void few_rows(const Weight& w, const Tensor& x, Tensor& y) {
  const float* in = x.const_data_ptr<float>();
  float* out = y.mutable_data_ptr<float>();
  const int64_t count = x.size(0);
  at::parallel_for(0, w.out, 64, [&](int64_t begin, int64_t end) {
    if (w.narrow()) {
      auto weight = reinterpret_cast<const uint16_t*>(w.weight.const_data_ptr<at::BFloat16>());
      w.kernels->bf16_rows(weight, w.in, begin, end, in, count, out, w.out);
    } else {
      auto view = w.view();
      w.kernels->nf4_rows(&view, w.in, begin, end, in, count, out, w.out);
    }
  });
}

bool by_tiles(const Tensor& x) { return x.device().is_cpu() && x.scalar_type() == at::kFloat; }

Tensor forward_product(const Weight& w, const Tensor& input) {
  if (!by_tiles(input)) return input.matmul(dense(w, input.scalar_type()).t());
  auto x = input.contiguous();
  auto y = at::empty({x.size(0), w.out}, x.options());
  const bool has_kernel = !w.narrow() || w.weight.scalar_type() == at::kBFloat16;
  if (x.size(0) <= kFewRows && has_kernel) {
    few_rows(w, x, y);
    return y;
  }
  for_tiles(w.out, w.in, [&](int64_t row, int64_t rows, Tensor& flat) {
    auto tile = flat.view({rows, w.in});
    fill_tile(w, row, rows, 0, w.in, tile);
    auto target = y.narrow(1, row, rows);
    at::mm_out(target, x, tile.t());
  });
  return y;
}

Tensor backward_product(const Weight& w, const Tensor& gradient) {
  if (!by_tiles(gradient)) return gradient.matmul(dense(w, gradient.scalar_type()));
  auto g = gradient.contiguous();
  auto result = at::empty({g.size(0), w.in}, g.options());
  for_tiles(w.in, w.out, [&](int64_t col, int64_t cols, Tensor& flat) {
    auto tile = flat.view({w.out, cols});
    fill_tile(w, 0, w.out, col, cols, tile);
    auto target = result.narrow(1, col, cols);
    at::mm_out(target, g, tile);
  });
  return result;
}

struct FrozenLinear : public torch::autograd::Function<FrozenLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Weight& w) {
    ctx->save_for_backward({w.weight, w.codes, w.absmax, w.map});
    ctx->saved_data["offset"] = w.offset;
    ctx->saved_data["out"] = w.out;
    ctx->saved_data["in"] = w.in;
    ctx->saved_data["kernels"] = reinterpret_cast<int64_t>(w.kernels);
    return forward_product(w, x);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    auto saved = ctx->get_saved_variables();
    Weight w{saved[0],
             saved[1],
             saved[2],
             saved[3],
             ctx->saved_data["offset"].toDouble(),
             ctx->saved_data["out"].toInt(),
             ctx->saved_data["in"].toInt(),
             reinterpret_cast<const CloisterKernels*>(ctx->saved_data["kernels"].toInt())};
    return {backward_product(w, gradients[0]), Tensor()};
  }
};

Tensor apply(const Tensor& x, const Weight& w) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) == w.in, "input ", x.sizes(), " does not fit a weight of ", w.in, " columns");
  const bool tracked = at::GradMode::is_enabled() && x.requires_grad();
  return tracked ? FrozenLinear::apply(x, w) : forward_product(w, x);
}

Tensor optional(void* tensor) { return tensor ? *static_cast<Tensor*>(tensor) : Tensor(); }

Weight packed_weight(void* packed, void* codes, void* absmax, void* map, double offset, int64_t out, int64_t in,
                     const CloisterKernels* kernels) {
  Weight w{optional(packed), optional(codes), optional(absmax), optional(map), offset, out, in, kernels};
  const int64_t blocks = (out * in + kBlock - 1) / kBlock;
  TORCH_CHECK(w.weight.is_contiguous() && w.weight.numel() == (out * in + 1) / 2, "packed weight of the wrong size");
  TORCH_CHECK(w.absmax.is_contiguous() && w.absmax.scalar_type() == at::kFloat, "absmax is not float32");
  if (w.codes.defined()) {
    TORCH_CHECK(w.codes.is_contiguous() && w.codes.numel() == blocks, "absmax codes of the wrong size");
    TORCH_CHECK(w.absmax.numel() == (blocks + kNestedBlock - 1) / kNestedBlock, "nested absmax of the wrong size");
    TORCH_CHECK(w.map.defined() && w.map.numel() == 256, "the dynamic map has 256 levels");
  } else {
    TORCH_CHECK(w.absmax.numel() == blocks, "absmax of the wrong size");
  }
  return w;
}

}  // namespace

extern "C" char* cloister_nf4_linear(void** result, void* x, void* packed, void* codes, void* absmax, void* map,
                                     double offset, int64_t out, int64_t in, const CloisterKernels* kernels) {
  return guarded([&] {
    auto w = packed_weight(packed, codes, absmax, map, offset, out, in, kernels);
    *result = new Tensor(apply(*static_cast<Tensor*>(x), w));
  });
}

extern "C" char* cloister_narrow_linear(void** result, void* x, void* weight, const CloisterKernels* kernels) {
  return guarded([&] {
    auto table = *static_cast<Tensor*>(weight);
    TORCH_CHECK(table.dim() == 2 && table.is_contiguous(), "a narrow weight is a contiguous matrix");
    Weight w{table, {}, {}, {}, 0.0, table.size(0), table.size(1), kernels};
    *result = new Tensor(apply(*static_cast<Tensor*>(x), w));
  });
}

extern "C" char* cloister_nf4_dequantize(void** result, void* packed, void* codes, void* absmax, void* map,
                                         double offset, int64_t out, int64_t in, int kind) {
  return guarded([&] {
    auto w = packed_weight(packed, codes, absmax, map, offset, out, in, nullptr);
    *result = new Tensor(dequantize(w, static_cast<at::ScalarType>(kind)));
  });
}
