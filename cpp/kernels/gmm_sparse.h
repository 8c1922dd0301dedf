// The M-step of components that few rows of a block belong to. Those rows are remembered until
// there are enough of them, and then taken from the data itself, with the vector lanes along the
// features.
#pragma once

#include "kernels/gmm_block.h"
#include "kernels/gmm_pack.h"

namespace elbokit::ELBOKIT_LEVEL {

// So many rows of a component are added up in T before the sum goes to double.
inline constexpr int kPending = 64;

// Rows that wait, per component.
template <class T>
struct Pending {
  std::int64_t width;  // of z: the features in whole vectors
  T* z;                // (kPending, width): scratch
  T* weight;           // (n_components, kPending)
  std::int32_t* row;   // (n_components, kPending), from the chunk's first row
  std::int32_t* size;  // (n_components)

  static std::int64_t whole_vectors(std::int64_t features) {
    return (features + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  }

  // Elements of the workspace.
  static std::int64_t workspace(const GmmModel<T>& model) {
    return kPending * whole_vectors(model.n_features) + (2 * kPending + 1) * model.n_components;
  }

  Pending(const GmmModel<T>& model, T* workspace)
      : width(whole_vectors(model.n_features)),
        z(workspace),
        weight(z + kPending * width),
        row(reinterpret_cast<std::int32_t*>(weight + kPending * model.n_components)),
        size(row + kPending * model.n_components) {
    for (std::int64_t k = 0; k < model.n_components; ++k) size[k] = 0;
  }
};

// The listed rows of one component.
template <class T>
struct SparseRows {
  const GmmRows<T>& rows;
  std::int64_t first_row;
  const std::int32_t* row;
  const T* weight;
  int count;

  // Features [j, j + present) of row i less the center's.
  ELBOKIT_INLINE Vec<T> difference(int i, const T* center, std::int64_t j, int present) const {
    return load_features(rows, first_row + row[i], j, present) -
           load_values<T>(center + j, 1, present);
  }
};

template <class T>
ELBOKIT_INLINE void add_lanes(Vec<T> v, int count, double* to) {
  T lane[kLanes<T>];
  store(lane, v);
  for (int i = 0; i < count; ++i) to[i] += lane[i];
}

// Moments of the listed rows in V vectors of features, the last of which has `present` of them:
// difference(i, v) is row i's vector v less the center's.
template <class T, int V, class Difference>
ELBOKIT_INLINE void add_sparse_vectors(const SparseRows<T>& list, int present,
                                       Difference&& difference, double* first, double* second) {
  Vec<T> linear[V] = {}, square[V] = {};
  for (int i = 0; i < list.count; ++i) {
    Vec<T> w = broadcast<T>(list.weight[i]);
    pin(w);
    for (int v = 0; v < V; ++v) {
      const Vec<T> value = difference(i, v);
      const Vec<T> weighted = value * w;
      linear[v] += weighted;
      square[v] += weighted * value;
    }
  }
  for (int v = 0; v < V; ++v) {
    const int count = v < V - 1 ? kLanes<T> : present;
    add_lanes<T>(linear[v], count, first + v * kLanes<T>);
    add_lanes<T>(square[v], count, second + v * kLanes<T>);
  }
}

// Moments of one component's listed rows with diagonal covariance.
template <class T>
void add_sparse_diag(const GmmModel<T>& model, std::int64_t k, const SparseRows<T>& list,
                     double* first, double* second) {
  constexpr int lanes = kLanes<T>;
  const std::int64_t d = model.n_features;
  const T* const center = model.center + k * model.padded_features;
  first += k * d;
  second += k * d;
  std::int64_t j = 0;
  // Several vectors at a time, where they can be read as they lie: one sum need not await the last.
  const Matrix<const T>& x = list.rows.x;
  const auto add = [&](auto width) ELBOKIT_INLINE_LAMBDA {
    for (; j + width * lanes <= d; j += width * lanes) {
      Vec<T> middle[width];
      for (int v = 0; v < width; ++v) middle[v] = load(center + j + v * lanes);
      add_sparse_vectors<T, width>(
          list, lanes,
          [&](int i, int v) ELBOKIT_INLINE_LAMBDA {
            return load(x.row(list.first_row + list.row[i]) + j + v * lanes) - middle[v];
          },
          first + j, second + j);
    }
  };
  if (x && x.col_stride == 1) {
    add(std::integral_constant<int, 4>{});
    add(std::integral_constant<int, 2>{});
  }
  for (; j < d; j += lanes) {
    const int present = static_cast<int>(d - j < lanes ? d - j : lanes);
    add_sparse_vectors<T, 1>(
        list, present,
        [&](int i, int) ELBOKIT_INLINE_LAMBDA { return list.difference(i, center, j, present); },
        first + j, second + j);
  }
}

// Rows i .. i + 3 of the sum of z^T z, in columns [j, j + Width vectors), into the lower triangle.
template <class T, int Width>
void add_sparse_tile(const T* z, std::int64_t stride, int count, std::int64_t i, std::int64_t j,
                     std::int64_t d, double* second) {
  Vec<T> sum[kTile][Width] = {};
  for (int n = 0; n < count; ++n, z += stride) {
    Vec<T> right[Width];
    for (int v = 0; v < Width; ++v) {
      right[v] = load(z + j + v * kLanes<T>);
      pin(right[v]);
    }
    for (int a = 0; a < kTile; ++a)
      for (int v = 0; v < Width; ++v) sum[a][v] += right[v] * z[i + a];
  }
  for (int a = 0; a < kTile && i + a < d; ++a)
    for (int v = 0; v < Width; ++v) {
      const std::int64_t from = j + v * kLanes<T>, left = i + a + 1 - from;
      if (left > 0)
        add_lanes<T>(sum[a][v], static_cast<int>(left < kLanes<T> ? left : kLanes<T>),
                     second + (i + a) * d + from);
    }
}

// Moments of one component's listed rows with full covariance.
template <class T>
void add_sparse_full(const GmmModel<T>& model, std::int64_t k, const SparseRows<T>& list,
                     const Pending<T>& pending, double* first, double* second) {
  constexpr int lanes = kLanes<T>;
  constexpr int most = kVectorRegisters >= 32 ? 4 : 2;  // vectors of a tile
  const std::int64_t d = model.n_features, width = pending.width;
  const T* const center = model.center + k * model.padded_features;
  T root[kPending];
  for (int i = 0; i < list.count; ++i) root[i] = static_cast<T>(__builtin_sqrt(list.weight[i]));
  for (std::int64_t j = 0; j < d; j += lanes) {
    const int present = static_cast<int>(d - j < lanes ? d - j : lanes);
    Vec<T> linear{};
    for (int i = 0; i < list.count; ++i) {
      const Vec<T> value = list.difference(i, center, j, present) * root[i];
      store(pending.z + i * width + j, value);
      linear += value * root[i];
    }
    add_lanes<T>(linear, present, first + k * d + j);
  }
  double* const to = second + k * d * d;
  for (std::int64_t i = 0; i < d; i += kTile)
    for (std::int64_t j = 0; j <= i + kTile - 1 && j < d; j += most * lanes) {
      const std::int64_t vectors = ((i + kTile - 1 < d ? i + kTile - 1 : d - 1) - j) / lanes + 1;
      const auto add = [&](auto n) ELBOKIT_INLINE_LAMBDA {
        add_sparse_tile<T, n>(pending.z, width, list.count, i, j, d, to);
      };
      if (vectors >= most)
        add(std::integral_constant<int, most>{});
      else if (most > 2 && vectors == 3)
        add(std::integral_constant<int, 3>{});
      else if (most > 2 && vectors == 2)
        add(std::integral_constant<int, 2>{});
      else
        add(std::integral_constant<int, 1>{});
    }
}

}  // namespace elbokit::ELBOKIT_LEVEL
