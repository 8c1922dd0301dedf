// Splits the rows of a loss into tasks. The split depends on the shape alone, and partial sums are
// added in its order, so that the bits do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "dispatch/threads.h"

namespace elbokit::dispatch {

// A task is some microseconds of a small loss, so that the threads share it evenly, and longer
// stretches of memory of a large one.
inline constexpr std::int64_t kLeastElements = 1 << 13, kMostElements = 1 << 15, kTasks = 32;
inline constexpr std::int64_t kWorthATeam = 1 << 15;  // less stays on the calling thread

// f(task, slot) for every task, on the threads if there are elements enough.
template <class F>
void in_team(std::int64_t elements, std::int64_t count, F&& f) {
  if (elements >= kWorthATeam) return team_for(count, f);
  for (std::int64_t task = 0; task < count; ++task) f(task, 0);
}

class RowTasks {
 public:
  static constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();

  // At most `most` tasks: for those that each hold sums of their own.
  RowTasks(std::int64_t rows, std::int64_t elements_per_row, std::int64_t most = kAny)
      : rows_(rows),
        elements_(rows * elements_per_row),
        per_task_(std::max(
            std::max<std::int64_t>(1, stretch() / std::max<std::int64_t>(1, elements_per_row)),
            rows / most + (rows % most != 0))),
        count_((rows + per_task_ - 1) / per_task_) {}

  std::int64_t count() const { return count_; }
  std::int64_t elements() const { return elements_; }

  // f(begin, end, task) for the rows of a task; or f(begin, end, task, slot), as of team_for.
  template <class F>
  void run(F&& f, std::int64_t task, int slot) const {
    const std::int64_t begin = task * per_task_, end = std::min(rows_, begin + per_task_);
    if constexpr (std::is_invocable_v<F, std::int64_t, std::int64_t, std::int64_t, int>)
      f(begin, end, task, slot);
    else
      f(begin, end, task);
  }

  // The same for every task.
  template <class F>
  void run(F&& f) const {
    in_team(elements_, count_, [&](std::int64_t task, int slot) { run(f, task, slot); });
  }

 private:
  std::int64_t stretch() const {
    return std::clamp(elements_ / kTasks, kLeastElements, kMostElements);
  }

  std::int64_t rows_, elements_, per_task_, count_;
};

// The tasks of two losses in one team. Each has stretches of memory of its own: in turn, task by
// task, on 16,384 rows they took a tenth longer.
template <class F, class G>
void run_both(const RowTasks& first, F&& f, const RowTasks& second, G&& g) {
  const std::int64_t count = first.count();
  in_team(first.elements() + second.elements(), count + second.count(),
          [&](std::int64_t task, int slot) {
            task < count ? first.run(f, task, slot) : second.run(g, task - count, slot);
          });
}

}  // namespace elbokit::dispatch
