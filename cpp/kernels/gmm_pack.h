// Rows of the data to a block's layout: features first, so that vector lanes run along the rows.
#pragma once

#include "kernels/gmm_distance.h"

namespace elbokit::ELBOKIT_LEVEL {

// Whether the rows lie one behind the other.
template <class Source>
ELBOKIT_INLINE bool dense(const Matrix<const Source>& x, std::int64_t n_features) {
  return x && x.col_stride == 1 && x.row_stride == n_features;
}

template <class Source>
ELBOKIT_INLINE void prefetch_matrix(const Matrix<const Source>& x, std::int64_t n_features,
                                    std::int64_t begin, std::int64_t end) {
  if (x.col_stride != 1 || begin >= end) return;
  const auto item = static_cast<std::ptrdiff_t>(sizeof(Source));
  const bool one_run = dense(x, n_features);  // one long row
  const std::int64_t runs = one_run ? 1 : end - begin;
  const std::ptrdiff_t bytes = n_features * item * (one_run ? end - begin : 1);
  for (std::int64_t i = 0; i < runs; ++i)
    for (std::ptrdiff_t at = 0; at < bytes; at += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(x.row(begin + i)) + at);
}

// Asks for the cache lines of rows that are about to be packed.
template <class T>
ELBOKIT_INLINE void prefetch_rows(const GmmRows<T>& rows, std::int64_t n_features,
                                  std::int64_t begin, std::int64_t end) {
  if (rows.narrow) return prefetch_matrix(rows.narrow, n_features, begin, end);
  prefetch_matrix(rows.x, n_features, begin, end);
}

// `lanes` rows of D <= 4 features that lie one behind the other: D loads and a few shuffles.
template <class T, int D>
ELBOKIT_INLINE void pack_dense(const T* from, T* to, std::ptrdiff_t ld) {
  constexpr int n = kLanes<T>;
  Vec<T> flat[4] = {};
  for (int i = 0; i < D; ++i) flat[i] = load(from + i * n);
  const auto column = [&](auto feature) ELBOKIT_INLINE_LAMBDA {
    constexpr int j = decltype(feature)::value;
    const Vec<T> low =
        shuffle<T>(flat[0], flat[1], [](int lane) { return (lane * D + j) % (2 * n); });
    if constexpr (D <= 2) return low;
    const Vec<T> high =
        shuffle<T>(flat[2], flat[3], [](int lane) { return (lane * D + j) % (2 * n); });
    return shuffle<T>(low, high, [](int lane) { return lane * D + j < 2 * n ? lane : n + lane; });
  };
  store(to, column(std::integral_constant<int, 0>{}));
  if constexpr (D > 1) store(to + ld, column(std::integral_constant<int, 1>{}));
  if constexpr (D > 2) store(to + 2 * ld, column(std::integral_constant<int, 2>{}));
  if constexpr (D > 3) store(to + 3 * ld, column(std::integral_constant<int, 3>{}));
}

// The first `width` of a row's values, the other lanes zero.
template <class T, class Source>
ELBOKIT_INLINE Vec<T> load_values(const Source* from, std::ptrdiff_t stride, int width) {
  if constexpr (std::is_same_v<T, Source>)
    if (stride == 1) return width == kLanes<T> ? load(from) : load_partial(from, width);
  T value[kLanes<T>] = {};
  for (int c = 0; c < width; ++c) value[c] = static_cast<T>(from[c * stride]);
  return load(value);
}

// Features [j, j + width) of one row, the other lanes zero.
template <class T>
ELBOKIT_INLINE Vec<T> load_features(const GmmRows<T>& rows, std::int64_t row, std::int64_t j,
                                    int width) {
  if (rows.narrow)
    return load_values<T>(rows.narrow.row(row) + j * rows.narrow.col_stride, rows.narrow.col_stride,
                          width);
  return load_values<T>(rows.x.row(row) + j * rows.x.col_stride, rows.x.col_stride, width);
}

// `lanes` features of `lanes` rows that lie `stride` apart.
template <class T, class Source>
ELBOKIT_INLINE void pack_tile(const Source* from, std::ptrdiff_t stride, T* to, std::ptrdiff_t ld) {
  Vec<T> tile[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i, from += stride) tile[i] = load_values<T>(from, 1, kLanes<T>);
  transpose<T>(tile);
  for (int c = 0; c < kLanes<T>; ++c, to += ld) store(to, tile[c]);
}

// Features from j up to n_features of rows row_of(0), row_of(1), ..., `lanes` of them in any
// layout, of which `height` exist; the others become zeros. Where the source is of another type its
// values are converted one by one.
template <class T, class Source, class RowOf>
ELBOKIT_INLINE void pack_rows(const Matrix<const Source>& x, std::int64_t j,
                              std::int64_t n_features, RowOf row_of, int height, T* to,
                              std::ptrdiff_t ld) {
  constexpr int lanes = kLanes<T>;
  for (; j < n_features; j += lanes) {
    const int width = static_cast<int>(n_features - j < lanes ? n_features - j : lanes);
    Vec<T> tile[lanes];
    for (int i = 0; i < lanes; ++i)
      tile[i] = i < height
                    ? load_values<T>(x.row(row_of(i)) + j * x.col_stride, x.col_stride, width)
                    : Vec<T>{};
    transpose<T>(tile);
    for (int c = 0; c < width; ++c) store(to + (j + c) * ld, tile[c]);
  }
}

// The same of all features of consecutive rows.
template <class T, class Source>
ELBOKIT_INLINE void pack_rows(const Matrix<const Source>& x, std::int64_t n_features,
                              std::int64_t row, int height, T* to, std::ptrdiff_t ld) {
  std::int64_t j = 0;
  if (x.col_stride == 1 && height == kLanes<T>)
    for (; j + kLanes<T> <= n_features; j += kLanes<T>)
      pack_tile<T>(x.row(row) + j, x.row_stride, to + j * ld, ld);
  pack_rows<T>(
      x, j, n_features, [&](int i) ELBOKIT_INLINE_LAMBDA { return row + i; }, height, to, ld);
}

// Features [begin, end) of scattered rows, whatever the data are.
template <class T, class RowOf>
ELBOKIT_INLINE void pack_listed(const GmmRows<T>& rows, std::int64_t begin, std::int64_t end,
                                RowOf row_of, int height, T* to, std::ptrdiff_t ld) {
  if (rows.narrow)
    pack_rows<T>(rows.narrow, begin, end, row_of, height, to, ld);
  else
    pack_rows<T>(rows.x, begin, end, row_of, height, to, ld);
}

// Rows [begin, begin + kGroup) of the data, of which those from `end` on do not exist, to the group
// at `to`; zeros in the features that fill a tile.
template <class T>
void pack_group(const GmmModel<T>& model, const GmmRows<T>& rows, std::int64_t begin,
                std::int64_t end, T* to, std::ptrdiff_t ld) {
  constexpr int lanes = kLanes<T>;
  const std::int64_t d = model.n_features;
  const bool small = d <= kSmallFeatures && dense(rows.x, d);
  for (std::int64_t row = begin; row < begin + kGroup<T>; row += lanes, to += lanes) {
    const std::int64_t left = end - row;
    const int height = static_cast<int>(left < 0 ? 0 : left < lanes ? left : lanes);
    if (small && height == lanes) {
      const T* const from = rows.x.row(row);
      if (d == 1) pack_dense<T, 1>(from, to, ld);
      if (d == 2) pack_dense<T, 2>(from, to, ld);
      if (d == 3) pack_dense<T, 3>(from, to, ld);
      if (d == 4) pack_dense<T, 4>(from, to, ld);
    } else if (rows.narrow) {
      pack_rows<T>(rows.narrow, d, row, height, to, ld);
    } else {
      pack_rows<T>(rows.x, d, row, height, to, ld);
    }
    for (std::int64_t j = d; j < model.padded_features; ++j) store(to + j * ld, Vec<T>{});
  }
}

// Weights of rows [begin, begin + count), 0 up to `padded`.
template <class T>
void set_weights(const GmmRows<T>& rows, std::int64_t begin, std::int64_t count,
                 std::int64_t padded, T* weight) {
  if (rows.sample_weight)
    for (std::int64_t n = 0; n < count; ++n) weight[n] = rows.sample_weight[begin + n];
  else
    for (std::int64_t n = 0; n < padded; n += kLanes<T>) store(weight + n, broadcast<T>(1));
  for (std::int64_t n = count; n < padded; ++n) weight[n] = T(0);
}

}  // namespace elbokit::ELBOKIT_LEVEL
