#include "kernels/gmm_sparse_model.h"

#include <cmath>

#include "common/reduce.h"

namespace elbokit::cuda {

namespace {

// A warp has a component. The logarithm of its constant goes to `logs`, in nats.
__global__ void __launch_bounds__(kSparseThreads)
    pack_components(SparseShape shape, DiagonalMixture source, SparseMemory memory, double* logs) {
  const std::int64_t k = std::int64_t{blockIdx.x} * kSparseWarps + warp_index();
  if (k >= shape.n_components) return;
  const std::int64_t d = shape.n_features;
  double log_const = 0, offset = 0;
  for (std::int64_t j = lane_index(); j < d; j += kWarp) {
    const double mean = source.mixtures.means[k * d + j], given = source.precision(k, j);
    const double precision = kScale * given;
    const auto center = static_cast<float>(mean);
    float* const out = memory.exact + k * 3 * d + j;
    out[0] = center;
    out[d] = static_cast<float>(precision);
    out[2 * d] = static_cast<float>(precision * (mean - static_cast<double>(center)));
    log_const += log(given);
    const double shift = precision * (mean - static_cast<double>(memory.pivot[j]));
    offset += shift * shift;
  }
  log_const = warp_sum(log_const);
  offset = warp_sum(offset);
  if (lane_index() != 0) return;
  logs[k] = log(source.mixtures.weights[k]) + log_const - 0.5 * static_cast<double>(d) * kLog2Pi;
  memory.offset[k] = static_cast<float>(offset);
}

// One block: the constants relative to the largest, which is taken out in double.
__global__ void __launch_bounds__(kSparseThreads)
    finish_constants(SparseShape shape, DiagonalMixture source, SparseMemory memory,
                     const double* logs) {
  auto* const scratch = shared_memory<double>();
  const double infinity = __builtin_huge_val();
  double largest = -infinity;
  for (std::int64_t k = threadIdx.x; k < shape.n_components; k += kSparseThreads)
    largest = logs[k] > largest ? logs[k] : largest;
  largest = warp_max(largest);
  if (lane_index() == 0) scratch[warp_index()] = largest;
  block_barrier();
  for (int i = 0; i < kSparseWarps; ++i) largest = scratch[i] > largest ? scratch[i] : largest;
  if (largest == -infinity) largest = 0;
  if (threadIdx.x == 0) memory.constants[0] = largest;
  for (std::int64_t k = threadIdx.x; k < shape.components; k += kSparseThreads) {
    const bool extra = k >= shape.n_components;
    const double value = extra ? -infinity : (logs[k] - largest) * kLog2E;
    memory.log_const[k] = static_cast<float>(value);
    if (extra) memory.offset[k] = 0;
    // The upper bound is compared after the logarithm of the share is taken off it.
    const double share = extra ? 1 : source.mixtures.weights[k] / memory.constants[1];
    memory.upper_const[k] = static_cast<float>(share > 0 ? value - log(share) * kLog2E : -infinity);
  }
}

// What the filter multiplies: for z = x - pivot the logit is log_const - offset - sum of
// precision^2 z^2 + 2 sum of precision^2 (mean - pivot) z. A lane's four registers are its b
// fragments of the first product, then those of the second.
__global__ void __launch_bounds__(kSparseThreads)
    pack_coefficients(SparseShape shape, DiagonalMixture source, SparseMemory memory) {
  const std::int64_t n = shape.components / 8 * shape.steps() * kWarp;
  const std::int64_t i = std::int64_t{blockIdx.x} * kSparseThreads + threadIdx.x;
  if (i >= n) return;
  const int lane = static_cast<int>(i % kWarp);
  const std::int64_t step = i / kWarp % shape.steps();
  const std::int64_t k = i / kWarp / shape.steps() * 8 + lane / 4;
  float square[4] = {}, linear[4] = {};
  for (int e = 0; e < 4; ++e) {
    const std::int64_t j = step * 16 + lane % 4 * 2 + e % 2 + e / 2 * 8;
    if (k >= shape.n_components || j >= shape.n_features) continue;
    const double precision = kScale * source.precision(k, j);
    const double shift =
        source.mixtures.means[k * shape.n_features + j] - static_cast<double>(memory.pivot[j]);
    square[e] = static_cast<float>(precision * precision);
    linear[e] = static_cast<float>(precision * precision * shift);
  }
  std::uint32_t* const out = memory.coefficients + i * 4;
  out[0] = packed<BFloat16>(square[0], square[1]);
  out[1] = packed<BFloat16>(square[2], square[3]);
  out[2] = packed<BFloat16>(linear[0], linear[1]);
  out[3] = packed<BFloat16>(linear[2], linear[3]);
}

}  // namespace

SparseShape sparse_shape(const GmmData& data, const GmmMixtures& mixtures) {
  SparseShape shape{};
  shape.n_features = data.n_features;
  shape.n_components = mixtures.n_components;
  shape.depth = whole(data.n_features, 16);
  shape.components = whole(mixtures.n_components, kSparseTile);
  const std::int64_t rows = whole(data.n_samples, kSparseRows);
  shape.chunk = rows < kSparseChunk ? rows : kSparseChunk;
  return shape;
}

SparseMemory::SparseMemory(const SparseShape& shape, Workspace workspace) {
  const std::int64_t k = shape.n_components;
  pivot = workspace.take<float>(whole(shape.depth, kWarp));
  exact = workspace.take<float>(k * 3 * shape.n_features);
  log_const = workspace.take<float>(shape.components);
  upper_const = workspace.take<float>(shape.components);
  offset = workspace.take<float>(shape.components);
  coefficients = workspace.take<std::uint32_t>(shape.components / 8 * shape.steps() * kWarp * 4);
  constants = workspace.take<double>(2);
  masks = workspace.take<unsigned>(shape.chunk * shape.words());
  listed = workspace.take<std::uint16_t>(shape.chunk * kMostActive);
  responsibilities = workspace.take<float>(shape.chunk * kMostActive);
  long_used = workspace.take<unsigned>(1);
  long_rows = workspace.take<float>(shape.long_rows() * k);
  put_off = workspace.take<std::uint64_t>(shape.blocks());
  column_masks = workspace.take<std::uint64_t>(k * shape.blocks());
  partial = workspace.take<double>(kSparseSplits * k * shape.sums());
  row_sums = workspace.take<double>(2 * shape.blocks());
  bytes = workspace.used();
}

void pack_sparse_model(const Queue& queue, const SparseShape& shape, const GmmMixtures& mixtures,
                       const SparseMemory& memory) {
  const DiagonalMixture source{mixtures, shape.n_features};
  constexpr std::size_t scratch = sizeof(double) * kSparseWarps;
  double* const logs = memory.partial;  // not in use yet
  place_pivot(queue, source, memory.pivot, memory.constants + 1);
  launch(queue, {whole(shape.n_components, kSparseWarps) / kSparseWarps}, kSparseThreads, 0,
         pack_components, shape, source, memory, logs);
  launch(queue, {}, kSparseThreads, scratch, finish_constants, shape, source, memory, logs);
  const std::int64_t n = shape.components / 8 * shape.steps() * kWarp;
  launch(queue, {whole(n, kSparseThreads) / kSparseThreads}, kSparseThreads, 0, pack_coefficients,
         shape, source, memory);
}

}  // namespace elbokit::cuda
