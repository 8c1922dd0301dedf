#include "elbokit/gaussian_kl.h"

#include "dispatch/cpu_level.h"
#include "dispatch/kl_tasks.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

template <class T>
KlTotals gaussian_kl(const GaussianKlArgs<T>& given) {
  const GaussianKlArgs<T> args = with_outputs_ready(given);
  const auto kernel = ELBOKIT_KERNEL(gaussian_kl<T>);
  dispatch::KlTasks<T> parts(args);
  parts.tasks().run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    parts.run(kernel, begin, end, task);
  });
  return parts.merged();
}

template <class T>
void gaussian_kl_backward(const GaussianKlBackwardArgs<T>& args) {
  const auto kernel = ELBOKIT_KERNEL(gaussian_kl_backward<T>);
  dispatch::RowTasks(args.rows, args.cols)
      .run([&](std::int64_t begin, std::int64_t end, std::int64_t) { kernel(args, begin, end); });
}

template KlTotals gaussian_kl(const GaussianKlArgs<float>&);
template KlTotals gaussian_kl(const GaussianKlArgs<double>&);
template void gaussian_kl_backward(const GaussianKlBackwardArgs<float>&);
template void gaussian_kl_backward(const GaussianKlBackwardArgs<double>&);

}  // namespace elbokit::cpu
