#include "dispatch/precision_cholesky.h"

#include <algorithm>
#include <atomic>

#include "dispatch/cpu_level.h"

namespace elbokit::cpu {

namespace {

// About 50 µs of work: enough to outweigh waking a thread.
constexpr std::int64_t kTaskOperations = 400'000;

std::int64_t matrices_per_task(std::int64_t d) {
  return std::max<std::int64_t>(1, kTaskOperations / (d * d * d));
}

void lower_to(std::atomic<std::int64_t>& smallest, std::int64_t value) {
  std::int64_t before = smallest.load();
  while (value < before && !smallest.compare_exchange_weak(before, value)) {
  }
}

}  // namespace

std::int64_t precision_cholesky(std::int64_t n, std::int64_t d, const double* covariances,
                                double* factors, const double* counts, bool threads,
                                dispatch::Workspaces<double>& workspaces) {
  const auto kernel = ELBOKIT_KERNEL(precision_cholesky);
  const std::int64_t size = d * d;
  const std::int64_t per_task = matrices_per_task(d);
  std::atomic<std::int64_t> failed{n};
  dispatch::for_each_task(threads, (n + per_task - 1) / per_task, [&](std::int64_t task, int slot) {
    double* const work = workspaces.get(slot, 2 * size);
    const std::int64_t end = std::min(n, (task + 1) * per_task);
    for (std::int64_t i = task * per_task; i < end; ++i)
      if ((!counts || counts[i] != 0.0) &&
          !kernel(d, covariances + i * size, factors + i * size, work))
        return lower_to(failed, i);
  });
  return failed == n ? -1 : failed.load();
}

std::int64_t precision_cholesky(std::int64_t n, std::int64_t d, const double* covariances,
                                double* factors) {
  dispatch::Workspaces<double> workspaces;
  return precision_cholesky(n, d, covariances, factors, nullptr, true, workspaces);
}

void precision_product(std::int64_t n, std::int64_t d, const double* factors, double* precisions) {
  const auto kernel = ELBOKIT_KERNEL(precision_product);
  const std::int64_t per_task = matrices_per_task(d);
  dispatch::for_each_task(true, (n + per_task - 1) / per_task, [&](std::int64_t task, int) {
    const std::int64_t end = std::min(n, (task + 1) * per_task);
    for (std::int64_t i = task * per_task; i < end; ++i)
      kernel(d, factors + i * d * d, precisions + i * d * d);
  });
}

}  // namespace elbokit::cpu
