#include "elbokit/bernoulli.h"

#include <numeric>

#include "dispatch/cpu_level.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

namespace {

constexpr std::int64_t kSpan = 4096;

template <class M>
bool flat(const M& m, std::int64_t cols) {
  const bool repeated = m.row_stride == 0 && m.col_stride == 0;
  return !m || repeated || (m.col_stride == 1 && m.row_stride == cols);
}

// The same elements as rows of kSpan (the last one shorter), whatever the shape was: neither a
// single long row nor a long column leaves threads or lanes idle.
template <class T>
BernoulliArgs<T> span_of(BernoulliArgs<T> args, std::int64_t index) {
  const std::int64_t begin = index * kSpan;
  const auto move = [&](auto& m) {
    if (m && m.col_stride == 1) m.data += begin;
  };
  move(args.logits), move(args.target), move(args.weight), move(args.pos_weight);
  move(args.elementwise), move(args.grad);
  args.cols = std::min(kSpan, args.rows * args.cols - begin);
  args.rows = 1;
  return args;
}

}  // namespace

template <class T>
double bernoulli_loss(const BernoulliArgs<T>& args) {
  const auto kernel = ELBOKIT_KERNEL(bernoulli_loss<T>);
  prepare_outputs(args);
  const std::int64_t cols = args.cols;
  const bool reshape = !args.row_loss && flat(args.logits, cols) && flat(args.target, cols) &&
                       flat(args.weight, cols) && flat(args.pos_weight, cols) &&
                       flat(args.elementwise, cols) && flat(args.grad, cols);
  const std::int64_t rows = reshape ? (args.rows * cols + kSpan - 1) / kSpan : args.rows;
  const dispatch::RowTasks tasks(rows, reshape ? kSpan : cols);
  std::vector<double> totals(tasks.count());
  tasks.run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    if (!reshape) {
      totals[task] = kernel(args, begin, end);
      return;
    }
    for (std::int64_t i = begin; i < end; ++i) totals[task] += kernel(span_of(args, i), 0, 1);
  });
  return std::accumulate(totals.begin(), totals.end(), 0.0);
}

template double bernoulli_loss(const BernoulliArgs<float>&);
template double bernoulli_loss(const BernoulliArgs<double>&);

}  // namespace elbokit::cpu
