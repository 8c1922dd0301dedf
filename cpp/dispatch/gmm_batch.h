// Shares out independent mixtures: large ones one after the other, with threads over the rows of
// each; small ones each whole on one thread, with threads over the mixtures.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "dispatch/gmm_pass.h"
#include "dispatch/threads.h"

namespace elbokit::cpu {

struct BatchPlan {
  std::vector<std::int64_t> alone, shared;  // shared: the most expensive first
  bool threads = false;                     // whether the shared ones are worth threads
};

// cost: of each mixture, in ns. passes: how often that is paid at one stretch.
inline BatchPlan plan_batch(const std::vector<double>& cost, double passes) {
  BatchPlan plan;
  const double total = std::accumulate(cost.begin(), cost.end(), 0.0);
  // One that takes more than a quarter of a thread's share would keep the others waiting.
  const double large = total / (4 * dispatch::thread_count());
  double shared_cost = 0.0;
  for (std::size_t m = 0; m < cost.size(); ++m) {
    const bool alone = cost[m] >= dispatch::kWorthThreads && cost[m] > large;
    (alone ? plan.alone : plan.shared).push_back(static_cast<std::int64_t>(m));
    if (!alone) shared_cost += cost[m];
  }
  std::stable_sort(plan.shared.begin(), plan.shared.end(),
                   [&](std::int64_t a, std::int64_t b) { return cost[a] > cost[b]; });
  plan.threads = plan.shared.size() > 1 && shared_cost * passes >= dispatch::kWorthThreads;
  return plan;
}

// f(mixture, slot, threads) for each mixture, for one pass over its rows.
template <class T, class F>
void for_each_mixture(std::int64_t n_mixtures, const GmmRows<T>* rows,
                      const GmmParameters* parameters, F&& f) {
  std::vector<double> cost(n_mixtures);
  for (std::int64_t m = 0; m < n_mixtures; ++m)
    cost[m] = estimated_cost(parameters[m], rows[m].n_samples, sizeof(T));
  const BatchPlan plan = plan_batch(cost, 1.0);
  for (const std::int64_t m : plan.alone) f(m, 0, true);
  dispatch::for_each_task(plan.threads, static_cast<std::int64_t>(plan.shared.size()),
                          [&](std::int64_t task, int slot) { f(plan.shared[task], slot, false); });
}

}  // namespace elbokit::cpu
