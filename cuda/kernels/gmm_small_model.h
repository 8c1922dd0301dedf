// Mixtures of up to four features as a warp computes them: their shape, parameters and moments.
#pragma once

#include <cmath>
#include <type_traits>

#include "common/elements.h"
#include "common/reduce.h"
#include "elbokit/gmm.h"
#include "kernels/gmm_units.h"
#include "math/gaussian.h"

namespace elbokit::cuda {

// A full factor, and a full second moment, is a lower triangle, row by row.
ELBOKIT_INLINE constexpr int triangle_at(int i, int j) {
  return i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i;
}

// kFull: full and tied; else diag and spherical, and all of one feature.
template <class T, int D, bool kFull>
struct SmallGmm {
  static constexpr int kFactor = kFull ? D * (D + 1) / 2 : D;
  static constexpr int kParameters = 2 * D + kFactor + 1;  // center, bias, factor, log_const
  static constexpr int kSums = 1 + D + kFactor;            // count, first and second moments

  // Components whose parameters and sums one lane keeps in registers.
  static constexpr int kEach = (D == 1 ? 8 : D == 2 ? 4 : 2) * 4 / static_cast<int>(sizeof(T));
  static constexpr int kMost = kWarp * kEach;
};

// Lanes that share the components: a power of two.
ELBOKIT_INLINE int small_team(std::int64_t n_components, int each) {
  int team = 1;
  while (team * each < n_components) team *= 2;
  return team;
}

inline bool is_triangular(Covariance covariance, std::int64_t n_features) {
  return n_features > 1 && (covariance == Covariance::full || covariance == Covariance::tied);
}

// Calls f(integral constants D and kFull) of the mixture.
template <class F>
auto with_shape(std::int64_t n_features, bool full, F&& f) {
  switch (n_features) {
    case 1:
      return f(std::integral_constant<int, 1>{}, std::false_type{});
    case 2:
      return full ? f(std::integral_constant<int, 2>{}, std::true_type{})
                  : f(std::integral_constant<int, 2>{}, std::false_type{});
    case 3:
      return full ? f(std::integral_constant<int, 3>{}, std::true_type{})
                  : f(std::integral_constant<int, 3>{}, std::false_type{});
    default:
      return full ? f(std::integral_constant<int, 4>{}, std::true_type{})
                  : f(std::integral_constant<int, 4>{}, std::false_type{});
  }
}

// Component k's part of an array in the shape of precisions_cholesky: where it begins.
template <int D>
ELBOKIT_DEVICE std::int64_t small_offset(Covariance covariance, std::int64_t k) {
  switch (covariance) {
    case Covariance::full:
      return k * D * D;
    case Covariance::tied:
      return 0;
    case Covariance::diag:
      return k * D;
    default:
      return k;
  }
}

// Factor entry `at` of a component, whose part of precisions_cholesky begins at `from`, as packed:
// y_i = sum_j factor(i, j) (x - mean)_j. A covariance, which is symmetric, is read by it too.
template <int D, bool kFull>
ELBOKIT_DEVICE void load_packed(Covariance covariance, const double* from, double* packed) {
  if constexpr (kFull) {
#pragma unroll
    for (int i = 0; i < D; ++i)
#pragma unroll
      for (int j = 0; j <= i; ++j) packed[triangle_at(i, j)] = from[j * D + i];
  } else {
#pragma unroll
    for (int i = 0; i < D; ++i) packed[i] = from[covariance == Covariance::spherical ? 0 : i];
  }
}

// And back: a covariance, or a second moment.
template <int D, bool kFull>
ELBOKIT_DEVICE void store_packed(Covariance covariance, const double* packed, double* to) {
  if (kFull) {
#pragma unroll
    for (int i = 0; i < D; ++i)
#pragma unroll
      for (int j = 0; j < D; ++j) to[i * D + j] = packed[kFull ? triangle_at(i, j) : 0];
  } else if (covariance == Covariance::spherical) {
    to[0] = packed[0];
#pragma unroll
    for (int i = 1; i < D; ++i) to[0] += packed[kFull ? 0 : i];
  } else {
#pragma unroll
    for (int i = 0; i < D; ++i) to[i] = packed[kFull ? 0 : i];
  }
}

template <int D, bool kFull>
ELBOKIT_DEVICE constexpr int diagonal_at(int i) {
  return kFull ? triangle_at(i, i) : i;
}

// Writes all parameters but log_const, in T and log2 units (elbokit/gmm.h, GmmModel), and returns
// that one in natural logarithms.
template <class T, int D, bool kFull>
ELBOKIT_DEVICE double pack_component(double weight, const double* mean, const double* factor,
                                     T* out) {
  double log_const = ::log(weight) - 0.5 * D * kLog2Pi;
  double left[D];  // what rounding leaves of the mean
#pragma unroll
  for (int i = 0; i < D; ++i) {
    out[i] = static_cast<T>(mean[i]);
    left[i] = mean[i] - static_cast<double>(out[i]);
    log_const += ::log(factor[diagonal_at<D, kFull>(i)]);
  }
#pragma unroll
  for (int i = 0; i < D; ++i) {
    double bias = 0;
#pragma unroll
    for (int j = 0; j <= i; ++j) {
      if (!kFull && j < i) continue;
      const int at = kFull ? triangle_at(i, j) : i;
      bias += factor[at] * left[j];
      out[2 * D + at] = static_cast<T>(kScale * factor[at]);
    }
    out[D + i] = static_cast<T>(kScale * bias);
  }
  return log_const;
}

// Log constants relative to the largest, in T and log2 units. All threads of the block take part,
// `threads` of them for this mixture; returns the largest, 0 where all are -inf. `exact` holds
// n_components, `parameters` `padded` components, of which the last ones get zeros and -inf.
template <class T, int kParameters>
ELBOKIT_DEVICE double finish_model(const double* exact, int n_components, int padded, int thread,
                                   int threads, T* parameters) {
  const double infinity = __builtin_huge_val();
  block_barrier();
  double base = -infinity;
#pragma unroll 4
  for (int k = 0; k < n_components; ++k) base = exact[k] > base ? exact[k] : base;
  if (base == -infinity) base = 0;
  for (int k = thread; k < padded; k += threads) {
    T* const out = parameters + k * kParameters;
    for (int i = 0; k >= n_components && i < kParameters - 1; ++i) out[i] = T(0);
    out[kParameters - 1] =
        static_cast<T>(k < n_components ? (exact[k] - base) * kLog2E : -infinity);
  }
  block_barrier();
  return base;
}

// One component's sums, in double.
template <int D, bool kFull>
struct SmallMoments {
  static constexpr int kFactor = SmallGmm<double, D, kFull>::kFactor;
  double count, first[D], second[kFactor];

  // From sums about the mean, rounded to float if it is narrow, to those about the mean.
  ELBOKIT_DEVICE void recentre(const double* mean, bool narrow) {
    double shift[D];
#pragma unroll
    for (int i = 0; i < D; ++i)
      shift[i] = narrow ? mean[i] - static_cast<double>(static_cast<float>(mean[i])) : 0.0;
#pragma unroll
    for (int i = 0; i < D; ++i)
#pragma unroll
      for (int j = 0; j <= i; ++j) {
        if (!kFull && j < i) continue;
        second[kFull ? triangle_at(i, j) : i] +=
            count * shift[i] * shift[j] - shift[i] * first[j] - shift[j] * first[i];
      }
#pragma unroll
    for (int i = 0; i < D; ++i) first[i] -= count * shift[i];
  }
};

}  // namespace elbokit::cuda
