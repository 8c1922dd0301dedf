#include "kernels/gmm_sparse.h"

#include "common/reduce.h"
#include "kernels/gmm_sparse_model.h"
#include "math/gaussian.h"

namespace elbokit::cuda {

namespace {

// So many terms are summed in float before the sum goes to double.
constexpr int kRun = 64;

// Words of a component's mask, of kSparseRows rows each, that a block expands at once.
constexpr int kWordsAtOnce = 32;
constexpr int kRowsAtOnce = kWordsAtOnce * kSparseRows;
constexpr int kSumThreads = 128;
constexpr int kMostFeatures = 512;

// Rows that a thread has on the way from memory.
constexpr int kAhead = 4;

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

// The rows of one component, kWordsAtOnce words of its mask at a time, in order.
struct RowList {
  std::uint16_t* row;  // less the first row of the words
  float* weight;       // responsibility times sample weight
  int* starts;         // scratch: kWordsAtOnce + 1
};

ELBOKIT_DEVICE int expand(const SparseShape& shape, const SparseMemory& memory, std::int64_t k,
                          std::int64_t begin, std::int64_t end, const RowList& list) {
  block_barrier();
  if (warp_index() == 0) {
    const std::int64_t at = begin + lane_index();
    std::uint64_t word = at < end ? memory.column_masks[k * shape.blocks() + at] : 0;
    int mine = count_bits(word), start = mine;
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = shuffle(start, (lane_index() - step) & (kWarp - 1));
      if (lane_index() >= step) start += before;
    }
    if (lane_index() == kWarp - 1) list.starts[0] = start;
    start -= mine;
    for (; word; word &= word - 1)
      list.row[start++] = static_cast<std::uint16_t>(lane_index() * kSparseRows + lowest_bit(word));
  }
  block_barrier();
  const int n = list.starts[0];
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kSumThreads) {
    const std::int64_t at = (begin * kSparseRows + list.row[i]) * kMostActive;
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

// One block.
__global__ void __launch_bounds__(kSparseThreads)
    merge_log_likelihood(std::int64_t blocks, const double* parts, double* log_likelihood) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < blocks; i += kSparseThreads) sum += parts[i];
  sum = block_sum<kSparseThreads>(sum, shared_memory<double>());
  if (threadIdx.x == 0) *log_likelihood = sum;
}

std::size_t responsibilities_shared(const SparseShape& shape) {
  return sizeof(double) * 2 * kSparseWarps +
         4 * static_cast<std::size_t>(2 * shape.n_components + kSparseWarps * shape.n_features);
}

template <int kEach>
void launch_sums(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
                 const SparseMemory& memory) {
  constexpr std::size_t shared = kRowsAtOnce * (sizeof(float) + sizeof(std::uint16_t)) + 16;
  launch(queue, {shape.n_components, kSparseSplits}, kSumThreads, shared, sums_kernel<kEach>, shape,
         rows, memory, rows.begin == 0);
}

void add_sums(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
              const SparseMemory& memory) {
  if (shape.n_features <= kSumThreads)
    launch_sums<1>(queue, shape, rows, memory);
  else if (shape.n_features <= 2 * kSumThreads)
    launch_sums<2>(queue, shape, rows, memory);
  else
    launch_sums<4>(queue, shape, rows, memory);
}

}  // namespace

bool gmm_may_be_sparse(const GmmData& data, const GmmMixtures& mixtures, const Device& device) {
  const bool diagonal =
      mixtures.covariance == Covariance::diag || mixtures.covariance == Covariance::spherical;
  if (!diagonal || data.n_mixtures != 1 || data.element == Element::kFloat64 ||
      data.n_features < 16 || data.n_features > kMostFeatures || mixtures.n_components < 64 ||
      mixtures.n_components > 65535 || device.compiled < kTensorCoreCapability)
    return false;
  const SparseShape shape = sparse_shape(data, mixtures);
  return sparse_filter_shared(shape) <= device.shared_bytes &&
         responsibilities_shared(shape) <= device.shared_bytes;
}

std::size_t gmm_sparse_workspace(const GmmData& data, const GmmMixtures& mixtures) {
  return SparseMemory(sparse_shape(data, mixtures), Workspace()).bytes;
}

void gmm_sparse_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                           const GmmStatistics& statistics, std::int64_t* failed) {
  expect_workspace(queue, gmm_sparse_workspace(data, mixtures));
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
    add_sums(queue, shape, rows, memory);
  }
  const std::int64_t most = data.n_samples < shape.chunk ? data.n_samples : shape.chunk;
  const std::int64_t blocks = whole(most, kSparseRows) / kSparseRows;
  launch(queue, {shape.n_components}, kSumThreads, sizeof(double) * kSumThreads / kWarp,
         merge_kernel, shape, mixtures, memory, blocks, statistics, failures);
  launch(queue, {}, kSparseThreads, sizeof(double) * kSparseWarps, merge_log_likelihood, blocks,
         static_cast<const double*>(memory.row_sums), statistics.log_likelihood);
}

}  // namespace elbokit::cuda
