#include "kernels/vae_loss.h"

#include "kernels/bernoulli.h"
#include "kernels/gaussian_kl.h"

namespace elbokit::cuda {

namespace {

// total holds the charged KL and becomes the loss.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    combine_rows(std::int64_t rows, T beta, const T* loss, T* total) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kLossThreads + threadIdx.x;
  if (row < rows) total[row] = loss[row] + beta * total[row];
}

}  // namespace

template <class T>
void vae_loss(const Queue& queue, const BernoulliArgs<T>& bernoulli, const GaussianKlArgs<T>& kl,
              const LossOutputs<T>& outputs) {
  expect_workspace(queue, gaussian_kl_workspace(kl.cols, kl.dimensions));
  const DeviceGuard guard(queue);
  Workspace workspace(queue);
  auto* const sums = workspace.take<LossSums>(kMostLossBlocks);
  const std::int64_t blocks = launch_bernoulli(queue, bernoulli, kl, sums);
  finish_loss(queue, sums, blocks, outputs);
  add_to_dimensions(queue, kl, workspace.take<double>(dimensions_partial(kl.cols)));
  if (bernoulli.row_loss && outputs.weighed)
    launch(queue, {(kl.rows + kLossThreads - 1) / kLossThreads}, kLossThreads, 0, combine_rows<T>,
           kl.rows, outputs.beta, static_cast<const T*>(bernoulli.row_loss.data),
           kl.row_charged.data);
}

template void vae_loss(const Queue&, const BernoulliArgs<float>&, const GaussianKlArgs<float>&,
                       const LossOutputs<float>&);
template void vae_loss(const Queue&, const BernoulliArgs<double>&, const GaussianKlArgs<double>&,
                       const LossOutputs<double>&);

}  // namespace elbokit::cuda
