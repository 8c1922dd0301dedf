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
  bool run(const GmmFitRows<T>& rows, bool threads, GmmFit& fit, F&& go_on) {
    if (fit.status != GmmFitStatus::ok) return true;
    set_rows(rows);
    const GmmUpdateOptions update{options_.reg_covar, options_.prior,
                                  gmm_empty_below(mass_, rows.n_samples), threads};
    while (fit.n_iter < options_.max_iter) {
      const GmmUpdateResult result = iterate(fit.estimate, update);
      if (result.status != GmmFitStatus::ok) {
        fit.status = result.status;
        fit.component = result.component;
        return true;
      }
      const double change = record(fit, update);
      next_.store(fit.estimate);
      if (fit.converged || fit.n_iter == options_.max_iter) {
        go_on(fit, change);
        return true;
      }
      if (!go_on(fit, change)) return false;
    }
    return true;
  }

 private:
  void set_rows(const GmmFitRows<T>& rows) {
    const std::int64_t n = rows.n_samples;
    const Vector<const double>& weight = rows.sample_weight;
    rows_ = {n, rows.x, {}};
    wide_ = {n, {}, weight};
    mass_ = static_cast<double>(n);
    if (weight) {
      mass_ = 0.0;
      for (std::int64_t i = 0; i < n; ++i) mass_ += weight[i];
    }
    if constexpr (std::is_same_v<T, double>) {
      rows_.sample_weight = weight;
    } else {
      wide_.narrow = rows.x;
      if (!weight) return;
      weights_.resize(n);
      for (std::int64_t i = 0; i < n; ++i) weights_[i] = static_cast<T>(weight[i]);
      rows_.sample_weight = {weights_.data(), 1};
    }
  }

  // From the estimate to next_. What float32 cannot resolve or hold is done again in double.
  GmmUpdateResult iterate(const GmmEstimate& estimate, const GmmUpdateOptions& update) {
    if constexpr (std::is_same_v<T, double>) {
      return iterate_in(pass_, rows_, estimate, update);
    } else {
      if (within_float(estimate.means, k_ * d_) &&
          within_float(estimate.precisions_cholesky, size_)) {
        const GmmUpdateResult result = iterate_in(pass_, rows_, estimate, update);
        if (result.status == GmmFitStatus::ok &&
            !update_.below_resolution(statistics_, next_.estimate()))
          return result;
      }
      if (!exact_pass_) exact_pass_.emplace();
      return iterate_in(*exact_pass_, wide_, estimate, update);
    }
  }

  template <class S>
  GmmUpdateResult iterate_in(GmmPass<S>& pass, const GmmRows<S>& rows, const GmmEstimate& e,
                             const GmmUpdateOptions& update) {
    const GmmParameters parameters{covariance_, k_, d_, e.weights, e.means, e.precisions_cholesky};
    pass.run(rows, parameters, mass_, update.threads, statistics_);
    if (!all_finite(statistics_memory_.data(),
                    static_cast<std::int64_t>(statistics_memory_.size())))
      return {GmmFitStatus::overflow, -1};
    return update_.run(statistics_, e, update, next_.estimate());
  }

  // Before next_ takes the estimate's place.
  double record(GmmFit& fit, const GmmUpdateOptions& update) const {
    const GmmPrior* const prior = options_.prior;
    double objective = log_likelihood_;
    if (prior)
      objective += gmm_log_prior(covariance_, k_, d_, *prior, fit.estimate, update.threads);
    const double bound = objective / mass_;
    if (fit.after_m) {
      const double gain = update_.gain(statistics_, fit.estimate, update, next_.estimate());
      fit.after_m->push_back((log_likelihood_ + gain) / mass_);
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
  GmmRows<T> rows_{};
  GmmRows<double> wide_{};
  std::vector<T> weights_;
  double mass_ = 0.0, log_likelihood_ = 0.0;
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
  std::vector<double> cost(n_mixtures);
  for (std::int64_t m = 0; m < n_mixtures; ++m)
    cost[m] = estimated_cost(shape, rows[m].n_samples, sizeof(T));
  BatchPlan plan =
      plan_batch(cost, std::min(kTypicalIterations, static_cast<double>(options.max_iter)));

  std::vector<std::unique_ptr<Runner<T>>> runners(dispatch::kMaxThreads);
  const auto runner = [&](int slot) -> Runner<T>& {
    if (!runners[slot])
      runners[slot] = std::make_unique<Runner<T>>(covariance, n_components, n_features, options);
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
  std::vector<char> ended(n_mixtures);
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
    plan.shared.erase(std::remove_if(plan.shared.begin(), plan.shared.end(),
                                     [&](std::int64_t m) { return ended[m] != 0; }),
                      plan.shared.end());
  }
}

#define ELBOKIT_INSTANTIATE(T)                                                \
  template void gmm_fit(std::int64_t, Covariance, std::int64_t, std::int64_t, \
                        const GmmFitRows<T>*, const GmmFitOptions&, GmmFit*, GmmFitObserver&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cpu
