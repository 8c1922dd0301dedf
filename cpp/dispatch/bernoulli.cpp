#include "elbokit/bernoulli.h"

#include "dispatch/bernoulli_tasks.h"
#include "dispatch/cpu_level.h"
#include "dispatch/loss_outputs.h"

namespace elbokit::cpu {

template <class T>
BernoulliTotals bernoulli_loss(const BernoulliArgs<T>& given) {
  const BernoulliArgs<T> args = with_outputs_ready(given);
  const auto kernel = ELBOKIT_KERNEL(bernoulli_loss<T>);
  dispatch::BernoulliTasks<T> parts(args);
  parts.tasks().run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    parts.run(kernel, begin, end, task);
  });
  return parts.merged();
}

template BernoulliTotals bernoulli_loss(const BernoulliArgs<float>&);
template BernoulliTotals bernoulli_loss(const BernoulliArgs<double>&);

}  // namespace elbokit::cpu
