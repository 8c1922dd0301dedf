#include "elbokit/gmm_fit.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "dispatch/gmm_batch.h"
#include "dispatch/gmm_pass.h"
#include "dispatch/gmm_prior.h"
#include "dispatch/gmm_together.h"
#include "dispatch/gmm_update.h"

namespace elbokit::cpu {

namespace {

using Clock = std::chrono::steady_clock;

// A run on a shared-out batch goes on for at most so long at one stretch.
constexpr std::chrono::milliseconds kStretch{50};

// Iterations that a typical run makes: whether threads are worth waking for a batch.
constexpr double kTypicalIterations = 10.0;

bool all_finite(const double* values, std::int64_t n) {
  // A finite value times 0 is 0, and sums of zeros cost no branch.
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += 0.0 * values[i];
  return sum == 0.0;
}

bool within_float(const double* values, std::int64_t n) {
  constexpr double largest = std::numeric_limits<float>::max() / 2;
  double most = 0.0;
  for (std::int64_t i = 0; i < n; ++i) most = std::max(most, std::fabs(values[i]));
  return most <= largest;
}

// The rows of one run, or of several that share them, as the passes read them.
template <class T>
struct RunRows {
  GmmRows<T> rows{};
  GmmRows<double> wide{};
  double mass = 0.0;
  std::vector<T> weights;

  void assign(const GmmFitRows<T>& given) {
    const std::int64_t n = given.n_samples;
    const Vector<const double>& weight = given.sample_weight;
    rows = {n, given.x, {}};
    wide = {n, {}, weight};
    mass = static_cast<double>(n);
    if (weight) {
      mass = 0.0;
      for (std::int64_t i = 0; i < n; ++i) mass += weight[i];
    }
    if constexpr (std::is_same_v<T, double>) {
      rows.sample_weight = weight;
    } else {
      wide.narrow = given.x;
      if (!weight) return;
      weights.resize(n);
      for (std::int64_t i = 0; i < n; ++i) weights[i] = static_cast<T>(weight[i]);
      rows.sample_weight = {weights.data(), 1};
    }
  }
};

// One thread's memory for one run after the other, all of one shape.
template <class T>
class Runner {
 public:
  Runner(Covariance covariance, std::int64_t n_components, std::int64_t n_features,
         const GmmFitOptions& options)
      : covariance_(covariance),
        k_(n_components),
        d_(n_features),
        size_(covariance_size(covariance, k_, d_)),
        options_(options),
        update_(covariance, k_, d_),
        statistics_memory_(k_ + k_ * d_ + size_),
        next_(covariance, k_, d_) {
    double* const s = statistics_memory_.data();
    statistics_ = {s, s + k_, s + k_ + k_ * d_, &log_likelihood_};
  }

  // Iterates until the run ends (true) or go_on(fit, change) is false.
  template <class F>
  bool run(const GmmFitRows<T>& given, bool threads, GmmFit& fit, F&& go_on) {
    if (fit.status != GmmFitStatus::ok) return true;
    rows_.assign(given);
    while (fit.n_iter < options_.max_iter) {
      const GmmUpdateResult result = iterate(rows_, fit, threads);
      double change = 0.0;
      const bool more = advance(rows_, threads, result, fit, change);
      if (result.status != GmmFitStatus::ok) return true;
      if (!go_on(fit, change)) return !more;
      if (!more) return true;
    }
    return true;
  }

  // The parts of an iteration, for runs that share the pass over the rows. The pass in T, where it
  // serves:
  bool serves(const GmmFit& fit) const {
    const GmmEstimate& e = fit.estimate;
    return std::is_same_v<T, double> || (!fit.wide && within_float(e.means, k_ * d_) &&
                                         within_float(e.precisions_cholesky, size_));
  }
  typename GmmPass<T>::Together pass(const GmmEstimate& e) {
    return {&pass_, parameters(e), statistics_};
  }

  // The M-step on what a pass left. False: float32 could not resolve or hold it.
  bool update(const RunRows<T>& rows, const GmmEstimate& e, bool threads, GmmUpdateResult& result) {
    result = m_step(rows, e, threads);
    return std::is_same_v<T, double> || (result.status == GmmFitStatus::ok &&
                                         !update_.below_resolution(statistics_, next_.estimate()));
  }

  // The pass and the M-step in double.
  GmmUpdateResult repeat(const RunRows<T>& rows, GmmFit& fit, bool threads) {
    if (!exact_pass_) exact_pass_.emplace();
    exact_pass_->run(rows.wide, parameters(fit.estimate), rows.mass, threads, statistics_);
    const GmmUpdateResult result = m_step(rows, fit.estimate, threads);
    fit.wide = result.status == GmmFitStatus::ok &&
               update_.below_resolution(statistics_, next_.estimate());
    return result;
  }

  // Stores an iteration's outcome in the fit. Returns whether another one follows.
  bool advance(const RunRows<T>& rows, bool threads, const GmmUpdateResult& result, GmmFit& fit,
               double& change) const {
    if (result.status != GmmFitStatus::ok) {
      fit.status = result.status;
      fit.component = result.component;
      return false;
    }
    change = record(rows, threads, fit);
    next_.store(fit.estimate);
    return !fit.converged && fit.n_iter < options_.max_iter;
  }

 private:
  GmmParameters parameters(const GmmEstimate& e) const {
    return {covariance_, k_, d_, e.weights, e.means, e.precisions_cholesky};
  }

  // From the estimate to next_. What float32 cannot resolve or hold is done again in double.
  GmmUpdateResult iterate(const RunRows<T>& rows, GmmFit& fit, bool threads) {
    GmmUpdateResult result;
    if (serves(fit)) {
      pass_.run(rows.rows, parameters(fit.estimate), rows.mass, threads, statistics_);
      if (update(rows, fit.estimate, threads, result)) return result;
    }
    return repeat(rows, fit, threads);
  }

  GmmUpdateResult m_step(const RunRows<T>& rows, const GmmEstimate& e, bool threads) {
    if (!all_finite(statistics_memory_.data(),
                    static_cast<std::int64_t>(statistics_memory_.size())))
      return {GmmFitStatus::overflow, -1};
    return update_.run(statistics_, e, update_options(rows, threads), next_.estimate());
  }

  GmmUpdateOptions update_options(const RunRows<T>& rows, bool threads) const {
    return {options_.reg_covar, options_.prior, gmm_empty_below(rows.mass, rows.rows.n_samples),
            threads};
  }

  // Before next_ takes the estimate's place.
  double record(const RunRows<T>& rows, bool threads, GmmFit& fit) const {
    double objective = log_likelihood_;
    if (options_.prior)
      objective += gmm_log_prior(covariance_, k_, d_, *options_.prior, fit.estimate, threads);
    const double bound = objective / rows.mass;
    if (fit.after_m) {
      const double gain =
          update_.gain(statistics_, fit.estimate, update_options(rows, threads), next_.estimate());
      fit.after_m->push_back((log_likelihood_ + gain) / rows.mass);
    }
    const double change = bound - fit.lower_bound;
    fit.lower_bound = bound;
    if (fit.lower_bounds) fit.lower_bounds->push_back(bound);
    fit.converged = std::fabs(change) < options_.tol;
    ++fit.n_iter;
    return change;
  }

  Covariance covariance_;
  std::int64_t k_, d_, size_;
  GmmFitOptions options_;
  GmmUpdate update_;
  GmmPass<T> pass_;
  std::optional<GmmPass<double>> exact_pass_;
  RunRows<T> rows_;
  double log_likelihood_ = 0.0;
  std::vector<double> statistics_memory_;
  GmmStatistics statistics_;
  EstimateMemory next_;
};

}  // namespace

template <class T>
void gmm_fit(std::int64_t n_mixtures, Covariance covariance, std::int64_t n_components,
             std::int64_t n_features, const GmmFitRows<T>* rows, const GmmFitOptions& options,
             GmmFit* fits, GmmFitObserver& observer) {
  const GmmParameters shape{covariance, n_components, n_features, nullptr, nullptr, nullptr};
  const auto make_runner = [&] {
    return std::make_unique<Runner<T>>(covariance, n_components, n_features, options);
  };
  std::vector<char> ended(n_mixtures);
  for (const Range& range : sharing_rows(n_mixtures, rows, n_features)) {
    RunRows<T> shared;
    shared.assign(rows[range.begin]);
    const std::int64_t bytes = GmmPass<T>::sums_bytes(rows[range.begin].n_samples, shape);
    const std::int64_t at_once = std::max<std::int64_t>(1, kTogetherBytes / bytes);
    RunsTogether<T, Runner<T>, RunRows<T>>(shared, at_once, options.max_iter, make_runner, observer)
        .run(fits + range.begin, fits + range.end);
    std::fill(ended.begin() + range.begin, ended.begin() + range.end, 1);
  }

  std::vector<double> cost(n_mixtures);
  for (std::int64_t m = 0; m < n_mixtures; ++m)
    cost[m] = ended[m] ? 0.0 : estimated_cost(shape, rows[m].n_samples, sizeof(T));
  BatchPlan plan =
      plan_batch(cost, std::min(kTypicalIterations, static_cast<double>(options.max_iter)));
  const auto drop_ended = [&] {
    plan.shared.erase(std::remove_if(plan.shared.begin(), plan.shared.end(),
                                     [&](std::int64_t m) { return ended[m] != 0; }),
                      plan.shared.end());
  };
  drop_ended();

  std::vector<std::unique_ptr<Runner<T>>> runners(dispatch::kMaxThreads);
  const auto runner = [&](int slot) -> Runner<T>& {
    if (!runners[slot]) runners[slot] = make_runner();
    return *runners[slot];
  };
  for (const std::int64_t m : plan.alone)
    runner(0).run(rows[m], true, fits[m], [&](const GmmFit& fit, double change) {
      observer.iteration(fit, change);
      return true;
    });

  // In rounds, so that the calling thread, which may run out of work first, gets to its pauses. A
  // run that goes on in the next round continues where it was, bit for bit.
  std::atomic<bool> stopped{false};
  while (!plan.shared.empty()) {
    const auto stretch = [&](std::int64_t m, int slot) {
      const Clock::time_point end = Clock::now() + kStretch;
      return runner(slot).run(rows[m], false, fits[m], [&](const GmmFit& fit, double change) {
        if (slot == 0) observer.iteration(fit, change);
        return !stopped.load(std::memory_order_relaxed) && Clock::now() < end;
      });
    };
    dispatch::for_each_task(plan.threads, static_cast<std::int64_t>(plan.shared.size()),
                            [&](std::int64_t task, int slot) {
                              const std::int64_t m = plan.shared[task];
                              try {
                                ended[m] = stretch(m, slot);
                              } catch (...) {
                                stopped = true;
                                throw;
                              }
                            });
    observer.pause();
    drop_ended();
  }
}

#define ELBOKIT_INSTANTIATE(T)                                                \
  template void gmm_fit(std::int64_t, Covariance, std::int64_t, std::int64_t, \
                        const GmmFitRows<T>*, const GmmFitOptions&, GmmFit*, GmmFitObserver&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cpu
