// The KL split into tasks of rows, and their sums merged in the order of the tasks.
#pragma once

#include <vector>

#include "dispatch/row_tasks.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::dispatch {

// Tasks that each have sums of the columns of their own.
inline constexpr std::int64_t kMostColumnSums = 64;

template <class T>
class KlTasks {
 public:
  explicit KlTasks(const GaussianKlArgs<T>& args)
      : args_(args),
        one_prior_(args.prior_mu && args.prior_mu.row_stride == 0 &&
                   args.prior_logvar.row_stride == 0 && args.prior_mu.col_stride == 1 &&
                   args.prior_logvar.col_stride == 1),
        tasks_(args.rows, args.cols, one_prior_ ? kMostColumnSums : RowTasks::kAny),
        totals_(tasks_.count()),
        dimensions_(args.dimensions ? 3 * args.cols * tasks_.count() : 0),
        prior_sums_(args.prior_sums ? 2 * args.cols * tasks_.count() : 0),
        prior_work_(one_prior_ ? work_size() * tasks_.count() : 0) {}

  const RowTasks& tasks() const { return tasks_; }

  template <class Kernel>
  void run(Kernel kernel, std::int64_t begin, std::int64_t end, std::int64_t task) {
    GaussianKlArgs<T> own = args_;
    if (own.dimensions) own.dimensions = dimensions_.data() + 3 * args_.cols * task;
    if (own.prior_sums) own.prior_sums = prior_sums_.data() + 2 * args_.cols * task;
    if (one_prior_) own.prior_work = prior_work_.data() + work_size() * task;
    totals_[task] = kernel(own, begin, end);
  }

  KlTotals merged() const {
    KlTotals sum;
    for (const KlTotals& each : totals_) sum += each;
    add_up(dimensions_, 3 * args_.cols, args_.dimensions);
    add_up(prior_sums_, 2 * args_.cols, args_.prior_sums);
    return sum;
  }

 private:
  std::int64_t work_size() const { return 3 * in_whole_vectors(args_.cols); }
  static void add_up(const std::vector<double>& of_tasks, std::int64_t size, double* sums) {
    for (std::size_t i = 0; i < of_tasks.size(); ++i) sums[i % size] += of_tasks[i];
  }

  const GaussianKlArgs<T>& args_;
  bool one_prior_;
  RowTasks tasks_;
  std::vector<KlTotals> totals_;
  std::vector<double> dimensions_, prior_sums_;
  std::vector<T> prior_work_;
};

}  // namespace elbokit::dispatch
