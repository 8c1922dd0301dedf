#include "elbokit/precision_cholesky.h"

#include <algorithm>
#include <vector>

#include "dispatch/cpu_level.h"
#include "dispatch/threads.h"

namespace elbokit::cpu {

namespace {

// About 50 µs of work: enough to outweigh waking a thread.
constexpr std::int64_t kTaskOperations = 400'000;

}  // namespace

std::int64_t precision_cholesky(std::int64_t n, std::int64_t d, const double* covariances,
                                double* factors) {
  const auto kernel = ELBOKIT_KERNEL(precision_cholesky);
  const std::int64_t size = d * d;
  const std::int64_t per_task = std::max<std::int64_t>(1, kTaskOperations / (size * d));
  const std::int64_t tasks = (n + per_task - 1) / per_task;
  std::vector<std::int64_t> failed(tasks, n);
  dispatch::parallel_for(tasks, [&](std::int64_t task, int) {
    std::vector<double> work(2 * size);
    const std::int64_t end = std::min(n, (task + 1) * per_task);
    for (std::int64_t i = task * per_task; i < end; ++i)
      if (!kernel(d, covariances + i * size, factors + i * size, work.data())) {
        failed[task] = i;
        return;
      }
  });
  const std::int64_t first = tasks == 0 ? n : *std::min_element(failed.begin(), failed.end());
  return first == n ? -1 : first;
}

}  // namespace elbokit::cpu
