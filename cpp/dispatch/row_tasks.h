// Splits the rows of a loss into tasks. The split depends on the shape alone, and partial sums are
// added in its order, so that the bits do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "dispatch/threads.h"

namespace elbokit::dispatch {

inline constexpr std::int64_t kTaskElements = 1 << 15;  // enough to outweigh waking a thread

class RowTasks {
 public:
  RowTasks(std::int64_t rows, std::int64_t elements_per_row)
      : rows_(rows),
        per_task_(
            std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, elements_per_row))),
        count_((rows + per_task_ - 1) / per_task_) {}

  std::int64_t count() const { return count_; }

  // f(begin, end, task) for every task's rows.
  template <class F>
  void run(F&& f) const {
    parallel_for(count_, [&](std::int64_t task, int) {
      f(task * per_task_, std::min(rows_, (task + 1) * per_task_), task);
    });
  }

 private:
  std::int64_t rows_, per_task_, count_;
};

}  // namespace elbokit::dispatch
