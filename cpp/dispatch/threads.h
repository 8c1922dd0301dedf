// A small thread pool. Its threads soon sleep when idle, so that it does not fight other pools
// (OpenMP in torch and BLAS) for the cores, and it starts afresh after fork().
#pragma once

#include <cstdint>
#include <type_traits>

namespace elbokit::dispatch {

inline constexpr int kMaxThreads = 256;

// ELBOKIT_NUM_THREADS, else OMP_NUM_THREADS, else the processors that the process may use.
int thread_count();
void set_thread_count(int count);

using Task = void (*)(void* context, std::int64_t index, int slot);
void run_tasks(std::int64_t count, Task task, void* context);

// Calls f(index, slot) for every index in [0, count), in any order and on several threads; returns
// when all are done, and throws what the first failing call threw. slot < kMaxThreads is unique
// among the calls that run at the same time. What f computes must not depend on slot, so that
// results do not depend on the thread count.
template <class F>
void parallel_for(std::int64_t count, F&& f) {
  using Function = std::remove_reference_t<F>;
  run_tasks(
      count,
      [](void* context, std::int64_t index, int slot) {
        (*static_cast<Function*>(context))(index, slot);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// Threads that another library keeps, in the form of libgomp: GOMP_parallel, which calls a function
// with some data on so many threads at most, and omp_get_max_threads.
using TeamRun = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);
using TeamSize = int (*)();

// Lends the team to run_in_team, for a process whose losses run between that library's operators:
// its threads may still spin when a loss begins, and threads of our own would have to share the
// cores with them. A forked child, where the team would wait for threads that are not there, takes
// our own.
void lend_team(TeamRun run, TeamSize size);

// run_tasks on the team, or on our own threads if none was lent.
void run_in_team(std::int64_t count, Task task, void* context);

// parallel_for by run_in_team.
template <class F>
void team_for(std::int64_t count, F&& f) {
  using Function = std::remove_reference_t<F>;
  run_in_team(
      count,
      [](void* context, std::int64_t index, int slot) {
        (*static_cast<Function*>(context))(index, slot);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// Waking a thread costs 30 to 50 µs: less work than this, in ns, stays on the calling thread. Which
// way it goes may depend on an estimate, since the results do not depend on it.
inline constexpr double kWorthThreads = 100e3;

// parallel_for where `threads` is set, else the same calls in order on this thread, in slot 0.
template <class F>
void for_each_task(bool threads, std::int64_t count, F&& f) {
  if (threads) return parallel_for(count, f);
  for (std::int64_t i = 0; i < count; ++i) f(i, 0);
}

}  // namespace elbokit::dispatch
