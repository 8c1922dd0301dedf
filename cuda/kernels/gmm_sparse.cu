#include "kernels/gmm_sparse.h"

#include "kernels/gmm_sparse_rows.h"

namespace elbokit::cuda {

namespace {

constexpr int kMostFeatures = 512;

// How many components may matter to a row.
ELBOKIT_DEVICE int count_active(const SparseShape& shape, const unsigned* masks) {
  int n = 0;
  for (std::int64_t word = lane_index(); word < shape.words(); word += kWarp)
    n += count_bits(masks[word]);
  return warp_sum(n);
}

// The components of a row that has kMostActive at most, a lane each.
struct Listed {
  int n = 0, component = 0;
  float logit = -__builtin_huge_valf();

  ELBOKIT_DEVICE Listed(const SparseShape& shape, const SparseMemory& memory,
                        const SparseRow& row) {
    for_each_active(shape, row.masks, 0, 1, [&](std::int64_t k) {
      float value[1];
      exact_logits(shape, memory, row.x, {k}, value);
      if (lane_index() == n) {
        component = static_cast<int>(k);
        logit = value[0];
      }
      ++n;
    });
  }

  // Keeps the responsibilities, if they are numbers; `columns` are the rows of each component.
  ELBOKIT_DEVICE RowSum keep(const SparseMemory& memory, const SparseRow& row,
                             unsigned* columns) const {
    const float largest = warp_max(logit);
    const float unit = math::exp2_nonpositive(logit - largest), sum = warp_sum(unit);
    if (sum >= 1.0f && lane_index() < n) {
      memory.listed[row.at * kMostActive + lane_index()] = static_cast<std::uint16_t>(component);
      memory.responsibilities[row.at * kMostActive + lane_index()] =
          unit / sum * static_cast<float>(row.weight);
      if (unit > 0) atomic_or(columns + 2 * component + row.i / 32, 1u << row.i % 32);
    }
    return {largest, sum};
  }
};

// A warp has a row at a time; a block has kSparseRows of them. Rows to which many components matter
// are put off.
__global__ void __launch_bounds__(kSparseThreads)
    responsibilities_kernel(SparseShape shape, SparseRows rows, SparseMemory memory, bool first,
                            unsigned long long* failed) {
  auto* const sums = shared_memory<double>();                                  // two per warp
  auto* const put_off = reinterpret_cast<unsigned*>(sums + 2 * kSparseWarps);  // (2): rows
  unsigned* const columns = put_off + kSparseRows / 32;                        // two per component
  auto* const x =
      reinterpret_cast<float*>(columns + 2 * shape.n_components) + warp_index() * shape.n_features;
  for (std::int64_t k = threadIdx.x; k < 2 * shape.n_components; k += kSparseThreads)
    columns[k] = 0;
  if (threadIdx.x < kSparseRows / 32) put_off[threadIdx.x] = 0;
  block_barrier();
  double log_likelihood = 0, mass = 0;
  for (int i = warp_index(); i < kSparseRows; i += kSparseWarps) {
    if (std::int64_t{blockIdx.x} * kSparseRows + i >= rows.rows) break;
    const SparseRow row = sparse_row(shape, rows, memory, i, x);
    if (count_active(shape, row.masks) > kMostActive) {
      if (lane_index() == 0) atomic_or(put_off + i / 32, 1u << i % 32);
      continue;
    }
    warp_barrier();
    for (std::int64_t j = lane_index(); j < shape.n_features; j += kWarp)
      x[j] = sparse_element(rows.data, rows.begin + row.at, j);
    warp_barrier();
    const RowSum found = Listed(shape, memory, row).keep(memory, row, columns);
    if (lane_index() > 0) continue;
    mass += row.weight;
    log_likelihood += log_likelihood_of(shape, memory, row, found, failed);
  }
  if (lane_index() == 0) {
    sums[warp_index()] = log_likelihood;
    sums[kSparseWarps + warp_index()] = mass;
  }
  block_barrier();
  if (threadIdx.x == 0) memory.put_off[blockIdx.x] = put_off[0] | std::uint64_t{put_off[1]} << 32;
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
         4 * (kSparseRows / 32 +
              static_cast<std::size_t>(2 * shape.n_components + kSparseWarps * shape.n_features));
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
    add_long_rows(queue, shape, rows, memory, failures);
    add_sparse_sums(queue, shape, rows, memory);
  }
  merge_sparse_sums(queue, shape, data.n_samples, mixtures, memory, statistics, failures);
}

}  // namespace elbokit::cuda
