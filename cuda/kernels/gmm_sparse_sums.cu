// The sums over the rows of each component, and what becomes of them.
#include "common/slices.h"
#include "kernels/gmm_sparse_model.h"

namespace elbokit::cuda {

namespace {

// So many terms are summed in float before the sum goes to double.
constexpr int kRun = 64;

// Words of a component's mask, of kSparseRows rows each, that a block expands at once.
constexpr int kWordsAtOnce = 32;
constexpr int kRowsAtOnce = kWordsAtOnce * kSparseRows;
constexpr int kSumThreads = 128;

// Rows that a thread has on the way from memory.
constexpr int kAhead = 4;

// The rows of one component, kWordsAtOnce words of its mask at a time, in order.
struct RowList {
  std::uint16_t* row;  // less the first row of the words
  float* weight;       // responsibility times sample weight
  int* length;         // of the list
};

ELBOKIT_DEVICE int expand(const SparseShape& shape, const SparseMemory& memory, std::int64_t k,
                          std::int64_t begin, std::int64_t end, const RowList& list) {
  block_barrier();
  if (warp_index() == 0) {
    const std::int64_t at = begin + lane_index();
    std::uint64_t word = at < end ? memory.column_masks[k * shape.blocks() + at] : 0;
    const int mine = count_bits(word), through = warp_running_sum(mine);
    int start = through - mine;
    if (lane_index() == kWarp - 1) *list.length = through;
    for (; word; word &= word - 1)
      list.row[start++] = static_cast<std::uint16_t>(lane_index() * kSparseRows + lowest_bit(word));
  }
  block_barrier();
  const int n = *list.length;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kSumThreads) {
    const std::int64_t at = (begin * kSparseRows + list.row[i]) * kMostActive;
    if (memory.listed[at] == kLong) {
      list.weight[i] = memory.long_rows[memory.listed[at + 1] * shape.n_components + k];
      continue;
    }
    int slot = 0;
    while (memory.listed[at + slot] != k) ++slot;
    list.weight[i] = memory.responsibilities[at + slot];
  }
  block_barrier();
  return n;
}

// Block (k, split) adds up a component's rows in its part of the chunk, about the center; a thread
// has the features threadIdx.x + i kSumThreads.
template <int kEach>
__global__ void __launch_bounds__(kSumThreads)
    sums_kernel(SparseShape shape, SparseRows rows, SparseMemory memory, bool first_chunk) {
  auto* const weight = shared_memory<float>();
  auto* const row = reinterpret_cast<std::uint16_t*>(weight + kRowsAtOnce);
  const RowList list{row, weight, reinterpret_cast<int*>(row + kRowsAtOnce)};
  const std::int64_t k = blockIdx.x, d = shape.n_features;
  const std::int64_t blocks = whole(rows.rows, kSparseRows) / kSparseRows;
  const std::int64_t begin = blocks * blockIdx.y / kSparseSplits;
  const std::int64_t end = blocks * (blockIdx.y + 1) / kSparseSplits;
  float center[kEach] = {};
  double count = 0, first[kEach] = {}, second[kEach] = {};
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const std::int64_t j = threadIdx.x + i * kSumThreads;
    if (j < d) center[i] = memory.exact[k * 3 * d + j];
  }
  for (std::int64_t word = begin; word < end; word += kWordsAtOnce) {
    const int n = expand(shape, memory, k, word, end, list);
    for (int run = 0; run < n; run += kRun) {
      float run_count = 0, run_first[kEach] = {}, run_second[kEach] = {};
      const int stop = run + kRun < n ? run + kRun : n;
      for (int at = run; at < stop; at += kAhead) {
        float r[kAhead], x[kAhead][kEach] = {};
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          r[u] = at + u < stop ? list.weight[at + u] : 0;
          if (at + u >= stop) continue;
          const std::int64_t source = rows.begin + word * kSparseRows + list.row[at + u];
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            const std::int64_t j = threadIdx.x + i * kSumThreads;
            if (j < d) x[u][i] = sparse_element(rows.data, source, j);
          }
        }
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
          run_count += r[u];
#pragma unroll
          for (int i = 0; i < kEach; ++i) {
            const float difference = x[u][i] - center[i], product = r[u] * difference;
            run_first[i] += product;
            run_second[i] += product * difference;
          }
        }
      }
      count += static_cast<double>(run_count);
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        first[i] += static_cast<double>(run_first[i]);
        second[i] += static_cast<double>(run_second[i]);
      }
    }
  }
  double* const out = memory.partial + (blockIdx.y * shape.n_components + k) * shape.sums();
  const auto put = [&](std::int64_t at, double value) {
    out[at] = first_chunk ? value : out[at] + value;
  };
  if (threadIdx.x == 0) put(0, count);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const std::int64_t j = threadIdx.x + i * kSumThreads;
    if (j >= d) continue;
    put(1 + j, first[i]);
    put(1 + d + j, second[i]);
  }
}

// Adds up the parts, and moves the moments from the center to the mean. A block has a component.
__global__ void __launch_bounds__(kSumThreads)
    merge_kernel(SparseShape shape, GmmMixtures mixtures, SparseMemory memory, std::int64_t blocks,
                 GmmStatistics statistics, unsigned long long* failed) {
  auto* const scratch = shared_memory<double>();
  const std::int64_t k = blockIdx.x, d = shape.n_features;
  const auto total = [&](std::int64_t at) {
    double sum = 0;
    for (int split = 0; split < kSparseSplits; ++split)
      sum += memory.partial[(split * shape.n_components + k) * shape.sums() + at];
    return sum;
  };
  const double count = total(0);
  double squares = 0;
  for (std::int64_t j = threadIdx.x; j < d; j += kSumThreads) {
    const double shift =
        mixtures.means[k * d + j] - static_cast<double>(memory.exact[k * 3 * d + j]);
    const double first = total(1 + j);
    const double second = total(1 + d + j) - shift * (2 * first - count * shift);
    statistics.first[k * d + j] = first - count * shift;
    if (mixtures.covariance == Covariance::diag)
      statistics.second[k * d + j] = second;
    else
      squares += second;
  }
  squares = block_sum<kSumThreads>(squares, scratch);
  double mass = 0;
  for (std::int64_t i = threadIdx.x; i < blocks; i += kSumThreads)
    mass += memory.row_sums[shape.blocks() + i];
  mass = block_sum<kSumThreads>(mass, scratch);
  if (threadIdx.x != 0) return;
  if (mixtures.covariance == Covariance::spherical) statistics.second[k] = squares;
  statistics.counts[k] = count;
  if (count < kSparseKept * mass * mixtures.weights[k] / memory.constants[1]) atomic_add(failed, 1);
}

template <int kEach>
void launch_sums(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
                 const SparseMemory& memory) {
  constexpr std::size_t shared = kRowsAtOnce * (sizeof(float) + sizeof(std::uint16_t)) + 16;
  launch(queue, {shape.n_components, kSparseSplits}, kSumThreads, shared, sums_kernel<kEach>, shape,
         rows, memory, rows.begin == 0);
}

}  // namespace

void add_sparse_sums(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
                     const SparseMemory& memory) {
  if (shape.n_features <= kSumThreads)
    launch_sums<1>(queue, shape, rows, memory);
  else if (shape.n_features <= 2 * kSumThreads)
    launch_sums<2>(queue, shape, rows, memory);
  else
    launch_sums<4>(queue, shape, rows, memory);
}

void merge_sparse_sums(const Queue& queue, const SparseShape& shape, std::int64_t n_samples,
                       const GmmMixtures& mixtures, const SparseMemory& memory,
                       const GmmStatistics& statistics, unsigned long long* failures) {
  const std::int64_t most = n_samples < shape.chunk ? n_samples : shape.chunk;
  const std::int64_t blocks = whole(most, kSparseRows) / kSparseRows;
  launch(queue, {shape.n_components}, kSumThreads, sizeof(double) * kSumThreads / kWarp,
         merge_kernel, shape, mixtures, memory, blocks, statistics, failures);
  add_up(queue, memory.row_sums, blocks, statistics.log_likelihood);
}

}  // namespace elbokit::cuda
