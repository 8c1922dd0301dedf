#include "elbokit/vae_loss.h"

#include "dispatch/bernoulli_tasks.h"
#include "dispatch/cpu_level.h"
#include "dispatch/kl_tasks.h"
#include "dispatch/loss_outputs.h"

namespace elbokit::cpu {

template <class T>
VaeLossTotals vae_loss(const BernoulliArgs<T>& given_bernoulli, const GaussianKlArgs<T>& given_kl) {
  const auto bernoulli_kernel = ELBOKIT_KERNEL(bernoulli_loss<T>);
  const auto kl_kernel = ELBOKIT_KERNEL(gaussian_kl<T>);
  const BernoulliArgs<T> bernoulli = with_outputs_ready(given_bernoulli);
  const GaussianKlArgs<T> kl = with_outputs_ready(given_kl);
  dispatch::BernoulliTasks<T> reconstruction(bernoulli);
  dispatch::KlTasks<T> divergence(kl);
  dispatch::run_both(
      reconstruction.tasks(),
      [&](std::int64_t begin, std::int64_t end, std::int64_t task) {
        reconstruction.run(bernoulli_kernel, begin, end, task);
      },
      divergence.tasks(),
      [&](std::int64_t begin, std::int64_t end, std::int64_t task) {
        divergence.run(kl_kernel, begin, end, task);
      });
  return {reconstruction.merged(), divergence.merged()};
}

template VaeLossTotals vae_loss(const BernoulliArgs<float>&, const GaussianKlArgs<float>&);
template VaeLossTotals vae_loss(const BernoulliArgs<double>&, const GaussianKlArgs<double>&);

}  // namespace elbokit::cpu
