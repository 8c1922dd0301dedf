#include "elbokit/vae_loss.h"

#include "dispatch/cpu_level.h"
#include "dispatch/kl_tasks.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

template <class T>
VaeLossTotals vae_loss(const BernoulliArgs<T>& given_bernoulli, const GaussianKlArgs<T>& given_kl) {
  const auto reconstruction_kernel = ELBOKIT_KERNEL(bernoulli_loss<T>);
  const auto kl_kernel = ELBOKIT_KERNEL(gaussian_kl<T>);
  const BernoulliArgs<T> bernoulli = with_outputs_ready(given_bernoulli);
  const GaussianKlArgs<T> kl = with_outputs_ready(given_kl);
  const dispatch::RowTasks tasks(bernoulli.rows, bernoulli.cols + kl.cols);
  std::vector<BernoulliTotals> reconstructions(tasks.count());
  dispatch::KlTasks<T> divergences(kl, tasks.count());
  tasks.run([&](std::int64_t begin, std::int64_t end, std::int64_t task) {
    reconstructions[task] = reconstruction_kernel(bernoulli, begin, end);
    divergences.run(kl_kernel, begin, end, task);
  });
  VaeLossTotals sum;
  for (const BernoulliTotals& each : reconstructions) sum.reconstruction += each;
  sum.kl = divergences.merged();
  return sum;
}

template VaeLossTotals vae_loss(const BernoulliArgs<float>&, const GaussianKlArgs<float>&);
template VaeLossTotals vae_loss(const BernoulliArgs<double>&, const GaussianKlArgs<double>&);

}  // namespace elbokit::cpu
