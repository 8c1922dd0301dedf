#include "kernels/multi_sample.h"

#include "common/plain.h"
#include "kernels/multi_sample_rows.h"

namespace elbokit::cuda {

namespace {

// Warps of a block that holds the gradient of a data row's samples, at most: with those of 16 warps
// there are enough loads in flight where a multiprocessor has room for one block alone.
constexpr int kMostWarps = 16;
constexpr int kMostBlocks = 32;  // that a multiprocessor holds at once

// The importance-weighted gradient from one visit to the logits: it waits in shared memory until
// the samples' weights are known. A block has a data row, its warps the samples.
template <class T, class Terms>
__global__ void __launch_bounds__(kMostWarps* kWarp)
    whole_rows_kernel(MultiSampleArgs<T> args, double* weights, LossSums* sums) {
  using Slopes = Pack<T, Terms::kWidth>;
  auto* const scores = shared_memory<double>();
  T* const slopes = reinterpret_cast<T*>(scores + (args.samples + 1) / 2 * 2);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  double total = 0;
  for (std::int64_t row = blockIdx.x; row < args.rows; row += gridDim.x) {
    for (std::int64_t s = warp_index(); s < args.samples; s += warps) {
      const std::int64_t index = s * args.rows + row;
      T* const own = slopes + s * args.cols;
      const double loss = Terms::template sweep<kWarp>(
          args, index, row, T(1),
          [&](std::int64_t col, Slopes slope) { *reinterpret_cast<Slopes*>(own + col) = slope; });
      const double score = warp_sum(latent_share<T, kWarp>(args, index, row) - loss);
      if (lane_index() == 0) scores[s] = score;
    }
    block_barrier();
    if (warp_index() == 0) {
      close_row(args, row, scores, total);
      for (std::int64_t s = lane_index(); s < args.samples; s += kWarp)
        weights[row * args.samples + s] = scores[s];
    }
    block_barrier();
    const double factor = row_factor(args, row);
    for (std::int64_t s = warp_index(); s < args.samples; s += warps) {
      const T of_sample = static_cast<T>(factor * scores[s]);
      // Each lane reads what it has written, and no other warp writes this score: so a warp may
      // go on to the next row, all lanes at once.
      for (std::int64_t col = lane_index() * Terms::kWidth; col < args.cols;
           col += kWarp * Terms::kWidth) {
        Slopes slope = *reinterpret_cast<const Slopes*>(slopes + s * args.cols + col);
#pragma unroll
        for (int i = 0; i < Terms::kWidth; ++i) slope.at[i] *= of_sample;
        Terms::write_grad(args, s * args.rows + row, col, slope);
      }
    }
    warp_barrier();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = {total};
}

// The log-weight of each sample of each data row, by a team. The gradient of the elbo too: its
// weights are known beforehand.
template <class T, class Terms, int kTeam>
__global__ void __launch_bounds__(kLossThreads)
    score_kernel(MultiSampleArgs<T> args, double* weights) {
  const bool grad = args.grad_logits.data && !args.importance;
  // The samples of a data row, which share its target, come one after the other.
  for_each_row<kTeam>(args.rows * args.samples, blockIdx.x, gridDim.x, [&](std::int64_t place) {
    const std::int64_t row = place / args.samples, s = place - row * args.samples;
    const std::int64_t index = s * args.rows + row;
    const T factor = static_cast<T>(row_factor(args, row) / static_cast<double>(args.samples));
    const double loss = Terms::template sweep<kTeam>(
        args, index, row, factor, [&](std::int64_t col, const Pack<T, Terms::kWidth>& slope) {
          if (grad) Terms::write_grad(args, index, col, slope);
        });
    const double score =
        team_sum<kTeam>(latent_share<T, kTeam>(args, index, row) - loss, shared_memory<double>());
    if (team_lane<kTeam>() == 0) weights[place] = score;
  });
}

// The weights in place of their logarithms, and the loss; a warp has a data row.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    weigh_kernel(MultiSampleArgs<T> args, double* weights, LossSums* all) {
  LossSums sums;
  for_each_row<kWarp>(args.rows, blockIdx.x, gridDim.x, [&](std::int64_t row) {
    close_row(args, row, weights + row * args.samples, sums.loss);
  });
  store_sums(sums, all);
}

// The importance-weighted gradient in the logits.
template <class T, class Terms, int kTeam>
__global__ void __launch_bounds__(kLossThreads)
    grad_kernel(MultiSampleArgs<T> args, const double* weights) {
  for_each_row<kTeam>(args.rows * args.samples, blockIdx.x, gridDim.x, [&](std::int64_t place) {
    const std::int64_t row = place / args.samples, s = place - row * args.samples;
    const std::int64_t index = s * args.rows + row;
    const T factor = static_cast<T>(row_factor(args, row) * weights[place]);
    Terms::template sweep<kTeam>(args, index, row, factor,
                                 [&](std::int64_t col, const Pack<T, Terms::kWidth>& slope) {
                                   Terms::write_grad(args, index, col, slope);
                                 });
  });
}

// The gradients in mu, logvar and z; a thread has a dimension of a data row.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    latent_kernel(MultiSampleArgs<T> args, const double* weights) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kLossThreads + threadIdx.x;
  if (i >= args.rows * args.latent) return;
  const std::int64_t row = i / args.latent, col = i - row * args.latent;
  const Reader<double> mu{args.mu, 1}, logvar{args.logvar, 1}, z{args.z, 1};
  const double m = mu(row, col), v = logvar(row, col), precision = math::exp(-v);
  const double factor = row_factor(args, row);
  double d_mu = 0, d_logvar = 0;
  for (std::int64_t s = 0; s < args.samples; ++s) {
    const std::int64_t index = s * args.rows + row;
    const auto ratio = math::latent_ratio(z(index, col), m, v, precision);
    const double weight = -factor * weights[row * args.samples + s];
    d_mu += weight * ratio.grad_mu();
    d_logvar += weight * ratio.grad_logvar();
    args.grad_z.data[index * args.grad_z.row_stride + col] =
        static_cast<T>(weight * ratio.grad_z());
  }
  args.grad_mu.data[row * args.grad_mu.row_stride + col] = static_cast<T>(d_mu);
  args.grad_logvar.data[row * args.grad_logvar.row_stride + col] = static_cast<T>(d_logvar);
}

template <class T, class Terms, int kTeam>
std::int64_t launch_parts(const Queue& queue, const MultiSampleArgs<T>& args, double* weights,
                          LossSums* sums) {
  const std::int64_t places = args.rows * args.samples;
  const std::int64_t blocks = loss_blocks(queue, places, kTeam == kWarp ? 1 : kShortRow + 1);
  launch(queue, {blocks}, kLossThreads, kLossShared, score_kernel<T, Terms, kTeam>, args, weights);
  const std::int64_t weighing = loss_blocks(queue, args.rows, 1);
  launch(queue, {weighing}, kLossThreads, kLossShared, weigh_kernel<T>, args, weights, sums);
  if (args.grad_logits && args.importance)
    launch(queue, {blocks}, kLossThreads, 0, grad_kernel<T, Terms, kTeam>, args,
           static_cast<const double*>(weights));
  return weighing;
}

// Launches all but the latent gradients, and returns the number of sums.
template <class T, class Terms>
std::int64_t launch_terms(const Queue& queue, const MultiSampleArgs<T>& args, double* weights,
                          LossSums* sums) {
  const Device& device = device_of(queue);
  const auto samples = static_cast<std::size_t>(args.samples);
  const std::size_t shared = (samples + 1) / 2 * 2 * sizeof(double) +
                             samples * static_cast<std::size_t>(args.cols) * sizeof(T);
  // Blocks that have a data row each leave multiprocessors idle if there are few of these.
  if (args.grad_logits && args.importance && shared <= device.shared_bytes &&
      args.rows >= device.multiprocessors / 2) {
    const int warps = args.samples < kMostWarps ? static_cast<int>(args.samples) : kMostWarps;
    const std::int64_t most = std::int64_t{kMostBlocks} * device.multiprocessors;
    const std::int64_t room = most < kMostLossBlocks ? most : kMostLossBlocks;
    const std::int64_t blocks = args.rows < room ? args.rows : room;
    launch(queue, {blocks}, warps * kWarp, shared, whole_rows_kernel<T, Terms>, args, weights,
           sums);
    return blocks;
  }
  // A warp each, if the rows are short or keep all warps of the device busy.
  constexpr std::int64_t warps_of_multiprocessor = 64;
  if (args.cols <= kShortRow ||
      args.rows * args.samples >= warps_of_multiprocessor * device.multiprocessors)
    return launch_parts<T, Terms, kWarp>(queue, args, weights, sums);
  return launch_parts<T, Terms, kLossThreads>(queue, args, weights, sums);
}

template <class T>
bool is_plain(const MultiSampleArgs<T>& args, int width) {
  const std::int64_t all = args.rows * args.samples;
  return !args.mask && args.cols % width == 0 && aligned(args.logits, width, all) &&
         aligned(args.target, width, args.rows) && aligned(args.grad_logits, width, all);
}

std::int64_t launch_rows(const Queue& queue, const MultiSampleArgs<double>& args, double* weights,
                         LossSums* sums) {
  if (is_plain(args, 2) && args.target.element == Element::kFloat64)
    return launch_terms<double, PlainTerms<double, double, double, double>>(queue, args, weights,
                                                                            sums);
  return launch_terms<double, AnyTerms<double>>(queue, args, weights, sums);
}

// The types that training has: targets as the logits, or bytes.
std::int64_t launch_rows(const Queue& queue, const MultiSampleArgs<float>& args, double* weights,
                         LossSums* sums) {
  const Element l = args.logits.element, x = args.target.element;
  const Element usual = l == Element::kFloat16 ? Element::kFloat32 : l;
  const bool plain = is_plain(args, static_cast<int>(16 / size_of(l))) &&
                     (!args.grad_logits || args.grad_logits.element == usual) &&
                     (x == l || x == Element::kUint8);
  const auto run = [&](auto logits, auto grad) {
    using L = decltype(logits);
    using G = decltype(grad);
    if (x == l) return launch_terms<float, PlainTerms<float, L, L, G>>(queue, args, weights, sums);
    return launch_terms<float, PlainTerms<float, L, std::uint8_t, G>>(queue, args, weights, sums);
  };
  if (plain && l == Element::kFloat32) return run(float{}, float{});
  if (plain && l == Element::kBfloat16) return run(BFloat16{}, BFloat16{});
  if (plain && l == Element::kFloat16) return run(Float16{}, float{});
  return launch_terms<float, AnyTerms<float>>(queue, args, weights, sums);
}

}  // namespace

std::size_t multi_sample_workspace(std::int64_t samples, std::int64_t rows) {
  Workspace counted;
  counted.take<LossSums>(kMostLossBlocks);
  counted.take<double>(samples * rows);
  return counted.used();
}

template <class T>
void multi_sample(const Queue& queue, const MultiSampleArgs<T>& args,
                  const LossOutputs<T>& outputs) {
  expect_workspace(queue, multi_sample_workspace(args.samples, args.rows));
  const DeviceGuard guard(queue);
  Workspace workspace(queue);
  auto* const sums = workspace.take<LossSums>(kMostLossBlocks);
  auto* const weights = workspace.take<double>(args.samples * args.rows);
  const std::int64_t blocks = launch_rows(queue, args, weights, sums);
  finish_loss(queue, sums, blocks, outputs);
  const std::int64_t n = args.rows * args.latent;
  if (args.grad_mu && n)
    launch(queue, {(n + kLossThreads - 1) / kLossThreads}, kLossThreads, 0, latent_kernel<T>, args,
           static_cast<const double*>(weights));
}

template void multi_sample(const Queue&, const MultiSampleArgs<float>&, const LossOutputs<float>&);
template void multi_sample(const Queue&, const MultiSampleArgs<double>&,
                           const LossOutputs<double>&);

}  // namespace elbokit::cuda
