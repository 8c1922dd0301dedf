#include "elbokit/vae_loss.h"

#include "dispatch/cpu_level.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

template <class T>
VaeLossTotals vae_loss(const BernoulliArgs<T>& bernoulli, const GaussianKlArgs<T>& kl) {
  const auto reconstruction_kernel = ELBOKIT_KERNEL(bernoulli_loss<T>);
  const auto kl_kernel = ELBOKIT_KERNEL(gaussian_kl<T>);
  prepare_outputs(bernoulli);
  const dispatch::RowTasks tasks(bernoulli.rows, bernoulli.cols + kl.cols);
  std::vector<VaeLossTotals> totals(tasks.count());
  tasks.run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    totals[task] = {reconstruction_kernel(bernoulli, begin, end), kl_kernel(kl, begin, end)};
  });
  VaeLossTotals sum;
  for (const VaeLossTotals& each : totals) {
    sum.reconstruction += each.reconstruction;
    sum.kl.kl += each.kl.kl;
    sum.kl.charged += each.kl.charged;
  }
  return sum;
}

template VaeLossTotals vae_loss(const BernoulliArgs<float>&, const GaussianKlArgs<float>&);
template VaeLossTotals vae_loss(const BernoulliArgs<double>&, const GaussianKlArgs<double>&);

}  // namespace elbokit::cpu
