#include <algorithm>
#include <memory>
#include <vector>

#include "dispatch/cpu_level.h"
#include "dispatch/threads.h"
#include "dispatch/workspaces.h"
#include "elbokit/kmeans.h"

namespace elbokit::cpu {

namespace {

constexpr std::int64_t kMinRows = 2048, kMaxChunks = 16;
constexpr std::int64_t kSumsBytes = 32 * 1024 * 1024;

// Chunks of one problem's rows with their sums: a cut that depends on the shapes alone.
struct Plan {
  std::int64_t k, d, second, count;  // second: entries per label
  Plan(std::int64_t n_samples, std::int64_t n_clusters, std::int64_t n_features, bool full)
      : k(n_clusters), d(n_features), second(full ? d * d : d) {
    const std::int64_t most = std::max<std::int64_t>(2, kSumsBytes / (8 * size()));
    count = std::clamp<std::int64_t>(n_samples / kMinRows, 1, std::min(most, kMaxChunks));
  }
  std::int64_t size() const { return k * (1 + d + second); }
  // Of all rows, in ns.
  double cost(std::int64_t n_samples) const {
    return 0.1 * static_cast<double>(n_samples * (8 * d + second));
  }
  LabelMoments at(double* base) const { return {base, base + k, base + k * (1 + d)}; }
};

// Moves the sums from the centers to the means, which the centers become, and mirrors a full second
// moment.
void recentre(const Plan& plan, bool full, double* centers, const LabelMoments& sums) {
  const std::int64_t d = plan.d;
  for (std::int64_t k = 0; k < plan.k; ++k) {
    double *const first = sums.first + k * d, *const second = sums.second + k * plan.second;
    const double divisor = sums.counts[k] > 0 ? sums.counts[k] : 1.0;
    const auto shift = [&](std::int64_t j) { return first[j] / divisor; };
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t j = full ? 0 : i; j <= i; ++j) {
        const double moved = second[full ? i * d + j : i] - shift(i) * first[j];
        if (full)
          second[i * d + j] = second[j * d + i] = moved;
        else
          second[i] = std::max(moved, 0.0);
      }
    for (std::int64_t j = 0; j < d; ++j) centers[k * d + j] += shift(j);
    std::fill_n(first, d, 0.0);
  }
}

// Kept from problem to problem.
struct Memory {
  std::vector<double> sums;
  dispatch::Workspaces<double> workspaces;
};

template <class T>
void solve(const KMeansRows<T>& rows, const std::int32_t* labels, const Plan& plan, bool full,
           double* centers, const LabelMoments& out, Memory& kept) {
  const auto kernel = ELBOKIT_KERNEL(label_moments_chunk<T>);
  const std::int64_t workspace = ELBOKIT_KERNEL(label_moments_workspace)(plan.k, plan.d);
  std::vector<double>& memory = kept.sums;
  memory.assign(plan.count * plan.size(), 0.0);
  const bool threads = plan.cost(rows.n_samples) > dispatch::kWorthThreads && plan.count > 1;
  dispatch::for_each_task(threads, plan.count, [&](std::int64_t task, int slot) {
    kernel(rows, task * rows.n_samples / plan.count, (task + 1) * rows.n_samples / plan.count,
           labels, plan.k, centers, full, plan.at(memory.data() + task * plan.size()),
           kept.workspaces.get(slot, workspace));
  });
  for (std::int64_t c = 1; c < plan.count; ++c)
    for (std::int64_t i = 0; i < plan.size(); ++i) memory[i] += memory[c * plan.size() + i];
  const LabelMoments sums = plan.at(memory.data());
  recentre(plan, full, centers, sums);
  std::copy_n(sums.counts, plan.k, out.counts);
  std::copy_n(sums.second, plan.k * plan.second, out.second);
}

}  // namespace

template <class T>
void label_moments(std::int64_t n_problems, const KMeansRows<T>* rows,
                   const std::int32_t* const* labels, std::int64_t n_clusters, bool full,
                   double* const* centers, const LabelMoments* moments) {
  const auto plan = [&](std::int64_t p) {
    return Plan(rows[p].n_samples, n_clusters, rows[p].n_features, full);
  };
  double cost = 0;
  for (std::int64_t p = 0; p < n_problems; ++p) cost += plan(p).cost(rows[p].n_samples);
  const bool threads = n_problems > 1 && cost > dispatch::kWorthThreads;
  std::vector<std::unique_ptr<Memory>> memories(dispatch::kMaxThreads);
  dispatch::for_each_task(threads, n_problems, [&](std::int64_t p, int slot) {
    if (!memories[slot]) memories[slot] = std::make_unique<Memory>();
    solve(rows[p], labels[p], plan(p), full, centers[p], moments[p], *memories[slot]);
  });
}

#define ELBOKIT_INSTANTIATE(T)                                                                \
  template void label_moments(std::int64_t, const KMeansRows<T>*, const std::int32_t* const*, \
                              std::int64_t, bool, double* const*, const LabelMoments*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cpu
