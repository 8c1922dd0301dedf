#include "elbokit/multi_sample.h"

#include <numeric>

#include "dispatch/cpu_level.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"
#include "dispatch/workspaces.h"

namespace elbokit::cpu {

namespace {

// So many slopes of a row stay in the second cache until its samples' weights are known.
constexpr std::int64_t kKeptSlopes = 1 << 16;

}  // namespace

template <class T>
double multi_sample(const MultiSampleArgs<T>& given) {
  const auto kernel = ELBOKIT_KERNEL(multi_sample<T>);
  MultiSampleArgs<T> args = given;
  if (args.grad_logits) {
    const std::size_t size = static_cast<std::size_t>(
        args.samples * args.rows * args.grad_logits.row_stride * size_of(args.grad_logits.element));
    dispatch::advise_huge_pages(args.grad_logits.data, size);
    args.stream = size > kStreamed;
  }
  const dispatch::RowTasks tasks(args.rows, args.samples * (args.cols + args.latent));
  std::vector<double> totals(tasks.count());
  dispatch::Workspaces<double> weights;
  dispatch::Workspaces<T> slopes;
  const std::int64_t kept = args.samples * in_whole_vectors(args.cols);
  const bool keep = args.grad_logits && args.importance && kept <= kKeptSlopes;
  tasks.run([&](std::int64_t begin, std::int64_t end, std::int64_t task, int slot) {
    totals[task] = kernel(args, begin, end, weights.get(slot, args.samples),
                          keep ? slopes.get(slot, kept) : nullptr);
  });
  return std::accumulate(totals.begin(), totals.end(), 0.0);
}

template double multi_sample(const MultiSampleArgs<float>&);
template double multi_sample(const MultiSampleArgs<double>&);

}  // namespace elbokit::cpu
