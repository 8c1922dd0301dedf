// Runs of EM on mixtures of few features: of several mixtures by one warp, or of one by a block of
// warps. Passes over the rows are shared by all lanes of a mixture; an M-step has a lane for each
// component. The lanes of a warp go through all of it together until the last of its mixtures is
// done.
#pragma once

#include "kernels/gmm_fit_many.h"
#include "kernels/gmm_small_pass.h"
#include "kernels/gmm_small_update.h"

namespace elbokit::cuda {

// Warps that share a mixture, at most, and lanes, at least.
inline constexpr int kMostWarps = 4, kLeastLanes = 8;

// Shared memory of a mixture, part behind part, in doubles: estimates, log constants, what warps
// tell each other, sums, the model.
template <int D, bool kFull>
struct SmallRunLayout {
  using Narrow = SmallGmm<float, D, kFull>;
  using Wide = SmallGmm<double, D, kFull>;
  int most, warps;  // components in float or in double, padded

  ELBOKIT_INLINE SmallRunLayout(int n_components, int n_warps)
      : most(small_team(n_components, Narrow::kEach) * Narrow::kEach), warps(n_warps) {
    const int wide = small_team(n_components, Wide::kEach) * Wide::kEach;
    if (wide > most) most = wide;
  }
  ELBOKIT_INLINE int log_const() const {
    return most * static_cast<int>(sizeof(SmallEstimate<D, kFull>) / sizeof(double));
  }
  ELBOKIT_INLINE int told() const { return log_const() + most; }
  ELBOKIT_INLINE int sums() const { return told() + kMostWarps; }
  ELBOKIT_INLINE int model() const { return sums() + warps * most * Wide::kSums; }
  // Odd, so that the mixtures of a warp begin at different banks.
  ELBOKIT_INLINE int size() const { return (model() + most * Wide::kParameters) | 1; }
};

// The run of the mixture that this thread works on.
template <int D, bool kFull>
class SmallRun {
  using Estimate = SmallEstimate<D, kFull>;
  static constexpr int kFactor = Estimate::kFactor;
  static constexpr int kSums = SmallGmm<double, D, kFull>::kSums;

 public:
  // Rows without samples where there is no mixture.
  ELBOKIT_DEVICE SmallRun(const GmmFitManyArgs& args, MixtureLanes lanes, const SmallRows& rows,
                          std::int64_t mixture)
      : args_(args),
        rows_(rows),
        mixture_(mixture),
        lanes_(lanes),
        n_components_(static_cast<int>(args.n_components)),
        warps_(static_cast<int>(blockDim.x) / kWarp),
        layout_(n_components_, warps_),
        shared_(shared_memory<double>() + lane_index() / lanes.width * layout_.size()),
        current_(reinterpret_cast<Estimate*>(shared_)) {}

  ELBOKIT_DEVICE void run() {
    const bool exists = mixture_ < args_.data.n_mixtures;
    double bound = exists ? args_.lower_bound[mixture_] : 0.0;
    if (exists) load();
    mass_ = total_weight();
    std::int64_t n_iter = 0;
    bool converged = false, running = rows_.n_samples > 0 && args_.max_iter > 0;
    bool narrow = within_float(current_[component()]);
    SmallOutcome result;
    if (rows_.n_samples < 1) result.status = GmmFitStatus::no_component;
    // The warps of a mixture compute the same, and so agree on where the loop ends.
    while (ballot(running) != 0) {
      pass<float>(running && narrow);
      pass<double>(running && !narrow);
      block_barrier();
      bool within;
      double log_likelihood;
      const SmallOutcome now = update(running, narrow, within, log_likelihood);
      if (!running) {
      } else if (narrow && !is_kept(now, true)) {
        narrow = false;  // once more, in double
      } else if (now.status != GmmFitStatus::ok) {
        result = now;
        running = false;
      } else {
        const double after = log_likelihood / mass_, change = after - bound;
        bound = after;
        ++n_iter;
        converged = ::fabs(change) < args_.tol;
        running = !converged && n_iter < args_.max_iter;
        narrow = within;
      }
    }
    if (!exists) return;
    store();
    if (thread() != 0) return;
    args_.lower_bound[mixture_] = bound;
    std::int64_t* const outcome = args_.outcome + 4 * mixture_;
    outcome[0] = n_iter;
    outcome[1] = converged;
    outcome[2] = static_cast<std::int64_t>(result.status);
    outcome[3] = result.component;
  }

 private:
  // Of this mixture's threads.
  ELBOKIT_DEVICE int thread() const { return warp_index() * kWarp + lanes_.index(); }
  ELBOKIT_DEVICE int threads() const { return warps_ * lanes_.width; }
  ELBOKIT_DEVICE bool owner() const { return thread() < n_components_; }
  // A lane's component in the M-step. Those without one copy the last, and count for nothing.
  ELBOKIT_DEVICE int component() const {
    return lanes_.index() < n_components_ ? lanes_.index() : n_components_ - 1;
  }
  // This mixture's arrays. Not kept: registers would be taken for them all through the run.
  ELBOKIT_DEVICE GmmEstimates estimates() const {
    const std::int64_t size = args_.covariance == Covariance::tied
                                  ? D * D
                                  : small_offset<D>(args_.covariance, n_components_);
    const GmmEstimates& all = args_.estimates;
    return {all.weights + mixture_ * n_components_, all.means + mixture_ * n_components_ * D,
            all.covariances + mixture_ * size, all.precisions_cholesky + mixture_ * size};
  }

  ELBOKIT_DEVICE void load() {
    const int k = thread();
    if (owner()) {
      const GmmEstimates own = estimates();
      Estimate& e = current_[k];
      e.weight = own.weights[k];
#pragma unroll
      for (int i = 0; i < D; ++i) e.mean[i] = own.means[k * D + i];
      const std::int64_t at = small_offset<D>(args_.covariance, k);
      load_packed<D, kFull>(args_.covariance, own.covariances + at, e.covariance);
      load_packed<D, kFull>(args_.covariance, own.precisions_cholesky + at, e.factor);
    }
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

  ELBOKIT_DEVICE double total_weight() {
    if (!rows_.sample_weight) {
      block_barrier();  // after load()
      return static_cast<double>(rows_.n_samples);
    }
    double sum = 0;
    for (std::int64_t n = thread(); n < rows_.n_samples; n += threads())
      sum += rows_.sample_weight[n];
    tell(sum);
    block_barrier();
    sum = told();
    block_barrier();
    return sum;
  }

  // A sum over the mixture's threads goes through shared memory, as it may have several warps.
  ELBOKIT_DEVICE void tell(double of_thread, bool takes_part = true) {
    const double sum = lanes_.sum(of_thread);
    if (takes_part && lanes_.index() == 0) shared_[layout_.told() + warp_index()] = sum;
  }
  ELBOKIT_DEVICE double told() const {
    const double* const of_warps = shared_ + layout_.told();
    double sum = of_warps[0];
#pragma unroll 1
    for (int warp = 1; warp < warps_; ++warp) sum += of_warps[warp];
    return sum;
  }

  // Whether the rows and the estimate are numbers of float.
  ELBOKIT_DEVICE bool within_float(const Estimate& e) const {
    constexpr double kLargest = 0x1p127;
    bool within = args_.data.element != Element::kFloat64;
#pragma unroll
    for (int i = 0; i < D; ++i) within = within && !(::fabs(e.mean[i]) > kLargest);
#pragma unroll
    for (int i = 0; i < kFactor; ++i) within = within && !(::fabs(e.factor[i]) > kLargest);
    return lanes_.ballot(!within) == 0;
  }

  ELBOKIT_DEVICE static bool is_kept(const SmallOutcome& outcome, bool narrow) {
    return outcome.status == GmmFitStatus::ok && !(narrow && outcome.below_resolution);
  }

  // Sums of an iteration, and the log-likelihood for told(), computed in V, of those mixtures that
  // take part; the others keep theirs.
  template <class V>
  ELBOKIT_DEVICE void pass(bool takes_part) {
    if (ballot(takes_part) == 0) return;
    using Gmm = SmallGmm<V, D, kFull>;
    const int team = small_team(n_components_, Gmm::kEach), padded = team * Gmm::kEach;
    const int size = layout_.most * kSums;
    double* const log_const = shared_ + layout_.log_const();
    double* const sums = shared_ + layout_.sums();
    V* const model = reinterpret_cast<V*>(shared_ + layout_.model());
    SmallRows rows = rows_;
    if (takes_part) {
      if (owner()) {
        const Estimate& e = current_[thread()];
        log_const[thread()] = pack_component<V, D, kFull>(e.weight, e.mean, e.factor,
                                                          model + thread() * Gmm::kParameters);
      }
#pragma unroll 1
      for (int i = thread(); i < warps_ * size; i += threads()) sums[i] = 0;
    } else {
      rows.n_samples = 0;
    }
    const double base = finish_model<V, Gmm::kParameters>(log_const, n_components_, padded,
                                                          thread(), threads(), model);
    SmallPass<V, D, kFull> of_rows(model, base, team, lanes_);
    tell(of_rows.run(rows, warp_index(), warps_, sums + warp_index() * size), takes_part);
  }

  // The M-step, by each of the mixture's warps. The estimate stays where the outcome is not kept.
  ELBOKIT_DEVICE SmallOutcome update(bool takes_part, bool narrow, bool& within,
                                     double& log_likelihood) {
    const int k = component(), size = layout_.most * kSums;
    const double* const sums = shared_ + layout_.sums() + k * kSums;
    const auto total = [&](int i) {
      double sum = sums[i];
#pragma unroll 1
      for (int warp = 1; warp < warps_; ++warp) sum += sums[warp * size + i];
      return sum;
    };
    SmallMoments<D, kFull> moments;
    moments.count = total(0);
#pragma unroll
    for (int i = 0; i < D; ++i) moments.first[i] = total(1 + i);
#pragma unroll
    for (int i = 0; i < kFactor; ++i) moments.second[i] = total(1 + D + i);
    log_likelihood = told();
    const Estimate previous = current_[k];
    moments.recentre(previous.mean, narrow);
    SmallUpdateOptions options{args_.covariance, n_components_, {}, 0.0};
#pragma unroll
    for (int i = 0; i < D; ++i) options.reg_covar[i] = args_.reg_covar[i];
    constexpr double kEpsilon = 0x1p-52;
    options.empty_below = 10.0 * kEpsilon * mass_ / static_cast<double>(rows_.n_samples);
    Estimate next;
    const SmallOutcome outcome = small_update<D, kFull>(lanes_, options, moments, previous, next);
    within = within_float(next);
    block_barrier();
    if (takes_part && owner() && is_kept(outcome, narrow)) current_[k] = next;
    return outcome;
  }

  const GmmFitManyArgs& args_;
  const SmallRows& rows_;
  const std::int64_t mixture_;
  const MixtureLanes lanes_;
  const int n_components_, warps_;
  const SmallRunLayout<D, kFull> layout_;
  double* const shared_;
  Estimate* const current_;
  double mass_ = 0;
};

}  // namespace elbokit::cuda
