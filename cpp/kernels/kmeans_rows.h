// Rows by their numbers to a group's layout, features first, and distances to a few centers.
#pragma once

#include "elbokit/kmeans.h"
#include "kernels/gmm_pack.h"

namespace elbokit::ELBOKIT_LEVEL {

// Centers whose distances one run of the micro-kernel keeps in registers.
inline constexpr int kCenterTile = 4;

static_assert(kSeedRun % kGroup<float> == 0 && kSeedRun % kGroup<double> == 0,
              "a run of the seeding is whole groups");

// Asks for the cache lines of `bytes` from `from`.
ELBOKIT_INLINE void prefetch_lines(const void* from, std::ptrdiff_t bytes) {
  for (std::ptrdiff_t at = 0; at < bytes; at += 64)
    __builtin_prefetch(static_cast<const char*>(from) + at);
}

// The same of rows that are about to be packed. Those that lie one behind the other are one long
// row; of another long row, the processor sees the rest coming.
template <class T>
ELBOKIT_INLINE void prefetch_listed(const KMeansRows<T>& rows, std::int64_t base,
                                    const std::int32_t* list, std::int64_t count) {
  constexpr std::ptrdiff_t most = 256;
  if (rows.x.col_stride != 1 || count <= 0) return;
  const std::ptrdiff_t bytes = rows.n_features * static_cast<std::ptrdiff_t>(sizeof(T));
  if (list[count - 1] - list[0] == count - 1 && rows.x.row_stride == rows.n_features)
    return prefetch_lines(rows.x.row(base + list[0]), count * bytes);
  for (std::int64_t i = 0; i < count; ++i)
    prefetch_lines(rows.x.row(base + list[i]), bytes < most ? bytes : most);
}

// One vector of rows, transposed tile by tile, less the pivot.
template <class T>
ELBOKIT_INLINE void pack_tiles(const KMeansChunk<T>& chunk, const T* const (&row)[kLanes<T>],
                               T* to) {
  constexpr int lanes = kLanes<T>;
  const std::int64_t d = chunk.rows.n_features, stride = chunk.rows.x.col_stride;
  for (std::int64_t j = 0; j < d; j += lanes) {
    const int width = static_cast<int>(d - j < lanes ? d - j : lanes);
    Vec<T> tile[lanes];
    if (stride == 1 && width == lanes) {
      for (int i = 0; i < lanes; ++i) tile[i] = load(row[i] + j);
    } else if (stride == 1) {
      for (int i = 0; i < lanes; ++i) tile[i] = load_partial(row[i] + j, width);
    } else {
      for (int i = 0; i < lanes; ++i) {
        T value[lanes] = {};
        for (int c = 0; c < width; ++c) value[c] = row[i][(j + c) * stride];
        tile[i] = load(value);
      }
    }
    transpose<T>(tile);
    if (width == lanes)
      for (int c = 0; c < lanes; ++c) store(to + (j + c) * kGroup<T>, tile[c] - chunk.pivot[j + c]);
    else
      for (int c = 0; c < width; ++c) store(to + (j + c) * kGroup<T>, tile[c] - chunk.pivot[j + c]);
  }
}

// The group's rows list[0], ..., list[count - 1], counted from `base`; past them the last again.
template <class T>
void pack_listed(const KMeansChunk<T>& chunk, std::int64_t base, const std::int32_t* list,
                 int count, T* to) {
  constexpr int lanes = kLanes<T>;
  const Matrix<const T>& x = chunk.rows.x;
  const std::int64_t d = chunk.rows.n_features;
  const bool dense = x.col_stride == 1 && x.row_stride == d && d <= kSmallFeatures;
  for (int first = 0; first < kGroup<T>; first += lanes, to += lanes) {
    const bool run = first + lanes <= count && list[first + lanes - 1] - list[first] == lanes - 1;
    if (dense && run) {
      const T* const from = x.row(base + list[first]);
      if (d == 1) pack_dense<T, 1>(from, to, kGroup<T>);
      if (d == 2) pack_dense<T, 2>(from, to, kGroup<T>);
      if (d == 3) pack_dense<T, 3>(from, to, kGroup<T>);
      if (d == 4) pack_dense<T, 4>(from, to, kGroup<T>);
      for (std::int64_t j = 0; j < d; ++j)
        store(to + j * kGroup<T>, load(to + j * kGroup<T>) - chunk.pivot[j]);
      continue;
    }
    const T* row[lanes];
    for (int i = 0; i < lanes; ++i)
      row[i] = x.row(base + list[first + i < count ? first + i : count - 1]);
    pack_tiles(chunk, row, to);
  }
}

// Squared distances of a group's rows to C centers, from differences.
template <class T, int C>
ELBOKIT_INLINE void distances(const T* x, std::int64_t d, const T* centers,
                              Vec<T> (&sum)[C][kRowVectors]) {
  for (auto& row : sum)
    for (auto& each : row) each = Vec<T>{};
  for (std::int64_t j = 0; j < d; ++j) {
    Vec<T> value[kRowVectors];
    for (int v = 0; v < kRowVectors; ++v) {
      value[v] = load(x + j * kGroup<T> + v * kLanes<T>);
      pin(value[v]);
    }
    for (int c = 0; c < C; ++c) {
      const T center = centers[c * d + j];
      for (int v = 0; v < kRowVectors; ++v) {
        const Vec<T> difference = value[v] - center;
        sum[c][v] += difference * difference;
      }
    }
  }
}

// f(c, sum) with the distances to center c, for all centers in turn.
template <class T, class F>
ELBOKIT_INLINE void for_each_distance(const T* x, std::int64_t d, const T* centers,
                                      std::int64_t n_centers, F&& f) {
  const auto tile = [&](std::int64_t c, auto size) ELBOKIT_INLINE_LAMBDA {
    constexpr int C = decltype(size)::value;
    Vec<T> sum[C][kRowVectors];
    distances<T, C>(x, d, centers + c * d, sum);
    for (int i = 0; i < C; ++i) f(c + i, sum[i]);
  };
  std::int64_t c = 0;
  for (; c + kCenterTile <= n_centers; c += kCenterTile)
    tile(c, std::integral_constant<int, kCenterTile>{});
  if (n_centers - c == 1) tile(c, std::integral_constant<int, 1>{});
  if (n_centers - c == 2) tile(c, std::integral_constant<int, 2>{});
  if (n_centers - c == 3) tile(c, std::integral_constant<int, 3>{});
}

}  // namespace elbokit::ELBOKIT_LEVEL
