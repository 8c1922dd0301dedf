// The rows of a Gaussian KL, for its own kernel and for that of the whole bound.
#pragma once

#include "common/loss.h"
#include "elbokit/gaussian_kl.h"
#include "math/gaussian_kl.h"

namespace elbokit::cuda {

// One element's term. Args: GaussianKlArgs or GaussianKlBackwardArgs.
template <class T, class Args>
ELBOKIT_DEVICE math::GaussianKl<T> kl_at(const Args& args, std::int64_t row, std::int64_t col) {
  const auto at = [&](const Matrix<const T>& m) {
    return m.data[row * m.row_stride + col * m.col_stride];
  };
  const T mu = at(args.mu), logvar = at(args.logvar);
  if (!args.prior_mu.data) return math::gaussian_kl_term<T>(mu, logvar, T(1));
  const T s = at(args.prior_logvar);
  return math::gaussian_kl_term<T>(mu - at(args.prior_mu), logvar - s, math::exp(s * T(-0.5)));
}

// Without free bits nothing is floored, not even a divergence that rounding leaves below 0: its
// gradient must survive.
template <class T>
ELBOKIT_DEVICE T kl_floor(T free_bits) {
  return free_bits > 0 ? free_bits : -static_cast<T>(__builtin_huge_val());
}

// All but `dimensions`. A warp has a row.
template <class T>
ELBOKIT_DEVICE void kl_rows(const GaussianKlArgs<T>& args, std::int64_t block, std::int64_t blocks,
                            LossSums& sums) {
  const T floor = kl_floor(args.free_bits);
  for_each_row<kWarp>(args.rows, block, blocks, [&](std::int64_t row) {
    const T weight =
        args.row_weight.data ? args.row_weight.data[row * args.row_weight.stride] : T(1);
    const T factor = args.scale * weight;
    double kl = 0, charged = 0;
    for (std::int64_t col = lane_index(); col < args.cols; col += kWarp) {
      const math::GaussianKl<T> term = kl_at<T>(args, row, col);
      const bool floored = term.kl < floor;
      kl += static_cast<double>(term.kl);
      charged += static_cast<double>(floored ? floor : term.kl);
      if (args.grad_mu.data) {
        const T g = floored ? T(0) : factor;
        args.grad_mu.data[row * args.grad_mu.row_stride + col] = term.grad_mu() * g;
        args.grad_logvar.data[row * args.grad_logvar.row_stride + col] = term.grad_logvar() * g;
      }
    }
    kl *= static_cast<double>(weight);
    charged *= static_cast<double>(weight);
    sums.kl += kl;
    sums.charged += charged;
    if (!args.row_kl.data) return;
    kl = warp_sum(kl);
    charged = warp_sum(charged);
    if (lane_index() == 0) {
      args.row_kl.data[row * args.row_kl.stride] = static_cast<T>(kl);
      args.row_charged.data[row * args.row_charged.stride] = static_cast<T>(charged);
    }
  });
}

// Adds to args.dimensions, if it is there. `partial` has dimensions_partial(cols) elements.
template <class T>
void add_to_dimensions(const Queue& queue, const GaussianKlArgs<T>& args, double* partial);

inline std::int64_t dimensions_partial(std::int64_t cols) { return kColumnChunks * 3 * cols; }

// Bytes that the functions below need, with sums over dimensions or without.
std::size_t gaussian_kl_workspace(std::int64_t cols, bool dimensions);

template <class T>
void gaussian_kl(const Queue& queue, const GaussianKlArgs<T>& args, const LossOutputs<T>& outputs);
template <class T>
void gaussian_kl_backward(const Queue& queue, const GaussianKlBackwardArgs<T>& args);

}  // namespace elbokit::cuda
