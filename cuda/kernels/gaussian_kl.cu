#include "kernels/gaussian_kl.h"

#include "kernels/gaussian_kl_rows.h"

namespace elbokit::cuda {

namespace {

template <class T>
__global__ void __launch_bounds__(kLossThreads) kl_kernel(KlWork<T> work, LossSums* all) {
  LossSums sums;
  run_kl(work, blockIdx.x, gridDim.x, sums);
  store_sums(sums, all);
}

template <class T>
__global__ void __launch_bounds__(kLossThreads) kl_backward_kernel(GaussianKlBackwardArgs<T> args) {
  const T floor = kl_floor(args.free_bits);
  for_each_row<kWarp>(args.rows, blockIdx.x, gridDim.x, [&](std::int64_t row) {
    const T factor = args.factor.data[row * args.factor.stride];
    const T both = factor + args.charged_factor.data[row * args.charged_factor.stride];
    for (std::int64_t col = lane_index(); col < args.cols; col += kWarp) {
      const math::GaussianKl<T> term = kl_at<T>(args, row, col);
      // A dimension at its floor is charged a constant.
      const T g = term.kl < floor ? factor : both;
      const auto put = [&](const Matrix<T>& m, T value) {
        if (m.data) m.data[row * m.row_stride + col] = value;
      };
      put(args.grad_mu, term.grad_mu() * g);
      put(args.grad_logvar, term.grad_logvar() * g);
      put(args.grad_prior_mu, term.grad_prior_mu() * g);
      put(args.grad_prior_logvar, term.grad_prior_logvar() * g);
    }
  });
}

// A thread has a column, blockIdx.y a chunk of the rows.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    dimensions_kernel(GaussianKlArgs<T> args, double* partial) {
  const std::int64_t col = std::int64_t{blockIdx.x} * kLossThreads + threadIdx.x;
  if (col >= args.cols) return;
  const std::int64_t begin = args.rows * blockIdx.y / gridDim.y;
  const std::int64_t end = args.rows * (blockIdx.y + 1) / gridDim.y;
  double kl = 0, first = 0, second = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const auto mu = static_cast<double>(element_at<T>(args.mu, row, col));
    kl += static_cast<double>(kl_at<T>(args, row, col).kl);
    first += mu;
    second += mu * mu;
  }
  double* const out = partial + blockIdx.y * 3 * args.cols + col;
  out[0] = kl;
  out[args.cols] = first;
  out[2 * args.cols] = second;
}

}  // namespace

template <class T>
void add_to_dimensions(const Queue& queue, const GaussianKlArgs<T>& args, double* partial) {
  if (!args.dimensions) return;
  const int chunks = column_chunks(args.rows);
  launch(queue, {blocks_of(args.cols), chunks}, kLossThreads, 0, dimensions_kernel<T>, args,
         partial);
  add_chunks(queue, partial, chunks, 3 * args.cols, args.dimensions);
}

std::size_t gaussian_kl_workspace(std::int64_t cols, bool dimensions) {
  Workspace counted;
  counted.take<double>(dimensions ? dimensions_partial(cols) : 0);
  return loss_workspace() + counted.used();
}

template <class T>
void gaussian_kl(const Queue& queue, const GaussianKlArgs<T>& args, const LossOutputs<T>& outputs) {
  expect_workspace(queue, gaussian_kl_workspace(args.cols, args.dimensions));
  const DeviceGuard guard(queue);
  Workspace workspace(queue);
  auto* const sums = workspace.take<LossSums>(kMostLossBlocks);
  const KlWork<T> work(args);
  const std::int64_t blocks = work.blocks(queue);
  launch(queue, {blocks}, kLossThreads, kLossShared, kl_kernel<T>, work, sums);
  finish_loss(queue, sums, blocks, outputs);
  add_to_dimensions(queue, args, workspace.take<double>(dimensions_partial(args.cols)));
}

template <class T>
void gaussian_kl_backward(const Queue& queue, const GaussianKlBackwardArgs<T>& args) {
  const DeviceGuard guard(queue);
  launch(queue, {loss_blocks(queue, args.rows, 1)}, kLossThreads, 0, kl_backward_kernel<T>, args);
}

#define ELBOKIT_INSTANTIATE(T)                                                              \
  template void add_to_dimensions(const Queue&, const GaussianKlArgs<T>&, double*);         \
  template void gaussian_kl(const Queue&, const GaussianKlArgs<T>&, const LossOutputs<T>&); \
  template void gaussian_kl_backward(const Queue&, const GaussianKlBackwardArgs<T>&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
