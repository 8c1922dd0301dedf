#include "kernels/gaussian_kl_full.h"

#include "math/gaussian_kl_full.h"

namespace elbokit::cuda {

namespace {

// Entries that a thread has in flight.
constexpr int kEntries = 4;

// (line, col) of an entry of L, which moves on by a fixed number of entries without a division.
struct Entry {
  std::int64_t line, col;

  ELBOKIT_DEVICE Entry(std::int64_t entry, std::int64_t dims)
      : line(entry / dims), col(entry % dims) {}

  ELBOKIT_DEVICE void advance(const Entry& step, std::int64_t dims) {
    line += step.line;
    col += step.col;
    if (col < dims) return;
    col -= dims;
    ++line;
  }
};

template <class T>
ELBOKIT_DEVICE math::KlDiagonal<T> diagonal_term(T entry) {
  if (entry > T(0)) return math::kl_diagonal_term<T>(entry);
  const T nan = static_cast<T>(__builtin_nan(""));
  return {nan, nan};
}

template <class T, int kTeam>
__global__ void __launch_bounds__(kLossThreads)
    kl_full_kernel(GaussianKlFullArgs<T> args, LossSums* all) {
  const std::int64_t dims = args.dims, n = dims * dims;
  const Entry step(kTeam, dims), first(team_lane<kTeam>(), dims);
  LossSums sums;
  for_each_row<kTeam>(args.rows, blockIdx.x, gridDim.x, [&](std::int64_t row) {
    const T weight =
        args.row_weight.data ? args.row_weight.data[row * args.row_weight.stride] : T(1);
    const T factor = args.scale * weight;
    double kl = 0;
    for (std::int64_t i = team_lane<kTeam>(); i < dims; i += kTeam) {
      const T mu = args.mu.data[row * args.mu.row_stride + i * args.mu.col_stride];
      kl += static_cast<double>(mu * mu * T(0.5));
      if (args.grad_mu.data) args.grad_mu.data[row * args.grad_mu.row_stride + i] = mu * factor;
    }
    const T* const scale = args.scale_tril.data + row * args.scale_tril.row_stride;
    T* const grad =
        args.grad_scale.data ? args.grad_scale.data + row * args.grad_scale.row_stride : nullptr;
    Entry entry = first;
    for (std::int64_t at = team_lane<kTeam>(); at < n; at += kEntries * kTeam) {
      T value[kEntries];
      bool diagonal[kEntries];
#pragma unroll
      for (int u = 0; u < kEntries; ++u) {
        const std::int64_t i = at + u * kTeam;
        value[u] = i < n && entry.col <= entry.line ? scale[i] : T(0);
        diagonal[u] = entry.col == entry.line;
        entry.advance(step, dims);
      }
      T run = 0;
#pragma unroll
      for (int u = 0; u < kEntries; ++u) {
        const std::int64_t i = at + u * kTeam;
        if (i >= n) break;
        T slope = value[u];
        if (diagonal[u]) {
          const auto term = diagonal_term(value[u]);
          run += term.kl;
          slope = term.grad;
        } else {
          run += value[u] * value[u] * T(0.5);
        }
        if (grad) grad[i] = slope * factor;
      }
      kl += static_cast<double>(run);
    }
    kl *= static_cast<double>(weight);
    sums.kl += kl;
    if (!args.row_kl.data) return;
    kl = team_sum<kTeam>(kl, shared_memory<double>());
    if (team_lane<kTeam>() == 0) args.row_kl.data[row * args.row_kl.stride] = static_cast<T>(kl);
  });
  store_sums(sums, all);
}

}  // namespace

template <class T>
void gaussian_kl_full(const Queue& queue, const GaussianKlFullArgs<T>& args,
                      const LossOutputs<T>& outputs) {
  expect_workspace(queue, loss_workspace());
  const DeviceGuard guard(queue);
  auto* const sums = Workspace(queue).take<LossSums>(kMostLossBlocks);
  const std::int64_t n = args.dims * args.dims;
  const std::int64_t blocks = loss_blocks(queue, args.rows, n);
  launch(queue, {blocks}, kLossThreads, kLossShared,
         n <= kShortRow ? kl_full_kernel<T, kWarp> : kl_full_kernel<T, kLossThreads>, args, sums);
  finish_loss(queue, sums, blocks, outputs);
}

template void gaussian_kl_full(const Queue&, const GaussianKlFullArgs<float>&,
                               const LossOutputs<float>&);
template void gaussian_kl_full(const Queue&, const GaussianKlFullArgs<double>&,
                               const LossOutputs<double>&);

}  // namespace elbokit::cuda
