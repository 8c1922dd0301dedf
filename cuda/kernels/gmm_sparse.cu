#include "kernels/gmm_sparse.h"

#include "common/reduce.h"
#include "kernels/gmm_sparse_model.h"
#include "math/gaussian.h"

namespace elbokit::cuda {

namespace {

constexpr int kMostFeatures = 512;

// -|precision (x - center) - bias|^2 + log_const, by a warp; x lies in shared memory.
ELBOKIT_DEVICE float exact_logit(const SparseShape& shape, const SparseMemory& memory,
                                 const float* x, std::int64_t k) {
  const std::int64_t d = shape.n_features;
  const float* const model = memory.exact + k * 3 * d;
  float distance = 0;
  for (std::int64_t j = lane_index(); j < d; j += kWarp) {
    const float y = math::whiten(x[j], model[j], model[d + j], model[2 * d + j]);
    distance += y * y;
  }
  return memory.log_const[k] - warp_sum(distance);
}

// The components that may matter to a row, lane by lane, with their logits. Returns their number,
// of which those beyond kMostActive are left out.
ELBOKIT_DEVICE int active_logits(const SparseShape& shape, const SparseMemory& memory,
                                 const unsigned* masks, const float* x, int& component,
                                 float& logit) {
  int n = 0;
  for (std::int64_t base = 0; base < shape.words(); base += kWarp) {
    const std::int64_t at = base + lane_index();
    const unsigned mine = at < shape.words() ? masks[at] : 0;
    for (unsigned some = ballot(mine != 0); some; some &= some - 1) {
      const int lane = lowest_bit(some);
      for (unsigned word = shuffle(mine, lane); word; word &= word - 1) {
        if (n >= kMostActive) return n + 1;
        const std::int64_t k = (base + lane) * 32 + lowest_bit(word);
        const float value = exact_logit(shape, memory, x, k);
        if (lane_index() == n) {
          component = static_cast<int>(k);
          logit = value;
        }
        ++n;
      }
    }
  }
  return n;
}

// A warp has a row at a time; a block has kSparseRows of them.
__global__ void __launch_bounds__(kSparseThreads)
    responsibilities_kernel(SparseShape shape, SparseRows rows, SparseMemory memory, bool first,
                            unsigned long long* failed) {
  auto* const sums = shared_memory<double>();                                  // two per warp
  auto* const columns = reinterpret_cast<unsigned*>(sums + 2 * kSparseWarps);  // two per component
  auto* const x =
      reinterpret_cast<float*>(columns + 2 * shape.n_components) + warp_index() * shape.n_features;
  for (std::int64_t k = threadIdx.x; k < 2 * shape.n_components; k += kSparseThreads)
    columns[k] = 0;
  block_barrier();
  double log_likelihood = 0, mass = 0;
  for (int i = warp_index(); i < kSparseRows; i += kSparseWarps) {
    const std::int64_t at = std::int64_t{blockIdx.x} * kSparseRows + i;
    if (at >= rows.rows) break;
    const std::int64_t row = rows.begin + at;
    warp_barrier();
    for (std::int64_t j = lane_index(); j < shape.n_features; j += kWarp)
      x[j] = sparse_element(rows.data, row, j);
    warp_barrier();
    int component = 0;
    float logit = -__builtin_huge_valf();
    const int n =
        active_logits(shape, memory, memory.masks + at * shape.words(), x, component, logit);
    const float largest = warp_max(logit);
    const float unit = math::exp2_nonpositive(logit - largest);
    const float sum = warp_sum(unit);
    const double weight = rows.data.sample_weight ? rows.data.sample_weight[row] : 1.0;
    const bool fits = n <= kMostActive && sum >= 1.0f && sum <= static_cast<float>(kMostActive);
    if (lane_index() == 0) {
      if (!fits) atomic_add(failed, 1);
      mass += weight;
      log_likelihood +=
          weight * (static_cast<double>(math::log_density(largest, sum)) + memory.constants[0]);
      memory.counts[at] = fits ? n : 0;
    }
    if (!fits || lane_index() >= n) continue;
    memory.listed[at * kMostActive + lane_index()] = static_cast<std::uint16_t>(component);
    memory.responsibilities[at * kMostActive + lane_index()] =
        unit / sum * static_cast<float>(weight);
    if (unit > 0) atomic_or(columns + 2 * component + i / 32, 1u << i % 32);
  }
  if (lane_index() == 0) {
    sums[warp_index()] = log_likelihood;
    sums[kSparseWarps + warp_index()] = mass;
  }
  block_barrier();
  if (threadIdx.x < 2) {
    double sum = 0;
    for (int w = 0; w < kSparseWarps; ++w) sum += sums[threadIdx.x * kSparseWarps + w];
    double& out = memory.row_sums[threadIdx.x * shape.blocks() + blockIdx.x];
    out = first ? sum : out + sum;
  }
  for (std::int64_t k = threadIdx.x; k < shape.n_components; k += kSparseThreads)
    memory.column_masks[k * shape.blocks() + blockIdx.x] =
        columns[2 * k] | std::uint64_t{columns[2 * k + 1]} << 32;
}

std::size_t responsibilities_shared(const SparseShape& shape) {
  return sizeof(double) * 2 * kSparseWarps +
         4 * static_cast<std::size_t>(2 * shape.n_components + kSparseWarps * shape.n_features);
}

}  // namespace

bool gmm_sparse_serves(const GmmData& data, const GmmMixtures& mixtures, const Device& device) {
  if (!suits_matrix_units(data, mixtures, device) || data.n_features > kMostFeatures ||
      mixtures.n_components > 65535)
    return false;
  const SparseShape shape = sparse_shape(data, mixtures);
  return sparse_filter_shared(shape) <= device.shared_bytes &&
         responsibilities_shared(shape) <= device.shared_bytes;
}

std::size_t gmm_sparse_workspace(const GmmData& data, const GmmMixtures& mixtures, const Device&) {
  return SparseMemory(sparse_shape(data, mixtures), Workspace()).bytes;
}

void gmm_sparse_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                           const GmmStatistics& statistics, std::int64_t* failed) {
  expect_workspace(queue, gmm_sparse_workspace(data, mixtures, device_of(queue)));
  const DeviceGuard guard(queue);
  const SparseShape shape = sparse_shape(data, mixtures);
  const SparseMemory memory(shape, Workspace(queue));
  auto* const failures = reinterpret_cast<unsigned long long*>(failed);
  clear(queue, failures, sizeof(*failures));
  pack_sparse_model(queue, shape, mixtures, memory);
  for (std::int64_t begin = 0; begin < data.n_samples; begin += shape.chunk) {
    const std::int64_t left = data.n_samples - begin;
    const SparseRows rows{data, begin, left < shape.chunk ? left : shape.chunk};
    sparse_filter(queue, shape, rows, memory);
    launch(queue, {whole(rows.rows, kSparseRows) / kSparseRows}, kSparseThreads,
           responsibilities_shared(shape), responsibilities_kernel, shape, rows, memory, begin == 0,
           failures);
    add_sparse_sums(queue, shape, rows, memory);
  }
  merge_sparse_sums(queue, shape, data.n_samples, mixtures, memory, statistics, failures);
}

}  // namespace elbokit::cuda
