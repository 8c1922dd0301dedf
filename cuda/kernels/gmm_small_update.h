// The closed-form M-step of mixtures of few features by one warp, a lane for each component; the
// rules are those of cpp/dispatch/gmm_update.cpp.
#pragma once

#include "elbokit/gmm_fit.h"
#include "kernels/gmm_small_lanes.h"
#include "kernels/gmm_small_model.h"
#include "math/gaussian_update.h"

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
ELBOKIT_DEVICE void rounding_of(MixtureLanes lanes, Covariance covariance, const double (&mean)[D],
                                double (&rounding)[D]) {
  constexpr double kEpsilon = 0x1p-52;
  double sum = 0;
#pragma unroll
  for (int i = 0; i < D; ++i) {
    const double step = 4.0 * kEpsilon * mean[i];
    rounding[i] = step * step;
    sum += rounding[i];
    if (covariance == Covariance::tied) rounding[i] = lanes.largest(rounding[i]);
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

// Maximises the expected complete log-likelihood. All lanes take part to the end, as the warp may
// have other mixtures. A mixture's lanes from n_components on are given what the last component is,
// since zeros would make their divisions, and so the warp's, take several times as long.
template <int D, bool kFull>
ELBOKIT_DEVICE SmallOutcome small_update(MixtureLanes lanes, const SmallUpdateOptions& options,
                                         const SmallMoments<D, kFull>& moments,
                                         const SmallEstimate<D, kFull>& previous,
                                         SmallEstimate<D, kFull>& next) {
  constexpr int kFactor = SmallMoments<D, kFull>::kFactor;
  const bool here = lanes.index() < options.n_components;
  const bool tied = options.covariance == Covariance::tied;
  const bool spherical = options.covariance == Covariance::spherical;

  // A finite value times 0 is 0.
  double zero = 0.0 * moments.count;
#pragma unroll
  for (int i = 0; i < D; ++i) zero += 0.0 * moments.first[i];
#pragma unroll
  for (int i = 0; i < kFactor; ++i) zero += 0.0 * moments.second[i];
  const bool overflow = lanes.ballot(!(zero == 0.0)) != 0;

  const double given = moments.count;
  const double count = given > options.empty_below ? given : 0.0;
  const double total = lanes.sum(here ? count : 0.0), pooled = lanes.sum(here ? given : 0.0);
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
  for (int i = 0; i < kFactor; ++i) second[i] = moments.second[i];
#pragma unroll
  for (int i = 0; i < D; ++i)
#pragma unroll
    for (int j = kFull ? 0 : i; j <= i; ++j) {
      const int at = kFull ? triangle_at(i, j) : i;
      if (tied) {
        const double moved = alive ? count * shift[i] * shift[j] : 0.0;
        const double within = lanes.sum(here ? second[at] - moved : 0.0);
        second[at] = lanes.sum(here ? second[at] : 0.0);
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
  rounding_of<D>(lanes, options.covariance, next.mean, rounding);
#pragma unroll
  for (int i = 0; i < D; ++i) {
    double& variance = next.covariance[diagonal_at<D, kFull>(i)];
    variance = (variance <= rounding[i] ? 0.0 : variance) + options.reg_covar[i];
  }
  const bool positive = factor_precision<D, kFull>(next.covariance, next.factor);
  const unsigned singular = lanes.ballot((tied || alive) && !positive);

  // Whether some variance, given the features before it, is below what sums of float32 resolve.
  bool below = false;
#pragma unroll
  for (int i = 0; i < D; ++i) {
    const int at = diagonal_at<D, kFull>(i);
    below =
        below || math::below_float_resolution(next.factor[at], second[at],
                                              tied && pooled > total ? pooled : divisor, pooled);
  }
  const bool any_below = lanes.ballot((tied || alive) && below) != 0;
  if (!tied && !alive) {  // an empty component keeps its covariance; its mean has not moved
#pragma unroll
    for (int i = 0; i < kFactor; ++i) {
      next.covariance[i] = previous.covariance[i];
      next.factor[i] = previous.factor[i];
    }
  }
  if (overflow) return {GmmFitStatus::overflow, -1, false};
  if (!(total > 0.0)) return {GmmFitStatus::no_component, -1, false};
  if (singular != 0)
    return {GmmFitStatus::singular_covariance, tied ? -1 : lowest_bit(singular), false};
  return {GmmFitStatus::ok, -1, any_below};
}

}  // namespace elbokit::cuda
