// Sums of the rows of each label, in the order of the rows: those of a tile are sorted by label,
// and a thread has the sum of a feature over a label's rows, or over a part of them.
#pragma once

#include "kernels/kmeans_rows.h"

namespace elbokit::cuda {

inline constexpr int kLabelWindow = 64;  // labels that are sorted at once
inline constexpr int kTileWarps = kTileRows / kWarp;

struct alignas(16) LabelSums {
  double parts[kKMeansThreads];
  std::uint16_t place[kLabelWindow]
                     [kTileWarps];        // of a label's rows among a warp's: how many; where
  std::uint16_t start[kLabelWindow + 8];  // of a label's rows
  std::uint16_t order[kTileRows];         // rows, sorted
};

// Sorts the tile's rows with a label in [first, first + width), and no others. label: of row i of
// the thread, -1 for none.
ELBOKIT_DEVICE void sort_rows(const std::int32_t (&label)[kThreadRows], std::int64_t first,
                              int width, LabelSums& sums) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < width * kTileWarps; i += kKMeansThreads)
    sums.place[i / kTileWarps][i % kTileWarps] = 0;
  block_barrier();
  int rank[kThreadRows], local[kThreadRows];
  for (int i = 0; i < kThreadRows; ++i) {
    const bool inside = label[i] >= first && label[i] < first + width;
    local[i] = inside ? static_cast<int>(label[i] - first) : -1;
    unsigned same = ballot(inside);
    for (int bit = 1; bit < width; bit *= 2) {
      const unsigned set = ballot((local[i] & bit) != 0);
      same &= local[i] & bit ? set : ~set;
    }
    rank[i] = count_bits(same & ((1u << lane_index()) - 1));
    if (inside && rank[i] == 0)
      sums.place[local[i]][warp_index() + i * kKMeansThreads / kWarp] =
          static_cast<std::uint16_t>(count_bits(same));
  }
  block_barrier();
  if (warp_index() == 0) {
    constexpr int each = kLabelWindow / kWarp;
    int own = 0;
    for (int l = lane_index() * each; l < (lane_index() + 1) * each && l < width; ++l)
      for (int w = 0; w < kTileWarps; ++w) own += sums.place[l][w];
    int at = warp_running_sum(own) - own;
    for (int l = lane_index() * each; l < (lane_index() + 1) * each && l < width; ++l) {
      sums.start[l] = static_cast<std::uint16_t>(at);
      for (int w = 0; w < kTileWarps; ++w) {
        const int count = sums.place[l][w];
        sums.place[l][w] = static_cast<std::uint16_t>(at);
        at += count;
      }
    }
    if (lane_index() == kWarp - 1) sums.start[width] = static_cast<std::uint16_t>(at);
  }
  block_barrier();
  for (int i = 0; i < kThreadRows; ++i)
    if (local[i] >= 0)
      sums.order[sums.place[local[i]][warp_index() + i * kKMeansThreads / kWarp] + rank[i]] =
          static_cast<std::uint16_t>(thread + i * kKMeansThreads);
  block_barrier();
}

// The sum of column `col` over some of the sorted rows of the tile that begins at `row`.
template <class S>
ELBOKIT_DEVICE double sum_column(const TypedRows<S>& rows, const Tile<Computed<S>>& tile,
                                 std::int64_t row, const std::uint16_t* order, int count, int col) {
  double sum = 0;
  if (col < rows.n_features) {
    const bool staged = tile.shape.features >= rows.n_features;
    const auto pivot = static_cast<double>(rows.pivot[col]);
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
      const int r = order[i];
      const auto value = staged ? tile.x[r * tile.shape.stride + col] : rows.at(row + r, col);
      sum += static_cast<double>(rows.weight_of(row + r)) * (static_cast<double>(value) - pivot);
    }
  } else if (!rows.weight) {
    sum = count;
  } else {
    const bool counts = col > rows.n_features;
    for (int i = 0; i < count; ++i) {
      const auto weight = static_cast<double>(rows.weight[row + order[i]]);
      sum += counts ? (weight > 0 ? 1.0 : 0.0) : weight;
    }
  }
  return sum;
}

// Adds the tile's rows to `out`, (n_clusters, d + kExtraSums), which is the block's own; writes
// them there if `first`.
template <class S>
ELBOKIT_DEVICE void add_tile(const TypedRows<S>& rows, const Tile<Computed<S>>& tile,
                             std::int64_t row, const std::int32_t (&label)[kThreadRows],
                             std::int64_t n_clusters, bool first, double* out, LabelSums& sums) {
  const int thread = static_cast<int>(threadIdx.x), cols = rows.n_features + kExtraSums;
  for (std::int64_t window = 0; window < n_clusters; window += kLabelWindow) {
    const int width =
        static_cast<int>(n_clusters - window < kLabelWindow ? n_clusters - window : kLabelWindow);
    sort_rows(label, window, width, sums);
    // Few sums are shared out among several threads each.
    const int cells = width * cols, across = cells < kKMeansThreads ? cells : kKMeansThreads;
    const int parts = kKMeansThreads / across, part = thread / across;
    for (int begin = 0; begin < cells; begin += across) {
      const int cell = begin + thread % across;
      double* const to = out + window * cols + cell;
      const bool inside = cell < cells;
      const int from = inside ? sums.start[cell / cols] : 0;
      const int count = inside ? sums.start[cell / cols + 1] - from : 0;
      // A label without rows in the tile keeps what it has, untouched: most of many labels.
      const bool writes = part == 0 && inside && (first || count > 0);
      const double before = writes && !first ? *to : 0.0;
      double sum = 0;
      if (part < parts && inside) {
        const int left = count * part / parts, right = count * (part + 1) / parts;
        sum = sum_column(rows, tile, row, sums.order + from + left, right - left, cell % cols);
      }
      if (parts > 1) {
        sums.parts[thread] = sum;
        block_barrier();
        for (int p = 1; p < parts && writes; ++p) sum += sums.parts[p * across + thread];
      }
      if (writes) *to = before + sum;
    }
  }
}

}  // namespace elbokit::cuda
