// One full covariance for all components: rows are whitened once, and their second moments are
// taken about the mean of their posterior, so that neither step costs components times features
// squared.
//
// With q_n = sum_k r_nk c_k / w_n and G = sum_n r_n r_n^T / w_n, the sum over k of
// r_nk (x_n - c_k)(x_n - c_k)^T is w_n (x_n - q_n)(x_n - q_n)^T plus, summed over n,
// 1/2 sum_kl G_kl (c_k - c_l)(c_k - c_l)^T: squares alone, nothing cancels.
#pragma once

#include "kernels/gmm_diag.h"
#include "kernels/gmm_full.h"
#include "kernels/gmm_product.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
struct TiedFamily {
  static constexpr bool prunable = false, sparse = true, reads_ahead = false;
  static constexpr int tile = kTile;

  template <bool Compensated>
  static void logits(const GmmModel<T>& model, const Block<T>& block, std::int64_t n) {
    T* const y = block.scratch;  // (padded_features, ld)
    FullFamily<T>::template whiten<kRowVectors>(
        model.pivot, model.bias, model.whitener, 0, model.n_features, block.x + n, block.ld,
        [&](std::int64_t i, const auto& coordinates) ELBOKIT_INLINE_LAMBDA {
          for (const auto& coordinate : coordinates) {
            for (int v = 0; v < kRowVectors; ++v)
              store(y + i * block.ld + n + v * kLanes<T>, coordinate[v]);
            ++i;
          }
        });
    DiagFamily<T>::template logits<Compensated>(model, y + n, block.ld, LogitRows<T>(block, n));
  }

  static double sparse_share(const GmmModel<T>&) { return 0; }

  static void add_sparse(const GmmModel<T>&, std::int64_t, const SparseRows<T>&, const Pending<T>&,
                         double*, double*) {}

  // second: (n_features, n_features) about the posterior means, then G, lower triangles.
  static void moments(const GmmModel<T>& model, const std::int32_t* components, std::int64_t count,
                      const Block<T>& block, std::int64_t rows, double* first, double* second) {
    const std::int64_t d = model.n_features, k = model.n_components;
    const SymmetricProduct<T> z{block.scratch, block.scratch + block.ld, block.ld, rows};
    set_roots(block, z.root, rows);
    for (std::int64_t j = 0; j < model.padded_features; j += tile) {
      std::int64_t i = 0;
      const auto add = [&](auto components_at_once, auto features) ELBOKIT_INLINE_LAMBDA {
        for (; i + components_at_once <= count; i += components_at_once)
          for (int c = 0; c < tile; c += features)
            if (model.one_center)
              add_first<true, components_at_once, features>(model, components + i, j + c, block,
                                                            rows, first);
            else
              add_first<false, components_at_once, features>(model, components + i, j + c, block,
                                                             rows, first);
      };
      // Eight sums where registers are few: more components ask for less beside their products.
      add(std::integral_constant<int, 4>{},
          std::integral_constant<int, kVectorRegisters >= 32 ? tile : 2>{});
      add(std::integral_constant<int, 2>{}, std::integral_constant<int, tile>{});
      add(std::integral_constant<int, 1>{}, std::integral_constant<int, tile>{});
      for (std::int64_t n = 0; n < rows; n += kGroup<T>)
        centre_rows(model, components, count, j, block, n, z);
    }
    add_product(z, d, second);
    // r / sqrt(w), in place.
    for (std::int64_t c = 0; c < k; ++c)
      for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
        T* const r = block.logits + c * block.ld + n;
        store(r, load(r) * (load(z.root + n) * load(block.factor + n)));
      }
    add_product({z.root, block.logits, block.ld, rows}, k, second + d * d);
  }

 private:
  // root = sqrt(w); factor, which has done its work, = 1 / w. Both are 0 where no responsibility
  // is.
  static void set_roots(const Block<T>& block, T* root, std::int64_t rows) {
    for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
      const Vec<T> w = load(block.weight + n);
      const auto none = load(block.factor + n) == Vec<T>{};
      store(root + n, select(none, Vec<T>{}, sqrt<T>(w)));
      store(block.factor + n, select(none, Vec<T>{}, T(1) / w));
    }
  }

  // First moments of F features from j on for N components.
  template <bool OneCenter, int N, int F>
  static void add_first(const GmmModel<T>& model, const std::int32_t* components, std::int64_t j,
                        const Block<T>& block, std::int64_t rows, double* first) {
    const T* const x = block.x + j * block.ld;
    const T *r[N], *center[N];
    for (int i = 0; i < N; ++i) {
      r[i] = block.logits + components[i] * block.ld;
      center[i] = model.center + components[i] * model.padded_features + j;
    }
    Vec<T> sums[N * F] = {};
    for (std::int64_t n = 0; n < rows; n += kLanes<T>) {
      Vec<T> value[F];
      for (int c = 0; c < F; ++c) {
        value[c] = load(x + c * block.ld + n);
        if (OneCenter) value[c] -= center[0][c];
        pin(value[c]);
      }
      for (int i = 0; i < N; ++i) {
        Vec<T> w = load(r[i] + n);
        pin(w);
        for (int c = 0; c < F; ++c)
          sums[i * F + c] += w * (OneCenter ? value[c] : value[c] - center[i][c]);
      }
    }
    T total[N * F];
    reduce_add_all(sums, total);
    for (int i = 0; i < N; ++i)
      for (int c = 0; c < F && j + c < model.n_features; ++c)
        first[components[i] * model.n_features + j + c] += total[i * F + c];
  }

  // Features j .. j + 3 of z = sqrt(w) (x - q) for one group of rows.
  static void centre_rows(const GmmModel<T>& model, const std::int32_t* components,
                          std::int64_t count, std::int64_t j, const Block<T>& block, std::int64_t n,
                          const SymmetricProduct<T>& z) {
    Vec<T> mean[tile][kRowVectors] = {};  // less the pivot, times w
    for (std::int64_t i = 0; i < count; ++i) {
      const T* const offset = model.offset + components[i] * model.padded_features + j;
      const T* const r = block.logits + components[i] * block.ld + n;
      for (int v = 0; v < kRowVectors; ++v) {
        Vec<T> w = load(r + v * kLanes<T>);
        pin(w);
        for (int c = 0; c < tile; ++c) mean[c][v] += w * offset[c];
      }
    }
    for (int v = 0; v < kRowVectors; ++v) {
      const std::int64_t at = n + v * kLanes<T>;
      const Vec<T> root = load(z.root + at), share = load(block.factor + at);
      for (int c = 0; c < tile; ++c) {
        const Vec<T> value = load(block.x + (j + c) * block.ld + at) - model.pivot[j + c];
        store(z.z + (j + c) * block.ld + at, root * (value - mean[c][v] * share));
      }
    }
  }

  // Adds z z^T to the lower triangle of (size, size).
  static void add_product(const SymmetricProduct<T>& z, std::int64_t size, double* to) {
    for_each_height(size, [&](std::int64_t i, auto height) {
      T sum[tile * tile];
      z.template tile<true, height>(i, i, sum);
      z.template add_tile<height>(size, i, i, sum, to);
      for (std::int64_t j = 0; j < i; j += tile) {
        z.template tile<false, height>(i, j, sum);
        z.template add_tile<height>(size, i, j, sum, to);
      }
    });
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
