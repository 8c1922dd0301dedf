#include "elbokit/categorical.h"

#include "dispatch/cpu_level.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

template <class T>
CategoricalTotals categorical_loss(const CategoricalArgs<T>& given) {
  const auto kernel = ELBOKIT_KERNEL(categorical_loss<T>);
  CategoricalArgs<T> args = given;
  args.stream = ready_to_stream(args.grad, args.rows);
  // The loss of a sample is one task's to write.
  const std::int64_t together = args.sample_loss ? args.rows_per_sample : 1;
  const dispatch::RowTasks tasks(args.rows / together, together * args.classes * args.inner);
  std::vector<CategoricalTotals> totals(tasks.count());
  tasks.run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    totals[task] = kernel(args, begin * together, end * together);
  });
  CategoricalTotals sum;
  for (const CategoricalTotals& each : totals) {
    sum.loss += each.loss;
    if (sum.outside < 0) sum.outside = each.outside;
  }
  return sum;
}

template CategoricalTotals categorical_loss(const CategoricalArgs<float>&);
template CategoricalTotals categorical_loss(const CategoricalArgs<double>&);

}  // namespace elbokit::cpu
