// Moments of labelled rows, in double. The rows of a block are sorted by label, so that a label's
// sums stay in registers over all of its rows.
#include "elbokit/kmeans.h"
#include "simd/vec.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

constexpr std::int64_t kBlockBytes = 256 * 1024;
constexpr std::int64_t kMinBlockRows = 32, kMaxBlockRows = 1024;
constexpr int kRowTile = 4;  // rows of a second moment that are summed together

std::int64_t padded(std::int64_t n) {
  return (n + kLanes<double> - 1) / kLanes<double> * kLanes<double>;
}

std::int64_t block_rows(std::int64_t n_features) {
  const std::int64_t rows = kBlockBytes / (2 * 8 * padded(n_features));
  return rows < kMinBlockRows ? kMinBlockRows : rows > kMaxBlockRows ? kMaxBlockRows : rows;
}

// A block's arrays in the workspace: rows less their center, and the same times the row's weight
// (one array where there are no weights), both sorted by label.
struct Block {
  std::int64_t ld;
  double *value, *weighted, *weight;
  std::int64_t *end, *row;  // where a label's rows end; the data's row at each place

  Block(std::int64_t n_features, bool has_weights, double* work)
      : ld(padded(n_features)),
        value(work),
        weighted(has_weights ? value + block_rows(n_features) * ld : value),
        weight(value + 2 * block_rows(n_features) * ld),
        end(nullptr),
        row(reinterpret_cast<std::int64_t*>(weight + block_rows(n_features))) {
    end = row + block_rows(n_features);
  }
};

std::int32_t label_of(const std::int32_t* labels, std::int64_t row) {
  return labels ? labels[row] : 0;
}

// Counting sort. Labels below 0 are left out.
void sort_rows(const std::int32_t* labels, std::int64_t begin, std::int64_t count,
               std::int64_t n_clusters, const Block& block) {
  for (std::int64_t k = 0; k <= n_clusters; ++k) block.end[k] = 0;
  for (std::int64_t n = begin; n < begin + count; ++n)
    if (label_of(labels, n) >= 0) ++block.end[label_of(labels, n) + 1];
  for (std::int64_t k = 0; k < n_clusters; ++k) block.end[k + 1] += block.end[k];
  for (std::int64_t n = begin; n < begin + count; ++n)
    if (label_of(labels, n) >= 0) block.row[block.end[label_of(labels, n)]++] = n;
}

// The label's rows [begin, end) of the block, as they lie in the data, less the center.
template <class T>
void read_rows(const KMeansRows<T>& rows, std::int64_t begin, std::int64_t end,
               const double* center, const Block& block) {
  const std::int64_t d = rows.n_features, stride = rows.x.col_stride;
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t n = block.row[i];
    const T* const x = rows.x.row(n);
    double* __restrict const value = block.value + i * block.ld;
    if (stride == 1) {
      for (std::int64_t j = 0; j < d; ++j) value[j] = static_cast<double>(x[j]) - center[j];
    } else {
      for (std::int64_t j = 0; j < d; ++j)
        value[j] = static_cast<double>(x[j * stride]) - center[j];
    }
    for (std::int64_t j = d; j < block.ld; ++j) value[j] = 0;
    if (!rows.sample_weight) continue;
    const double weight = block.weight[i] = rows.sample_weight[n];
    for (std::int64_t j = 0; j < block.ld; j += kLanes<double>)
      store(block.weighted + i * block.ld + j, weight * load(value + j));
  }
}

// The label's count and first moment.
void add_first(const Block& block, std::int64_t d, std::int64_t begin, std::int64_t end,
               double& count, double* first) {
  if (block.weighted == block.value)
    count += static_cast<double>(end - begin);
  else
    for (std::int64_t n = begin; n < end; ++n) count += block.weight[n];
  for (std::int64_t j = 0; j < d; j += kLanes<double>) {
    Vec<double> sum{};
    for (std::int64_t n = begin; n < end; ++n) sum += load(block.weighted + n * block.ld + j);
    for (int c = 0; c < kLanes<double> && j + c < d; ++c) first[j + c] += sum[c];
  }
}

// Sums over the rows [begin, end) of the block of vector `j` of `value`, times each of the Rows
// factors that `factor(row, i)` gives.
template <int Rows, class F>
ELBOKIT_INLINE void sum_products(const Block& block, std::int64_t begin, std::int64_t end,
                                 std::int64_t j, double* out, std::ptrdiff_t out_stride, int count,
                                 F&& factor) {
  Vec<double> sum[Rows] = {};
  for (std::int64_t n = begin; n < end; ++n) {
    Vec<double> value = load(block.value + n * block.ld + j);
    pin(value);
    for (int i = 0; i < Rows; ++i) sum[i] += value * factor(n, i);
  }
  for (int i = 0; i < Rows; ++i)
    for (int c = 0; c < count; ++c) out[i * out_stride + c] += sum[i][c];
}

// The lower triangle of the label's second moment, or its diagonal.
void add_second(const Block& block, std::int64_t d, std::int64_t begin, std::int64_t end, bool full,
                double* second) {
  constexpr int lanes = kLanes<double>;
  if (!full) {
    for (std::int64_t j = 0; j < d; j += lanes) {
      Vec<double> sum{};
      for (std::int64_t n = begin; n < end; ++n)
        sum += load(block.weighted + n * block.ld + j) * load(block.value + n * block.ld + j);
      for (int c = 0; c < lanes && j + c < d; ++c) second[j + c] += sum[c];
    }
    return;
  }
  for (std::int64_t i = 0; i < d; i += kRowTile)
    for (std::int64_t j = 0; j < i + kRowTile && j < d; j += lanes) {
      const int count = static_cast<int>(d - j < lanes ? d - j : lanes);
      const auto factor = [&](std::int64_t n, int row) ELBOKIT_INLINE_LAMBDA {
        return block.weighted[n * block.ld + i + row];
      };
      double* const out = second + i * d + j;
      if (i + kRowTile <= d)
        sum_products<kRowTile>(block, begin, end, j, out, d, count, factor);
      else
        for (int row = 0; i + row < d; ++row)
          sum_products<1>(block, begin, end, j, out + row * d, d, count,
                          [&](std::int64_t n, int)
                              ELBOKIT_INLINE_LAMBDA { return factor(n, row); });
    }
}

}  // namespace

std::int64_t label_moments_workspace(std::int64_t n_clusters, std::int64_t n_features) {
  return block_rows(n_features) * (2 * padded(n_features) + 2) + n_clusters + 1;
}

template <class T>
void label_moments_chunk(const KMeansRows<T>& rows, std::int64_t begin, std::int64_t end,
                         const std::int32_t* labels, std::int64_t n_clusters, const double* centers,
                         bool full, const LabelMoments& moments, double* work) {
  const std::int64_t d = rows.n_features, step = block_rows(d);
  const Block block(d, static_cast<bool>(rows.sample_weight), work);
  for (; begin < end; begin += step) {
    sort_rows(labels, begin, end - begin < step ? end - begin : step, n_clusters, block);
    for (std::int64_t k = 0, from = 0; k < n_clusters; from = block.end[k++]) {
      const std::int64_t to = block.end[k];
      if (from == to) continue;
      read_rows(rows, from, to, centers + k * d, block);
      add_first(block, d, from, to, moments.counts[k], moments.first + k * d);
      add_second(block, d, from, to, full, moments.second + k * (full ? d * d : d));
    }
  }
}

#define ELBOKIT_INSTANTIATE(T)                                                              \
  template void label_moments_chunk(const KMeansRows<T>&, std::int64_t, std::int64_t,       \
                                    const std::int32_t*, std::int64_t, const double*, bool, \
                                    const LabelMoments&, double*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::ELBOKIT_LEVEL
