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

// Calls f(k) for the components that may matter to a row, in order, while it returns true.
template <class F>
ELBOKIT_DEVICE void for_each_active(const SparseShape& shape, const unsigned* masks, F&& f) {
  for (std::int64_t base = 0; base < shape.words(); base += kWarp) {
    const std::int64_t at = base + lane_index();
    const unsigned mine = at < shape.words() ? masks[at] : 0;
    for (unsigned some = ballot(mine != 0); some; some &= some - 1) {
      const int lane = lowest_bit(some);
      for (unsigned word = shuffle(mine, lane); word; word &= word - 1)
        if (!f((base + lane) * 32 + lowest_bit(word))) return;
    }
  }
}

// What a warp finds for a row: the largest logit, and the sum of 2 to the others' differences from
// it.
struct RowSum {
  float largest, sum;
};

// The row that a warp has at the moment.
struct SparseRow {
  std::int64_t at;  // in the chunk
  int i;            // in the block
  const unsigned* masks;
  const float* x;
  float weight;
};

// The components of a row that has kMostActive at most, a lane each. Returns how many there are, of
// which those beyond kMostActive are left out.
struct Listed {
  int n = 0, component = 0;
  float logit = -__builtin_huge_valf();

  ELBOKIT_DEVICE Listed(const SparseShape& shape, const SparseMemory& memory,
                        const SparseRow& row) {
    for_each_active(shape, row.masks, [&](std::int64_t k) {
      if (++n > kMostActive) return false;
      const float value = exact_logit(shape, memory, row.x, k);
      if (lane_index() == n - 1) {
        component = static_cast<int>(k);
        logit = value;
      }
      return true;
    });
  }

  // Keeps the responsibilities, if they are numbers; `columns` are the rows of each component.
  ELBOKIT_DEVICE RowSum keep(const SparseMemory& memory, const SparseRow& row,
                             unsigned* columns) const {
    const float largest = warp_max(logit);
    const float unit = math::exp2_nonpositive(logit - largest), sum = warp_sum(unit);
    if (sum >= 1.0f && lane_index() < n) {
      memory.listed[row.at * kMostActive + lane_index()] = static_cast<std::uint16_t>(component);
      memory.responsibilities[row.at * kMostActive + lane_index()] = unit / sum * row.weight;
      if (unit > 0) atomic_or(columns + 2 * component + row.i / 32, 1u << row.i % 32);
    }
    return {largest, sum};
  }
};

// The same for a row that has more, if there is a place for it.
ELBOKIT_DEVICE RowSum keep_long(const SparseShape& shape, const SparseMemory& memory,
                                const SparseRow& row, unsigned* columns) {
  unsigned place = 0;
  if (lane_index() == 0) place = atomic_next(memory.long_used);
  place = shuffle(place, 0);
  if (place >= shape.long_rows()) return {0, 0};
  constexpr float none = -__builtin_huge_valf();
  float* const logits = memory.long_rows + place * shape.n_components;
  const auto for_all = [&](auto&& f) {
    for (std::int64_t k = lane_index(); k < shape.n_components; k += kWarp) f(k, logits[k]);
  };
  for_all([&](std::int64_t, float& logit) { logit = none; });
  warp_barrier();
  for_each_active(shape, row.masks, [&](std::int64_t k) {
    const float value = exact_logit(shape, memory, row.x, k);
    if (lane_index() == k % kWarp) logits[k] = value;
    return true;
  });
  float largest = none, sum = 0;
  for_all([&](std::int64_t, float& logit) { largest = logit > largest ? logit : largest; });
  largest = warp_max(largest);
  for_all([&](std::int64_t, float& logit) {
    logit = math::exp2_nonpositive(logit - largest);  // NaN stays, and shows in the sum
    sum += logit;
  });
  sum = warp_sum(sum);
  for_all([&](std::int64_t k, float& unit) {
    if (unit > 0) atomic_or(columns + 2 * k + row.i / 32, 1u << row.i % 32);
    unit = unit / sum * row.weight;
  });
  if (lane_index() < 2)
    memory.listed[row.at * kMostActive + lane_index()] =
        lane_index() == 0 ? kLong : static_cast<std::uint16_t>(place);
  return {largest, sum};
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
    const double weight = rows.data.sample_weight ? rows.data.sample_weight[row] : 1.0;
    const SparseRow mine{at, i, memory.masks + at * shape.words(), x, static_cast<float>(weight)};
    const Listed active(shape, memory, mine);
    const auto [largest, sum] = active.n <= kMostActive ? active.keep(memory, mine, columns)
                                                        : keep_long(shape, memory, mine, columns);
    if (lane_index() == 0) {
      if (!(sum >= 1.0f && sum <= static_cast<float>(shape.n_components))) atomic_add(failed, 1);
      mass += weight;
      log_likelihood +=
          weight * (static_cast<double>(math::log_density(largest, sum)) + memory.constants[0]);
    }
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
    clear(queue, memory.long_used, sizeof(unsigned));
    launch(queue, {whole(rows.rows, kSparseRows) / kSparseRows}, kSparseThreads,
           responsibilities_shared(shape), responsibilities_kernel, shape, rows, memory, begin == 0,
           failures);
    add_sparse_sums(queue, shape, rows, memory);
  }
  merge_sparse_sums(queue, shape, data.n_samples, mixtures, memory, statistics, failures);
}

}  // namespace elbokit::cuda
