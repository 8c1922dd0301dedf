#include "elbokit/bernoulli.h"

#include <numeric>

#include "dispatch/cpu_level.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

namespace {

constexpr std::int64_t kStretch = 4096;

bool flat(const Operand& m, std::int64_t cols) {
  const bool repeated = m.row_stride == 0 && m.col_stride == 0;
  return !m || repeated || (m.col_stride == 1 && m.row_stride == cols);
}

// The same elements as rows of kStretch (the last one shorter), whatever the shape was: neither a
// single long row nor a long column leaves threads or lanes idle.
template <class T>
BernoulliArgs<T> stretch_of(BernoulliArgs<T> args, std::int64_t index) {
  const std::int64_t begin = index * kStretch;
  const auto move = [&](Operand& m) {
    if (m && m.col_stride == 1) m.data = m.at(0, begin);
  };
  move(args.logits), move(args.target), move(args.weight), move(args.pos_weight), move(args.mask);
  if (args.elementwise) args.elementwise.data += begin;
  if (args.grad) args.grad.data = args.grad.at(0, begin);
  args.cols = std::min(kStretch, args.rows * args.cols - begin);
  args.rows = 1;
  return args;
}

}  // namespace

template <class T>
BernoulliTotals bernoulli_loss(const BernoulliArgs<T>& given) {
  const auto kernel = ELBOKIT_KERNEL(bernoulli_loss<T>);
  const BernoulliArgs<T> args = with_outputs_ready(given);
  const std::int64_t cols = args.cols;
  bool reshape = !args.row_loss && !args.row_weight;
  for (const Operand* m : {&args.logits, &args.target, &args.weight, &args.pos_weight, &args.mask})
    reshape = reshape && flat(*m, cols);
  reshape = reshape && (!args.elementwise || args.elementwise.row_stride == cols) &&
            (!args.grad || args.grad.row_stride == cols);
  const std::int64_t rows = reshape ? (args.rows * cols + kStretch - 1) / kStretch : args.rows;
  const dispatch::RowTasks tasks(rows, reshape ? kStretch : cols);
  std::vector<BernoulliTotals> totals(tasks.count());
  tasks.run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    if (!reshape) {
      totals[task] = kernel(args, begin, end);
      return;
    }
    for (std::int64_t i = begin; i < end; ++i) totals[task] += kernel(stretch_of(args, i), 0, 1);
  });
  return std::accumulate(totals.begin(), totals.end(), BernoulliTotals{});
}

template BernoulliTotals bernoulli_loss(const BernoulliArgs<float>&);
template BernoulliTotals bernoulli_loss(const BernoulliArgs<double>&);

}  // namespace elbokit::cpu
