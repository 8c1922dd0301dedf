#include "common/loss.h"

namespace elbokit::cuda {

namespace {

template <class T>
__global__ void __launch_bounds__(kLossThreads)
    finish(const LossSums* sums, std::int64_t blocks, LossOutputs<T> outputs) {
  LossSums all;
  for (std::int64_t i = threadIdx.x; i < blocks; i += kLossThreads) {
    all.loss += sums[i].loss;
    all.kl += sums[i].kl;
    all.charged += sums[i].charged;
    all.grad_logvar += sums[i].grad_logvar;
    all.out_of_range += sums[i].out_of_range;
  }
  auto* const scratch = shared_memory<double>();
  const double loss = block_sum<kLossThreads>(all.loss, scratch) * outputs.scale;
  const double kl = block_sum<kLossThreads>(all.kl, scratch) * outputs.scale;
  const double charged = block_sum<kLossThreads>(all.charged, scratch) * outputs.scale;
  const double grad_logvar = block_sum<kLossThreads>(all.grad_logvar, scratch);
  const long long out_of_range = block_sum<kLossThreads>(static_cast<long long>(all.out_of_range),
                                                         reinterpret_cast<long long*>(scratch));
  if (threadIdx.x != 0) return;
  if (outputs.loss) *outputs.loss = static_cast<T>(loss);
  if (outputs.kl) *outputs.kl = static_cast<T>(kl);
  if (outputs.charged) *outputs.charged = static_cast<T>(charged);
  if (outputs.grad_logvar) *outputs.grad_logvar = static_cast<T>(grad_logvar);
  if (outputs.total)
    *outputs.total = outputs.weighed ? static_cast<T>(loss) + outputs.beta * static_cast<T>(charged)
                                     : static_cast<T>(charged);
  if (outputs.out_of_range) *outputs.out_of_range = out_of_range;
}

__global__ void __launch_bounds__(kLossThreads)
    add_chunks_kernel(const double* partial, int chunks, std::int64_t n, double* sums) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kLossThreads + threadIdx.x;
  if (i >= n) return;
  double sum = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * n + i];
  sums[i] += sum;
}

}  // namespace

void add_chunks(const Queue& queue, const double* partial, int chunks, std::int64_t n,
                double* sums) {
  launch(queue, {blocks_of(n)}, kLossThreads, 0, add_chunks_kernel, partial, chunks, n, sums);
}

template <class T>
void finish_loss(const Queue& queue, const LossSums* sums, std::int64_t blocks,
                 const LossOutputs<T>& outputs) {
  if (!outputs.total && !outputs.loss && !outputs.kl && !outputs.charged && !outputs.grad_logvar &&
      !outputs.out_of_range)
    return;
  launch(queue, {}, kLossThreads, kLossShared, finish<T>, sums, blocks, outputs);
}

template void finish_loss(const Queue&, const LossSums*, std::int64_t, const LossOutputs<float>&);
template void finish_loss(const Queue&, const LossSums*, std::int64_t, const LossOutputs<double>&);

}  // namespace elbokit::cuda
