#include "elbokit/gaussian_loss.h"

#include "dispatch/cpu_level.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

namespace {

// Each task sums down the columns into memory of its own: this bounds it, whatever the rows.
constexpr std::int64_t kMostColumnSums = 32;

}  // namespace

template <class T>
GaussianLossTotals gaussian_loss(const GaussianLossArgs<T>& given) {
  const auto kernel = ELBOKIT_KERNEL(gaussian_loss<T>);
  GaussianLossArgs<T> args = given;
  args.stream_mean = ready_to_stream(args.grad_mean, args.rows);
  args.stream_logvar = ready_to_stream(args.grad_logvar, args.rows);
  const bool by_col = args.col_grad_logvar;
  const dispatch::RowTasks tasks = by_col
                                       ? dispatch::RowTasks(args.rows, args.cols, kMostColumnSums)
                                       : dispatch::RowTasks(args.rows, args.cols);
  std::vector<GaussianLossTotals> totals(tasks.count());
  std::vector<double> sums(by_col ? tasks.count() * args.cols : 0);
  tasks.run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    GaussianLossArgs<T> own = args;
    if (by_col) own.col_grad_logvar = sums.data() + task * args.cols;
    totals[task] = kernel(own, begin, end);
  });
  GaussianLossTotals sum;
  for (const GaussianLossTotals& each : totals) sum += each;
  for (std::size_t i = 0; i < sums.size(); ++i) args.col_grad_logvar[i % args.cols] += sums[i];
  return sum;
}

template GaussianLossTotals gaussian_loss(const GaussianLossArgs<float>&);
template GaussianLossTotals gaussian_loss(const GaussianLossArgs<double>&);

}  // namespace elbokit::cpu
