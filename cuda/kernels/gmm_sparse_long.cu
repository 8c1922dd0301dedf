// Rows to which many components matter.
#include "kernels/gmm_sparse_rows.h"

namespace elbokit::cuda {

namespace {

// The responsibilities of a row for all components, by all threads. scratch: kSparseWarps numbers.
ELBOKIT_DEVICE RowSum keep_long(const SparseShape& shape, const SparseMemory& memory,
                                const SparseRow& row, unsigned place, float* scratch) {
  constexpr float none = -__builtin_huge_valf();
  float* const logits = memory.long_rows + place * shape.n_components;
  const auto for_mine = [&](auto&& f) {
    for (std::int64_t k = threadIdx.x; k < shape.n_components; k += kSparseThreads) f(k, logits[k]);
  };
  const auto over_warps = [&](float value, auto&& join) {
    block_barrier();
    if (lane_index() == 0) scratch[warp_index()] = value;
    block_barrier();
    value = scratch[0];
    for (int w = 1; w < kSparseWarps; ++w) value = join(value, scratch[w]);
    return value;
  };
  for_mine([&](std::int64_t, float& logit) { logit = none; });
  block_barrier();
  // Several at a time, since each waits for its model.
  constexpr int together = 4;
  std::int64_t waiting[together] = {};
  int count = 0;
  const auto finish = [&] {
    float values[together];
    exact_logits(shape, memory, row.x, waiting, values);
#pragma unroll
    for (int i = 0; i < together; ++i)
      if (i < count && lane_index() == i) logits[waiting[i]] = values[i];
    count = 0;
  };
  for_each_active(shape, row.masks, warp_index(), kSparseWarps, [&](std::int64_t k) {
#pragma unroll
    for (int i = 0; i < together; ++i)
      if (i == count) waiting[i] = k;
    if (++count == together) finish();
  });
  finish();
  block_barrier();
  float largest = none, sum = 0;
  for_mine([&](std::int64_t, float& logit) { largest = logit > largest ? logit : largest; });
  largest = over_warps(warp_max(largest), [](float a, float b) { return b > a ? b : a; });
  for_mine([&](std::int64_t, float& logit) {
    logit = math::exp2_nonpositive(logit - largest);  // NaN stays, and shows in the sum
    sum += logit;
  });
  sum = over_warps(warp_sum(sum), [](float a, float b) { return a + b; });
  for_mine([&](std::int64_t k, float& unit) {
    if (unit > 0) memory.column_masks[k * shape.blocks() + blockIdx.x] |= std::uint64_t{1} << row.i;
    unit = unit / sum * static_cast<float>(row.weight);
  });
  if (threadIdx.x < 2)
    memory.listed[row.at * kMostActive + threadIdx.x] =
        threadIdx.x == 0 ? kLong : static_cast<std::uint16_t>(place);
  return {largest, sum};
}

// A block has the rows of its kSparseRows that were put off; a single warp would take too long for
// one. It gets a place among the long rows, or has failed.
__global__ void __launch_bounds__(kSparseThreads)
    long_rows_kernel(SparseShape shape, SparseRows rows, SparseMemory memory,
                     unsigned long long* failed) {
  auto* const x = shared_memory<float>();       // (n_features)
  float* const scratch = x + shape.n_features;  // (kSparseWarps)
  auto* const shown = reinterpret_cast<unsigned*>(scratch + kSparseWarps);
  for (std::uint64_t some = memory.put_off[blockIdx.x]; some; some &= some - 1) {
    const SparseRow row = sparse_row(shape, rows, memory, lowest_bit(some), x);
    block_barrier();
    if (threadIdx.x == 0) *shown = atomic_next(memory.long_used);
    for (std::int64_t j = threadIdx.x; j < shape.n_features; j += kSparseThreads)
      x[j] = sparse_element(rows.data, rows.begin + row.at, j);
    block_barrier();
    const unsigned place = *shown;
    RowSum found{0, 0};
    if (place < shape.long_rows()) found = keep_long(shape, memory, row, place, scratch);
    if (threadIdx.x != 0) continue;
    memory.row_sums[blockIdx.x] += log_likelihood_of(shape, memory, row, found, failed);
    memory.row_sums[shape.blocks() + blockIdx.x] += row.weight;
  }
}

}  // namespace

void add_long_rows(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
                   const SparseMemory& memory, unsigned long long* failures) {
  clear(queue, memory.long_used, sizeof(unsigned));
  const std::size_t shared =
      sizeof(float) * static_cast<std::size_t>(shape.n_features + kSparseWarps + 1);
  launch(queue, {whole(rows.rows, kSparseRows) / kSparseRows}, kSparseThreads, shared,
         long_rows_kernel, shape, rows, memory, failures);
}

}  // namespace elbokit::cuda
