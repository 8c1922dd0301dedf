#include "kernels/bernoulli.h"

#include "kernels/bernoulli_pack.h"
#include "kernels/gaussian_kl_rows.h"

namespace elbokit::cuda {

namespace {

template <class T>
ELBOKIT_DEVICE T row_weight_of(const BernoulliArgs<T>& args, std::int64_t row) {
  return args.row_weight.data ? args.row_weight.data[row * args.row_weight.stride] : T(1);
}

template <class T, int kTeam>
ELBOKIT_DEVICE void store_row(const BernoulliArgs<T>& args, std::int64_t row, double loss) {
  if (!args.row_loss.data) return;
  loss = team_sum<kTeam>(loss, shared_memory<double>());
  if (team_lane<kTeam>() == 0)
    args.row_loss.data[row * args.row_loss.stride] = static_cast<T>(loss);
}

// Two contiguous operands and no options: the loop that has to keep up with the memory. L, X and G
// are the elements of the logits, the targets and the gradient.
template <class T, class L, class X, class G, int kTeam>
struct PlainRows {
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(L));

  static ELBOKIT_DEVICE void run(const BernoulliArgs<T>& args, std::int64_t last,
                                 std::int64_t block, std::int64_t blocks, LossSums& sums) {
    for_each_row<kTeam>(args.rows, block, blocks, [&](std::int64_t row) {
      const std::int64_t cols = row + 1 < args.rows ? args.cols : last;
      const T weight = row_weight_of(args, row), factor = args.scale * weight;
      const auto* const logits =
          static_cast<const L*>(args.logits.data) + row * args.logits.row_stride;
      const auto* const target =
          static_cast<const X*>(args.target.data) + row * args.target.row_stride;
      auto* const grad =
          args.grad.data ? static_cast<G*>(args.grad.data) + row * args.grad.row_stride : nullptr;
      double loss = sum_packs<BernoulliRun<T>, kTeam, kWidth>(
          logits, target, cols,
          [&](std::int64_t col, const Pack<L, kWidth>& l, const Pack<X, kWidth>& x,
              BernoulliRun<T>& run) {
            const auto slope = add_bernoulli(l, x, args.target_scale, factor, run, [&](T t) {
              if (args.count) sums.out_of_range += t < T(0) || t > T(1);
            });
            if (grad) write_pack(grad + col, slope);
          });
      loss *= static_cast<double>(weight);
      sums.loss += loss;
      store_row<T, kTeam>(args, row, loss);
    });
  }
};

// Everything else.
template <class T, int kTeam>
struct AnyRows {
  static ELBOKIT_DEVICE void run(const BernoulliArgs<T>& args, std::int64_t /*last*/,
                                 std::int64_t block, std::int64_t blocks, LossSums& sums) {
    const Reader<T> logits{args.logits, T(1)}, target{args.target, args.target_scale};
    const Reader<T> weight{args.weight, T(1)}, pos_weight{args.pos_weight, T(1)};
    const Reader<T> mask{args.mask, T(1)};
    for_each_row<kTeam>(args.rows, block, blocks, [&](std::int64_t row) {
      const T row_weight = row_weight_of(args, row), factor = args.scale * row_weight;
      double loss = 0;
      for (std::int64_t col = team_lane<kTeam>(); col < args.cols; col += kTeam) {
        const T logit = logits(row, col), t = target(row, col), w = weight(row, col);
        const bool counts = mask(row, col) != T(0);
        const T off = T(1) - t, on = pos_weight(row, col) * t;
        const auto term =
            math::bernoulli_term<T>(logit, math::bernoulli_power(logit), off, on, off + on, factor);
        const T each = counts ? term.loss * w : T(0);
        loss += static_cast<double>(each);
        if (args.elementwise.data)
          args.elementwise.data[row * args.elementwise.row_stride + col] = each * row_weight;
        write(args.grad, row, col, counts ? term.grad * w : T(0));
        if (args.count) sums.out_of_range += counts && (t < T(0) || t > T(1));
      }
      loss *= static_cast<double>(row_weight);
      sums.loss += loss;
      store_row<T, kTeam>(args, row, loss);
    });
  }
};

// The first `own` blocks have the rows of the loss, the others those of the KL. The last row may be
// shorter.
template <class T, class Rows>
__global__ void __launch_bounds__(kLossThreads)
    bernoulli_kernel(BernoulliArgs<T> args, std::int64_t last, KlWork<T> kl, std::int64_t own,
                     LossSums* all) {
  LossSums sums;
  if (blockIdx.x < own)
    Rows::run(args, last, blockIdx.x, own, sums);
  else
    run_kl(kl, blockIdx.x - own, gridDim.x - own, sums);
  store_sums(sums, all);
}

template <class T, class Rows>
std::int64_t launch_rows(const Queue& queue, const BernoulliArgs<T>& args, std::int64_t last,
                         const GaussianKlArgs<T>& kl, LossSums* sums) {
  const std::int64_t own = loss_blocks(queue, args.rows, args.cols);
  const KlWork<T> work(kl);
  const std::int64_t others = kl.rows ? work.blocks(queue) : 0;
  launch(queue, {own + others}, kLossThreads, kLossShared, bernoulli_kernel<T, Rows>, args, last,
         work, own, sums);
  return own + others;
}

// Operands of which every row may be read in whole vectors of `width` elements.
template <class T>
struct Plain {
  BernoulliArgs<T> args;
  std::int64_t last;  // columns of the last row
};

// The same elements in stretches, if there is no row to tell apart.
template <class T>
Plain<T> reshaped(BernoulliArgs<T> args, int width) {
  const std::int64_t n = args.rows * args.cols;
  const bool flat = contiguous(args.logits, args.rows, args.cols) &&
                    contiguous(args.target, args.rows, args.cols) &&
                    contiguous(args.grad, args.rows, args.cols);
  if (!flat || args.row_loss || args.row_weight || n % width) return {args, args.cols};
  const Stretches stretches(n, width);
  args.rows = stretches.rows;
  args.cols = stretches.cols;
  args.logits.row_stride = args.target.row_stride = args.grad.row_stride = stretches.cols;
  return {args, stretches.last};
}

template <class T>
bool is_plain(const BernoulliArgs<T>& args, int width) {
  return !args.weight && !args.pos_weight && !args.mask && !args.elementwise &&
         args.cols % width == 0 && aligned(args.logits, width, args.rows) &&
         aligned(args.target, width, args.rows) && aligned(args.grad, width, args.rows);
}

template <class T, class L, class X, class G>
std::int64_t launch_plain(const Queue& queue, const Plain<T>& plain, const GaussianKlArgs<T>& kl,
                          LossSums* sums) {
  if (plain.args.cols <= kShortRow)
    return launch_rows<T, PlainRows<T, L, X, G, kWarp>>(queue, plain.args, plain.last, kl, sums);
  return launch_rows<T, PlainRows<T, L, X, G, kLossThreads>>(queue, plain.args, plain.last, kl,
                                                             sums);
}

template <class T>
std::int64_t launch_any(const Queue& queue, const BernoulliArgs<T>& args,
                        const GaussianKlArgs<T>& kl, LossSums* sums) {
  if (args.cols <= kShortRow)
    return launch_rows<T, AnyRows<T, kWarp>>(queue, args, args.cols, kl, sums);
  return launch_rows<T, AnyRows<T, kLossThreads>>(queue, args, args.cols, kl, sums);
}

}  // namespace

template <>
std::int64_t launch_bernoulli(const Queue& queue, const BernoulliArgs<double>& given,
                              const GaussianKlArgs<double>& kl, LossSums* sums) {
  constexpr int width = 2;
  const Plain<double> plain = reshaped(given, width);
  if (is_plain(plain.args, width) && given.target.element == Element::kFloat64)
    return launch_plain<double, double, double, double>(queue, plain, kl, sums);
  return launch_any(queue, given, kl, sums);
}

template <>
std::int64_t launch_bernoulli(const Queue& queue, const BernoulliArgs<float>& given,
                              const GaussianKlArgs<float>& kl, LossSums* sums) {
  const Element l = given.logits.element, x = given.target.element;
  const Element usual = l == Element::kFloat16 ? Element::kFloat32 : l;
  const Element g = given.grad ? given.grad.element : usual;
  const int width = static_cast<int>(16 / size_of(l));
  const Plain<float> plain = reshaped(given, width);
  if (is_plain(plain.args, width)) {
    if (l == Element::kFloat32 && g == l) {
      if (x == l) return launch_plain<float, float, float, float>(queue, plain, kl, sums);
      if (x == Element::kUint8)
        return launch_plain<float, float, std::uint8_t, float>(queue, plain, kl, sums);
    }
    if (l == Element::kBfloat16 && g == l) {
      if (x == l) return launch_plain<float, BFloat16, BFloat16, BFloat16>(queue, plain, kl, sums);
      if (x == Element::kFloat32)
        return launch_plain<float, BFloat16, float, BFloat16>(queue, plain, kl, sums);
      if (x == Element::kUint8)
        return launch_plain<float, BFloat16, std::uint8_t, BFloat16>(queue, plain, kl, sums);
    }
    // Over the logits, as linear_bernoulli has it.
    if (l == Element::kFloat16 && g == l) {
      if (x == l) return launch_plain<float, Float16, Float16, Float16>(queue, plain, kl, sums);
      if (x == Element::kFloat32)
        return launch_plain<float, Float16, float, Float16>(queue, plain, kl, sums);
    }
    if (l == Element::kFloat16 && g == Element::kFloat32) {
      if (x == l) return launch_plain<float, Float16, Float16, float>(queue, plain, kl, sums);
      if (x == Element::kFloat32)
        return launch_plain<float, Float16, float, float>(queue, plain, kl, sums);
      if (x == Element::kUint8)
        return launch_plain<float, Float16, std::uint8_t, float>(queue, plain, kl, sums);
    }
  }
  return launch_any(queue, given, kl, sums);
}

template <class T>
void bernoulli_loss(const Queue& queue, const BernoulliArgs<T>& args,
                    const LossOutputs<T>& outputs) {
  expect_workspace(queue, loss_workspace());
  const DeviceGuard guard(queue);
  auto* const sums = Workspace(queue).take<LossSums>(kMostLossBlocks);
  const std::int64_t blocks = launch_bernoulli(queue, args, GaussianKlArgs<T>{}, sums);
  finish_loss(queue, sums, blocks, outputs);
}

template void bernoulli_loss(const Queue&, const BernoulliArgs<float>&, const LossOutputs<float>&);
template void bernoulli_loss(const Queue&, const BernoulliArgs<double>&,
                             const LossOutputs<double>&);

}  // namespace elbokit::cuda
