#include "elbokit/gaussian_kl_full.h"

#include "dispatch/cpu_level.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

template <class T>
KlFullTotals gaussian_kl_full(const GaussianKlFullArgs<T>& args) {
  const auto kernel = ELBOKIT_KERNEL(gaussian_kl_full<T>);
  const dispatch::RowTasks tasks(args.rows, args.dims * (args.dims + 1));
  std::vector<KlFullTotals> parts(tasks.count());
  tasks.run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    parts[task] = kernel(args, begin, end);
  });
  KlFullTotals sum;
  for (const KlFullTotals& part : parts) {
    sum.kl += part.kl;
    if (sum.not_positive < 0) sum.not_positive = part.not_positive;
  }
  return sum;
}

template KlFullTotals gaussian_kl_full(const GaussianKlFullArgs<float>&);
template KlFullTotals gaussian_kl_full(const GaussianKlFullArgs<double>&);

}  // namespace elbokit::cpu
