// A run of EM on one mixture of few features, by one block: passes over its rows by all warps, and
// M-steps by the first.
#pragma once

#include "kernels/gmm_fit_many.h"
#include "kernels/gmm_small_pass.h"
#include "kernels/gmm_small_update.h"

namespace elbokit::cuda {

// Warps that share a mixture, at most.
inline constexpr int kMostWarps = 4;

// Shared memory of a block, part behind part.
template <class T, int D, bool kFull>
struct SmallRunLayout {
  using Gmm = SmallGmm<T, D, kFull>;
  using Wide = SmallGmm<double, D, kFull>;
  int padded, wide_padded, warps;

  ELBOKIT_INLINE SmallRunLayout(int n_components, int n_warps)
      : padded(small_team(n_components, Gmm::kEach) * Gmm::kEach),
        wide_padded(small_team(n_components, Wide::kEach) * Wide::kEach),
        warps(n_warps) {}
  ELBOKIT_INLINE int most() const { return padded > wide_padded ? padded : wide_padded; }
  // In doubles: current estimates and next ones, log constants, what threads tell each other, sums,
  // the model.
  ELBOKIT_INLINE int next() const {
    return most() * static_cast<int>(sizeof(SmallEstimate<D, kFull>) / sizeof(double));
  }
  ELBOKIT_INLINE int log_const() const { return 2 * next(); }
  ELBOKIT_INLINE int told() const { return log_const() + most(); }
  ELBOKIT_INLINE int sums() const { return told() + kMostWarps + 4; }
  ELBOKIT_INLINE int model() const { return sums() + warps * most() * Gmm::kSums; }
  ELBOKIT_INLINE int size() const { return model() + most() * Gmm::kParameters; }
};

// The run of one mixture, by one block.
template <class T, int D, bool kFull>
class SmallRun {
  using Estimate = SmallEstimate<D, kFull>;
  static constexpr int kFactor = Estimate::kFactor;
  static constexpr int kSums = SmallGmm<T, D, kFull>::kSums;

 public:
  ELBOKIT_DEVICE SmallRun(const GmmFitManyArgs& args, const SmallRows& rows, std::int64_t mixture)
      : args_(args),
        rows_(rows),
        mixture_(mixture),
        n_components_(static_cast<int>(args.n_components)),
        warps_(static_cast<int>(blockDim.x) / kWarp),
        layout_(n_components_, warps_),
        shared_(shared_memory<double>()),
        current_(reinterpret_cast<Estimate*>(shared_)) {}

  ELBOKIT_DEVICE void run(double& lower_bound, std::int64_t* outcome) {
    load();
    mass_ = total_weight();

    double bound = lower_bound;
    std::int64_t n_iter = 0;
    bool converged = false;
    SmallOutcome result;
    if (rows_.n_samples < 1) result.status = GmmFitStatus::no_component;
    while (n_iter < args_.max_iter && !converged && result.status == GmmFitStatus::ok) {
      bool done = false;
      if constexpr (sizeof(T) == 4) {
        if (within_float()) {
          result = iterate<float>();
          done = result.status == GmmFitStatus::ok && !result.below_resolution;
        }
      }
      if (!done) result = iterate<double>();
      if (result.status != GmmFitStatus::ok) break;
      keep_next();
      const double after = log_likelihood_ / mass_, change = after - bound;
      bound = after;
      ++n_iter;
      converged = ::fabs(change) < args_.tol;
    }
    store();
    if (threadIdx.x != 0) return;
    lower_bound = bound;
    outcome[0] = n_iter;
    outcome[1] = converged;
    outcome[2] = static_cast<std::int64_t>(result.status);
    outcome[3] = result.component;
  }

 private:
  ELBOKIT_DEVICE static int thread() { return static_cast<int>(threadIdx.x); }
  // This mixture's arrays. Not kept: registers would be taken for them all through the run.
  ELBOKIT_DEVICE GmmEstimates estimates() const {
    const std::int64_t size = args_.covariance == Covariance::tied
                                  ? D * D
                                  : small_offset<D>(args_.covariance, n_components_);
    const GmmEstimates& all = args_.estimates;
    return {all.weights + mixture_ * n_components_, all.means + mixture_ * n_components_ * D,
            all.covariances + mixture_ * size, all.precisions_cholesky + mixture_ * size};
  }
  ELBOKIT_DEVICE bool owner() const { return thread() < n_components_; }

  ELBOKIT_DEVICE void load() {
    const int k = thread();
    const GmmEstimates own = estimates();
    if (owner()) {
      Estimate& e = current_[k];
      e.weight = own.weights[k];
#pragma unroll
      for (int i = 0; i < D; ++i) e.mean[i] = own.means[k * D + i];
      const std::int64_t at = small_offset<D>(args_.covariance, k);
      load_packed<D, kFull>(args_.covariance, own.covariances + at, e.covariance);
      load_packed<D, kFull>(args_.covariance, own.precisions_cholesky + at, e.factor);
    }
    block_barrier();
  }

  ELBOKIT_DEVICE void store() {
    const int k = thread();
    const GmmEstimates own = estimates();
    if (!owner()) return;
    const Estimate& e = current_[k];
    own.weights[k] = e.weight;
#pragma unroll
    for (int i = 0; i < D; ++i) own.means[k * D + i] = e.mean[i];
    if (args_.covariance == Covariance::tied && k > 0) return;
    const std::int64_t at = small_offset<D>(args_.covariance, k);
    if (args_.covariance == Covariance::spherical) {
      own.covariances[at] = e.covariance[0];
      own.precisions_cholesky[at] = e.factor[0];
      return;
    }
    store_packed<D, kFull>(args_.covariance, e.covariance, own.covariances + at);
    store_factor(e.factor, own.precisions_cholesky + at);
  }

  // Upper triangular, as scikit-learn has it.
  ELBOKIT_DEVICE void store_factor(const double* factor, double* to) const {
    if constexpr (kFull) {
#pragma unroll
      for (int i = 0; i < D; ++i)
#pragma unroll
        for (int j = 0; j < D; ++j) to[j * D + i] = j <= i ? factor[triangle_at(i, j)] : 0.0;
    } else {
#pragma unroll
      for (int i = 0; i < D; ++i) to[i] = factor[i];
    }
  }

  // Every thread gets the block's sum of what lane 0 of each warp gives.
  ELBOKIT_DEVICE double over_warps(double of_warp) {
    double* const told = shared_ + layout_.told();
    if (lane_index() == 0) told[warp_index()] = of_warp;
    block_barrier();
    double sum = told[0];
    for (int warp = 1; warp < warps_; ++warp) sum += told[warp];
    block_barrier();
    return sum;
  }

  ELBOKIT_DEVICE double total_weight() {
    if (!rows_.sample_weight) return static_cast<double>(rows_.n_samples);
    double sum = 0;
    for (std::int64_t n = thread(); n < rows_.n_samples; n += warps_ * kWarp)
      sum += rows_.sample_weight[n];
    return over_warps(warp_sum(sum));
  }

  // Whether the parameters are numbers of float.
  ELBOKIT_DEVICE bool within_float() {
    constexpr double kLargest = 0x1p127;
    bool within = true;
    if (owner()) {
      const Estimate& e = current_[thread()];
#pragma unroll
      for (int i = 0; i < D; ++i) within = within && !(::fabs(e.mean[i]) > kLargest);
#pragma unroll
      for (int i = 0; i < kFactor; ++i) within = within && !(::fabs(e.factor[i]) > kLargest);
    }
    return over_warps(ballot(!within) != 0 ? 1.0 : 0.0) == 0.0;
  }

  // One iteration computed in V. All threads get its outcome.
  template <class V>
  ELBOKIT_DEVICE SmallOutcome iterate() {
    using Gmm = SmallGmm<V, D, kFull>;
    const int team = small_team(n_components_, Gmm::kEach), padded = team * Gmm::kEach;
    double* const log_const = shared_ + layout_.log_const();
    double* const sums = shared_ + layout_.sums();
    V* const model = reinterpret_cast<V*>(shared_ + layout_.model());
    if (owner()) {
      const Estimate& e = current_[thread()];
      log_const[thread()] = pack_component<V, D, kFull>(e.weight, e.mean, e.factor,
                                                        model + thread() * Gmm::kParameters);
    }
    for (int i = thread(); i < warps_ * padded * kSums; i += warps_ * kWarp) sums[i] = 0;
    const double base = finish_model<V, Gmm::kParameters>(log_const, n_components_, padded, model);
    SmallPass<V, D, kFull> pass(model, base, team);
    log_likelihood_ = over_warps(
        warp_sum(pass.run(rows_, warp_index(), warps_, sums + warp_index() * padded * kSums)));
    double* const told = shared_ + layout_.told();
    if (warp_index() == 0) {
      const SmallOutcome result = update<V>(sums, padded);
      if (lane_index() == 0) {
        told[0] = static_cast<double>(result.status);
        told[1] = result.component;
        told[2] = result.below_resolution;
      }
    }
    block_barrier();
    SmallOutcome result;
    result.status = static_cast<GmmFitStatus>(static_cast<int>(told[0]));
    result.component = static_cast<int>(told[1]);
    result.below_resolution = told[2] != 0.0;
    block_barrier();
    return result;
  }

  template <class V>
  ELBOKIT_DEVICE SmallOutcome update(const double* sums, int padded) {
    // Lanes without a component copy the last one, and count for nothing.
    const int k = lane_index() < n_components_ ? lane_index() : n_components_ - 1;
    const auto total = [&](int i) {
      double sum = sums[k * kSums + i];
      for (int warp = 1; warp < warps_; ++warp) sum += sums[(warp * padded + k) * kSums + i];
      return sum;
    };
    SmallMoments<D, kFull> moments;
    moments.count = total(0);
#pragma unroll
    for (int i = 0; i < D; ++i) moments.first[i] = total(1 + i);
#pragma unroll
    for (int i = 0; i < kFactor; ++i) moments.second[i] = total(1 + D + i);
    const Estimate previous = current_[k];
    moments.template recentre<V>(previous.mean);
    SmallUpdateOptions options{args_.covariance, n_components_, {}, 0.0};
#pragma unroll
    for (int i = 0; i < D; ++i) options.reg_covar[i] = args_.reg_covar[i];
    constexpr double kEpsilon = 0x1p-52;
    options.empty_below = 10.0 * kEpsilon * mass_ / static_cast<double>(rows_.n_samples);
    // Through shared memory: registers would be taken for it all through the next pass.
    Estimate next;
    const SmallOutcome result = small_update<D, kFull>(options, moments, previous, next);
    if (owner() && result.status == GmmFitStatus::ok) next_estimates()[k] = next;
    return result;
  }

  ELBOKIT_DEVICE Estimate* next_estimates() const {
    return reinterpret_cast<Estimate*>(shared_ + layout_.next());
  }

  ELBOKIT_DEVICE void keep_next() {
    if (owner()) current_[thread()] = next_estimates()[thread()];
    block_barrier();
  }

  const GmmFitManyArgs& args_;
  const SmallRows& rows_;
  const std::int64_t mixture_;
  const int n_components_, warps_;
  const SmallRunLayout<T, D, kFull> layout_;
  double* const shared_;
  Estimate* const current_;
  double mass_ = 0, log_likelihood_ = 0;
};

}  // namespace elbokit::cuda
