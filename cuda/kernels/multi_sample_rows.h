// What the kernels of multi_sample do with one row of logits, and with the samples of one data row.
// Sample s of data row i is row s * rows + i of the logits; its weight is weights[i * samples + s].
#pragma once

#include "elbokit/multi_sample.h"
#include "kernels/bernoulli_pack.h"
#include "math/logsumexp.h"
#include "math/multi_sample.h"

namespace elbokit::cuda {

// Contiguous operands without a mask, in whole vectors. L, X and G are the elements of the logits,
// the targets and the gradient.
template <class T, class L, class X, class G>
struct PlainTerms {
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(L));

  // The loss of one thread's share of a row; store(col, pack) gets the gradient times `factor`.
  template <int kTeam, class Store>
  static ELBOKIT_DEVICE double sweep(const MultiSampleArgs<T>& args, std::int64_t index,
                                     std::int64_t row, T factor, Store&& store) {
    const auto* const logits = static_cast<const L*>(args.logits.data);
    const auto* const target = static_cast<const X*>(args.target.data);
    return sum_packs<BernoulliRun<T>, kTeam, kWidth>(
        logits + index * args.logits.row_stride, target + row * args.target.row_stride, args.cols,
        [&](std::int64_t col, const Pack<L, kWidth>& l, const Pack<X, kWidth>& x,
            BernoulliRun<T>& run) {
          store(col, add_bernoulli(l, x, args.target_scale, factor, run, [](T) {}));
        });
  }

  static ELBOKIT_DEVICE void write_grad(const MultiSampleArgs<T>& args, std::int64_t index,
                                        std::int64_t col, const Pack<T, kWidth>& values) {
    write_pack(static_cast<G*>(args.grad_logits.data) + index * args.grad_logits.row_stride + col,
               values);
  }
};

// Everything else.
template <class T>
struct AnyTerms {
  static constexpr int kWidth = 1;

  template <int kTeam, class Store>
  static ELBOKIT_DEVICE double sweep(const MultiSampleArgs<T>& args, std::int64_t index,
                                     std::int64_t row, T factor, Store&& store) {
    const Reader<T> logits{args.logits, T(1)}, target{args.target, args.target_scale};
    const Reader<T> mask{args.mask, T(1)};
    double loss = 0;
    for (std::int64_t col = team_lane<kTeam>(); col < args.cols; col += kTeam) {
      const bool counts = mask(row, col) != T(0);
      const T logit = logits(index, col);
      const auto term =
          math::bernoulli_term<T>(logit, math::bernoulli_power(logit), target(row, col), factor);
      loss += static_cast<double>(counts ? term.loss : T(0));
      store(col, Pack<T, 1>{{counts ? term.grad : T(0)}});
    }
    return loss;
  }

  static ELBOKIT_DEVICE void write_grad(const MultiSampleArgs<T>& args, std::int64_t index,
                                        std::int64_t col, const Pack<T, 1>& value) {
    write(args.grad_logits, index, col, value.at[0]);
  }
};

// One thread's share of log p(z) - log q(z | x).
template <class T, int kTeam>
ELBOKIT_DEVICE double latent_share(const MultiSampleArgs<T>& args, std::int64_t index,
                                   std::int64_t row) {
  const Reader<double> mu{args.mu, 1}, logvar{args.logvar, 1}, z{args.z, 1};
  double sum = 0;
  for (std::int64_t col = team_lane<kTeam>(); col < args.latent; col += kTeam) {
    const double s = logvar(row, col);
    sum += math::latent_ratio(z(index, col), mu(row, col), s, math::exp(-s)).log_ratio();
  }
  return sum;
}

// A warp turns the log-weights of a data row into the weights of its samples in the gradient, and
// returns the bound.
ELBOKIT_DEVICE double importance_bound(double* weights, std::int64_t samples) {
  double largest = -__builtin_huge_val();
  for (std::int64_t s = lane_index(); s < samples; s += kWarp)
    if (weights[s] > largest) largest = weights[s];
  const double shift = math::logsumexp_shift(warp_max(largest));
  double sum = 0;
  for (std::int64_t s = lane_index(); s < samples; s += kWarp)
    sum += weights[s] = math::exp(weights[s] - shift);
  sum = warp_sum(sum);
  // Where no sample is possible, none has a weight.
  const double inverse = sum == 0 ? 0 : 1 / sum;
  for (std::int64_t s = lane_index(); s < samples; s += kWarp) weights[s] *= inverse;
  return math::logsumexp_close(shift, sum) - math::log(static_cast<double>(samples));
}

ELBOKIT_DEVICE double mean_bound(double* weights, std::int64_t samples) {
  double sum = 0;
  for (std::int64_t s = lane_index(); s < samples; s += kWarp) {
    sum += weights[s];
    weights[s] = 1.0 / static_cast<double>(samples);
  }
  return warp_sum(sum) / static_cast<double>(samples);
}

template <class T>
ELBOKIT_DEVICE double row_weight_of(const MultiSampleArgs<T>& args, std::int64_t row) {
  if (!args.row_weight.data) return 1;
  return static_cast<double>(args.row_weight.data[row * args.row_weight.stride]);
}

// The factor of a row's gradients but for the weights of its samples.
template <class T>
ELBOKIT_DEVICE double row_factor(const MultiSampleArgs<T>& args, std::int64_t row) {
  return static_cast<double>(args.scale) * row_weight_of(args, row);
}

// A warp finishes a data row: the weights in place of their logarithms, and the loss, which the
// first lane adds to its own.
template <class T>
ELBOKIT_DEVICE void close_row(const MultiSampleArgs<T>& args, std::int64_t row, double* weights,
                              double& total) {
  const double bound =
      args.importance ? importance_bound(weights, args.samples) : mean_bound(weights, args.samples);
  if (lane_index() != 0) return;
  const double loss = -bound * row_weight_of(args, row);
  total += loss;
  if (args.row_loss.data) args.row_loss.data[row * args.row_loss.stride] = static_cast<T>(loss);
}

}  // namespace elbokit::cuda
