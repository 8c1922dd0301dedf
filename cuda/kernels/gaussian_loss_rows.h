// The rows of the Gaussian loss, by one team of threads each.
#pragma once

#include "common/plain.h"
#include "elbokit/gaussian_loss.h"
#include "math/gaussian_loss.h"

namespace elbokit::cuda {

template <class T>
ELBOKIT_DEVICE T factor_of(const GaussianLossArgs<T>& args, std::int64_t row) {
  return args.row_weight.data ? args.scale * args.row_weight.data[row * args.row_weight.stride]
                              : args.scale;
}

// A row's sums: of the loss, and of its gradient in logvar.
template <class T>
struct RowSums {
  double loss = 0, slope = 0;

  ELBOKIT_DEVICE void add(T loss_run, T slope_run) {
    loss += static_cast<double>(loss_run);
    slope += static_cast<double>(slope_run);
  }

  template <int kTeam>
  ELBOKIT_DEVICE void store(const GaussianLossArgs<T>& args, std::int64_t row, LossSums& sums) {
    if (args.row_weight.data)
      loss *= static_cast<double>(args.row_weight.data[row * args.row_weight.stride]);
    sums.loss += loss;
    sums.grad_logvar += slope;
    auto* const scratch = shared_memory<double>();
    if (args.row_loss.data) {
      loss = team_sum<kTeam>(loss, scratch);
      if (team_lane<kTeam>() == 0)
        args.row_loss.data[row * args.row_loss.stride] = static_cast<T>(loss);
    }
    if (args.row_grad_logvar.data) {
      slope = team_sum<kTeam>(slope, scratch);
      if (team_lane<kTeam>() == 0)
        args.row_grad_logvar.data[row * args.row_grad_logvar.stride] = static_cast<T>(slope);
    }
  }
};

// Contiguous operands and no mask. L, X and G are the elements of the mean, the target and the
// gradients; logvar is the same along a row, or has the elements of the mean (kVaries).
template <class T, class L, class X, class G, bool kVaries, int kTeam>
struct PlainRows {
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(L));
  // Fewer vectors of three operands than of two.
  static constexpr int kInFlight = kVaries ? kUnroll / 2 : kUnroll;

  static ELBOKIT_DEVICE void run(const GaussianLossArgs<T>& args, std::int64_t last,
                                 LossSums& sums) {
    const Reader<T> shared_logvar{args.logvar, T(1)};
    for_each_row<kTeam>(args.rows, blockIdx.x, gridDim.x, [&](std::int64_t row) {
      const std::int64_t cols = row + 1 < args.rows ? args.cols : last;
      const T factor = factor_of(args, row);
      const auto* const mean = static_cast<const L*>(args.mean.data) + row * args.mean.row_stride;
      const auto* const target =
          static_cast<const X*>(args.target.data) + row * args.target.row_stride;
      const auto* const logvar =
          static_cast<const L*>(args.logvar.data) + row * args.logvar.row_stride;
      auto* const grad = args.grad_mean.data ? static_cast<G*>(args.grad_mean.data) +
                                                   row * args.grad_mean.row_stride
                                             : nullptr;
      auto* const slopes =
          kVaries && args.grad_logvar.data
              ? static_cast<G*>(args.grad_logvar.data) + row * args.grad_logvar.row_stride
              : nullptr;
      math::ClampedNoise<T> noise{};
      if constexpr (!kVaries)
        noise = math::clamped_noise<T>(args.logvar.data ? shared_logvar(row, 0) : T(0), args.low,
                                       args.high);
      RowSums<T> row_sums;
      for (std::int64_t begin = team_lane<kTeam>() * kWidth; begin < cols;
           begin += kTeam * kWidth * kInFlight) {
        Pack<L, kWidth> m[kInFlight], v[kInFlight];
        Pack<X, kWidth> x[kInFlight];
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const std::int64_t col = begin + u * kTeam * kWidth;
          if (col >= cols) break;
          m[u] = *reinterpret_cast<const Pack<L, kWidth>*>(mean + col);
          x[u] = *reinterpret_cast<const Pack<X, kWidth>*>(target + col);
          if constexpr (kVaries) v[u] = *reinterpret_cast<const Pack<L, kWidth>*>(logvar + col);
        }
        T loss = 0, slope_sum = 0;
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const std::int64_t col = begin + u * kTeam * kWidth;
          if (col >= cols) break;
          Pack<G, kWidth> g, s;
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            if constexpr (kVaries)
              noise = math::clamped_noise<T>(widened<T>(v[u].at[i]), args.low, args.high);
            const auto term = math::gaussian_term<T>(
                widened<T>(m[u].at[i]) - widened<T>(x[u].at[i]) * args.target_scale, noise.noise);
            const T slope = noise.through(term.grad_logvar * factor);
            loss += term.loss;
            slope_sum += slope;
            g.at[i] = narrowed<G>(term.grad_mean * factor);
            s.at[i] = narrowed<G>(slope);
          }
          if (grad) *reinterpret_cast<Pack<G, kWidth>*>(grad + col) = g;
          if (slopes) *reinterpret_cast<Pack<G, kWidth>*>(slopes + col) = s;
        }
        row_sums.add(loss, slope_sum);
      }
      row_sums.template store<kTeam>(args, row, sums);
    });
  }
};

// One element of any operands.
template <class T>
struct AnyElement {
  const GaussianLossArgs<T>& args;
  Reader<T> mean, target, logvar, mask;

  explicit ELBOKIT_DEVICE AnyElement(const GaussianLossArgs<T>& given)
      : args(given),
        mean{given.mean, T(1)},
        target{given.target, given.target_scale},
        logvar{given.logvar, T(1)},
        mask{given.mask, T(1)} {}

  // The gradients are times `factor`.
  ELBOKIT_DEVICE math::GaussianTerm<T> operator()(std::int64_t row, std::int64_t col,
                                                  T factor) const {
    if (mask(row, col) == T(0)) return {T(0), T(0), T(0)};
    const auto noise =
        math::clamped_noise<T>(args.logvar.data ? logvar(row, col) : T(0), args.low, args.high);
    auto term = math::gaussian_term<T>(mean(row, col) - target(row, col), noise.noise);
    term.grad_mean *= factor;
    term.grad_logvar = noise.through(term.grad_logvar * factor);
    return term;
  }
};

// Everything else.
template <class T, int kTeam>
struct AnyRows {
  static ELBOKIT_DEVICE void run(const GaussianLossArgs<T>& args, std::int64_t /*last*/,
                                 LossSums& sums) {
    const AnyElement<T> element(args);
    for_each_row<kTeam>(args.rows, blockIdx.x, gridDim.x, [&](std::int64_t row) {
      const T factor = factor_of(args, row);
      RowSums<T> row_sums;
      for (std::int64_t col = team_lane<kTeam>(); col < args.cols; col += kTeam) {
        const auto term = element(row, col, factor);
        row_sums.add(term.loss, term.grad_logvar);
        write(args.grad_mean, row, col, term.grad_mean);
        write(args.grad_logvar, row, col, term.grad_logvar);
      }
      row_sums.template store<kTeam>(args, row, sums);
    });
  }
};

}  // namespace elbokit::cuda
