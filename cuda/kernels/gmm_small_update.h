// The closed-form M-step of a mixture of few features by one warp, a lane for each component; the
// rules are those of cpp/dispatch/gmm_update.cpp.
#pragma once

#include "elbokit/gmm_fit.h"
#include "kernels/gmm_small_model.h"

namespace elbokit::cuda {

template <int D, bool kFull>
struct SmallEstimate {
  static constexpr int kFactor = SmallGmm<double, D, kFull>::kFactor;
  double weight, mean[D], covariance[kFactor], factor[kFactor];  // spherical: all the same
};

struct SmallUpdateOptions {
  Covariance covariance;
  int n_components;
  double reg_covar[kSmallFeatures];
  double empty_below;
};

struct SmallOutcome {
  GmmFitStatus status = GmmFitStatus::ok;
  int component = -1;             // the singular one
  bool below_resolution = false;  // of float32
};

// The variance that is lost in the rounding of the means which it belongs to.
template <int D>
ELBOKIT_DEVICE void rounding_of(Covariance covariance, bool here, const double (&mean)[D],
                                double (&rounding)[D]) {
  constexpr double kEpsilon = 0x1p-52;
  double sum = 0;
#pragma unroll
  for (int i = 0; i < D; ++i) {
    const double step = here ? 4.0 * kEpsilon * mean[i] : 0.0;
    rounding[i] = step * step;
    sum += rounding[i];
    if (covariance == Covariance::tied) rounding[i] = warp_max(rounding[i]);
  }
#pragma unroll
  for (int i = 0; i < D; ++i)
    if (covariance == Covariance::spherical) rounding[i] = sum / D;
}

// The factor of the precision; whether there is one.
template <int D, bool kFull, int N>
ELBOKIT_DEVICE bool factor_precision(const double (&covariance)[N], double (&factor)[N]) {
  bool positive = true;
  double lower[N];
#pragma unroll
  for (int i = 0; i < D; ++i) {
    double pivot = covariance[diagonal_at<D, kFull>(i)];
    if constexpr (kFull) {
#pragma unroll
      for (int j = 0; j < i; ++j) {
        double value = covariance[triangle_at(i, j)];
#pragma unroll
        for (int m = 0; m < j; ++m) value -= lower[triangle_at(i, m)] * lower[triangle_at(j, m)];
        value *= factor[triangle_at(j, j)];  // 1 / lower(j, j)
        lower[triangle_at(i, j)] = value;
        pivot -= value * value;
      }
    }
    positive = positive && pivot > 0.0 && pivot < __builtin_huge_val();
    const double inverse = 1.0 / ::sqrt(pivot);
    factor[diagonal_at<D, kFull>(i)] = inverse;
    if constexpr (kFull) {
#pragma unroll
      for (int j = 0; j < i; ++j) {
        double value = 0.0;
#pragma unroll
        for (int m = j; m < i; ++m) value -= lower[triangle_at(i, m)] * factor[triangle_at(m, j)];
        factor[triangle_at(i, j)] = value * inverse;
      }
    }
  }
  return positive;
}

// Maximises the expected complete log-likelihood. All lanes take part; what lanes from
// n_components on are given counts for nothing.
template <int D, bool kFull>
ELBOKIT_DEVICE SmallOutcome small_update(const SmallUpdateOptions& options,
                                         const SmallMoments<D, kFull>& moments,
                                         const SmallEstimate<D, kFull>& previous,
                                         SmallEstimate<D, kFull>& next) {
  constexpr int kFactor = SmallMoments<D, kFull>::kFactor;
  constexpr double kLeastSquare = 0x1p-120;    // as in cpp/dispatch/gmm_update.cpp
  constexpr double kResolution = 4 * 0x1p-23;  // four rounding errors of float
  const bool here = lane_index() < options.n_components;
  const bool tied = options.covariance == Covariance::tied;
  const bool spherical = options.covariance == Covariance::spherical;

  // A finite value times 0 is 0.
  double zero = 0.0 * moments.count;
#pragma unroll
  for (int i = 0; i < D; ++i) zero += 0.0 * moments.first[i];
#pragma unroll
  for (int i = 0; i < kFactor; ++i) zero += 0.0 * moments.second[i];
  if (ballot(here && !(zero == 0.0)) != 0) return {GmmFitStatus::overflow, -1, false};

  const double given = here ? moments.count : 0.0;
  const double count = given > options.empty_below ? given : 0.0;
  const double total = warp_sum(count), pooled = warp_sum(given);
  if (!(total > 0.0)) return {GmmFitStatus::no_component, -1, false};
  const bool alive = count > 0.0;
  const double divisor = tied ? total : count;

  next.weight = count / total;
  double shift[D];
#pragma unroll
  for (int i = 0; i < D; ++i) {
    shift[i] = alive ? moments.first[i] / count : 0.0;
    next.mean[i] = previous.mean[i] + shift[i];
  }
  double second[kFactor];  // of what the covariance belongs to
#pragma unroll
  for (int i = 0; i < kFactor; ++i) second[i] = here ? moments.second[i] : 0.0;
#pragma unroll
  for (int i = 0; i < D; ++i)
#pragma unroll
    for (int j = kFull ? 0 : i; j <= i; ++j) {
      const int at = kFull ? triangle_at(i, j) : i;
      if (tied) {
        const double within = warp_sum(second[at] - (alive ? count * shift[i] * shift[j] : 0.0));
        second[at] = warp_sum(second[at]);
        next.covariance[at] = within / divisor;
      } else {
        next.covariance[at] = second[at] / divisor - shift[i] * shift[j];
      }
    }
  if (spherical) {
    double variance = 0.0, squares = 0.0;
#pragma unroll
    for (int i = 0; i < D; ++i) variance += next.covariance[i], squares += second[i];
#pragma unroll
    for (int i = 0; i < D; ++i) next.covariance[i] = variance / D, second[i] = squares / D;
  }

  double rounding[D];
  rounding_of<D>(options.covariance, here, next.mean, rounding);
#pragma unroll
  for (int i = 0; i < D; ++i) {
    double& variance = next.covariance[diagonal_at<D, kFull>(i)];
    variance = (variance <= rounding[i] ? 0.0 : variance) + options.reg_covar[i];
  }
  const bool positive = factor_precision<D, kFull>(next.covariance, next.factor);
  const unsigned singular = ballot((tied || alive) && !positive);
  if (singular != 0) {
    int component = 0;
    while (!tied && !((singular >> component) & 1u)) ++component;
    return {GmmFitStatus::singular_covariance, tied ? -1 : component, false};
  }

  // Whether some variance, given the features before it, is below what sums of float32 resolve.
  bool below = false;
#pragma unroll
  for (int i = 0; i < D; ++i) {
    const int at = diagonal_at<D, kFull>(i);
    const double least = (kResolution * second[at] + kLeastSquare * pooled) /
                         (tied && pooled > total ? pooled : divisor);
    below = below || 1.0 / (next.factor[at] * next.factor[at]) < least;
  }
  const bool any_below = ballot((tied || alive) && below) != 0;
  if (!tied && !alive) {  // an empty component keeps its covariance; its mean has not moved
#pragma unroll
    for (int i = 0; i < kFactor; ++i) {
      next.covariance[i] = previous.covariance[i];
      next.factor[i] = previous.factor[i];
    }
  }
  return {GmmFitStatus::ok, -1, any_below};
}

}  // namespace elbokit::cuda
