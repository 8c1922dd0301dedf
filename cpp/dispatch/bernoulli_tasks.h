// The Bernoulli loss split into tasks, and their sums merged in the order of the tasks.
#pragma once

#include <numeric>
#include <vector>

#include "dispatch/row_tasks.h"
#include "elbokit/bernoulli.h"

namespace elbokit::dispatch {

template <class T>
class BernoulliTasks {
 public:
  explicit BernoulliTasks(const BernoulliArgs<T>& args)
      : args_(args),
        flat_(flat()),
        tasks_(flat_ ? (size() + kStretch - 1) / kStretch : args.rows,
               flat_ ? kStretch : args.cols),
        totals_(tasks_.count()) {}

  const RowTasks& tasks() const { return tasks_; }

  template <class Kernel>
  void run(Kernel kernel, std::int64_t begin, std::int64_t end, std::int64_t task) {
    totals_[task] = flat_
                        ? kernel(stretch(begin * kStretch, std::min(size(), end * kStretch)), 0, 1)
                        : kernel(args_, begin, end);
  }

  BernoulliTotals merged() const {
    return std::accumulate(totals_.begin(), totals_.end(), BernoulliTotals{});
  }

 private:
  static constexpr std::int64_t kStretch = 4096;

  std::int64_t size() const { return args_.rows * args_.cols; }

  // Whether the elements may be taken in stretches, whatever the shape: then neither a single long
  // row nor a long column leaves threads or lanes idle.
  bool flat() const {
    const auto whole = [&](const Operand& m) {
      return !m || (m.row_stride == 0 && m.col_stride == 0) ||
             (m.col_stride == 1 && m.row_stride == args_.cols);
    };
    return !args_.row_loss && !args_.row_weight && whole(args_.logits) && whole(args_.target) &&
           whole(args_.weight) && whole(args_.pos_weight) && whole(args_.mask) &&
           (!args_.elementwise || args_.elementwise.row_stride == args_.cols) &&
           (!args_.grad || args_.grad.row_stride == args_.cols);
  }

  // The elements from `begin` to `end` as one row.
  BernoulliArgs<T> stretch(std::int64_t begin, std::int64_t end) const {
    BernoulliArgs<T> part = args_;
    for (Operand* m : {&part.logits, &part.target, &part.weight, &part.pos_weight, &part.mask})
      if (*m && m->col_stride == 1) m->data = m->at(0, begin);
    if (part.elementwise) part.elementwise.data += begin;
    if (part.grad) part.grad.data = part.grad.at(0, begin);
    part.rows = 1;
    part.cols = end - begin;
    return part;
  }

  const BernoulliArgs<T>& args_;
  bool flat_;
  RowTasks tasks_;
  std::vector<BernoulliTotals> totals_;
};

}  // namespace elbokit::dispatch
