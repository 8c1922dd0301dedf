// The rows of one k-means problem in chunks, and passes over them on as many threads as pay.
#pragma once

#include <algorithm>
#include <cstdint>

#include "dispatch/cpu_level.h"
#include "dispatch/threads.h"
#include "dispatch/workspaces.h"
#include "elbokit/kmeans.h"

namespace elbokit::cpu {

// About how many ns the distances of some rows to `centers` centers take.
inline double kmeans_cost(std::int64_t n_rows, std::int64_t n_features, std::int64_t centers) {
  const auto d = static_cast<double>(n_features);
  return static_cast<double>(n_rows) * (4 + d * (0.2 + 0.03 * static_cast<double>(centers)));
}

// The cut depends on the shapes alone, so that the bits do not depend on the threads. Keeps its
// scratch from problem to problem.
template <class T>
class KMeansRowTasks {
 public:
  void assign(const KMeansRows<T>& rows, const T* pivot, std::int64_t n_clusters) {
    rows_ = rows;
    pivot_ = pivot;
    runs_ = (rows.n_samples + kSeedRun - 1) / kSeedRun;
    // A chunk's sums are merged, which has to be little work beside its rows.
    const std::int64_t least = std::max<std::int64_t>(kMinRows, 4 * n_clusters);
    count_ = std::clamp<std::int64_t>(rows.n_samples / least, 1, kMaxChunks);
    workspace_ = ELBOKIT_KERNEL(kmeans_workspace<T>)(rows.n_features);
  }

  const KMeansRows<T>& rows() const { return rows_; }
  const T* pivot() const { return pivot_; }
  std::int64_t count() const { return count_; }
  std::int64_t runs() const { return runs_; }  // of kSeedRun rows

  // About how many ns the distances of all rows to `centers` centers take.
  double cost(std::int64_t centers) const { return cost(rows_.n_samples, centers); }
  double cost(std::int64_t n_rows, std::int64_t centers) const {
    return kmeans_cost(n_rows, rows_.n_features, centers);
  }

  // f(chunk, task) for every chunk.
  template <class F>
  void run(double cost, F&& f) const {
    const bool threads = cost > dispatch::kWorthThreads && count_ > 1;
    dispatch::for_each_task(threads, count_, [&](std::int64_t task, int slot) {
      const std::int64_t begin = task * runs_ / count_ * kSeedRun;
      const std::int64_t end = std::min(rows_.n_samples, (task + 1) * runs_ / count_ * kSeedRun);
      f(chunk(begin, end, slot), task);
    });
  }

  KMeansChunk<T> chunk(std::int64_t begin, std::int64_t end, int slot) const {
    return {rows_, begin, end, pivot_, workspaces_.get(slot, workspace_)};
  }

 private:
  static constexpr std::int64_t kMinRows = 1024, kMaxChunks = 64;

  KMeansRows<T> rows_{};
  const T* pivot_ = nullptr;
  std::int64_t runs_ = 0, count_ = 0, workspace_ = 0;
  mutable dispatch::Workspaces<T> workspaces_;  // scratch: a slot's belongs to one thread
};

}  // namespace elbokit::cpu
