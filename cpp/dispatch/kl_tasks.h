// The KL split into tasks of rows, and their sums merged in the order of the tasks.
#pragma once

#include <vector>

#include "dispatch/row_tasks.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::dispatch {

template <class T>
class KlTasks {
 public:
  explicit KlTasks(const GaussianKlArgs<T>& args)
      : args_(args),
        tasks_(args.rows, args.cols),
        totals_(tasks_.count()),
        dimensions_(args.dimensions ? 3 * args.cols * tasks_.count() : 0) {}

  const RowTasks& tasks() const { return tasks_; }

  template <class Kernel>
  void run(Kernel kernel, std::int64_t begin, std::int64_t end, std::int64_t task) {
    GaussianKlArgs<T> own = args_;
    if (own.dimensions) own.dimensions = dimensions_.data() + 3 * args_.cols * task;
    totals_[task] = kernel(own, begin, end);
  }

  KlTotals merged() const {
    KlTotals sum;
    for (const KlTotals& each : totals_) sum += each;
    const std::int64_t size = 3 * args_.cols;
    for (std::size_t i = 0; i < dimensions_.size(); ++i)
      args_.dimensions[i % size] += dimensions_[i];
    return sum;
  }

 private:
  const GaussianKlArgs<T>& args_;
  RowTasks tasks_;
  std::vector<KlTotals> totals_;
  std::vector<double> dimensions_;
};

}  // namespace elbokit::dispatch
