// The rows of a Gaussian KL, for its own kernel and for that of the whole bound.
#pragma once

#include "common/plain.h"
#include "common/teams.h"
#include "elbokit/gaussian_kl.h"
#include "math/gaussian_kl.h"

namespace elbokit::cuda {

template <class T>
ELBOKIT_DEVICE T element_at(const Matrix<const T>& m, std::int64_t row, std::int64_t col) {
  return m.data[row * m.row_stride + col * m.col_stride];
}
template <class T>
ELBOKIT_DEVICE T element_at(const Operand& m, std::int64_t row, std::int64_t col) {
  return Reader<T>{m, T(1)}(row, col);
}

// One element's term. Args: GaussianKlArgs or GaussianKlBackwardArgs.
template <class T, class Args>
ELBOKIT_DEVICE math::GaussianKl<T> kl_at(const Args& args, std::int64_t row, std::int64_t col) {
  const auto at = [&](const auto& m) { return element_at<T>(m, row, col); };
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

// A KL, and how it is taken.
template <class T>
struct KlWork {
  GaussianKlArgs<T> args;
  bool packed;  // by kl_packs

  static constexpr int width(Element element) { return static_cast<int>(16 / size_of(element)); }

  // Nothing is asked of single rows, and all is of one type and in whole vectors.
  explicit KlWork(const GaussianKlArgs<T>& given) : args(given) {
    const Element element = args.mu.element;
    const auto plain = [&](const auto& array) {
      return array.element == element && aligned(array, width(element), args.rows);
    };
    packed = (element == kElement<T> || element == Element::kBfloat16) &&
             args.cols % width(element) == 0 && !args.prior_mu && !args.row_weight &&
             !args.row_kl && plain(args.mu) && plain(args.logvar) &&
             (!args.grad_mu || (plain(args.grad_mu) && plain(args.grad_logvar)));
  }

  std::int64_t blocks(const Queue& queue) const {
    if (!packed) return loss_blocks(queue, args.rows, 1);
    return loss_blocks(queue, blocks_of(args.rows * (args.cols / width(args.mu.element))));
  }
};

// All but `dimensions`, of elements of type S: the loop that has to keep up with the memory. A
// thread has one vector of either operand in flight: with two, the kernel of the bound takes
// registers for a third fewer blocks.
template <class T, class S>
ELBOKIT_DEVICE void kl_packs(const GaussianKlArgs<T>& args, std::int64_t block, std::int64_t blocks,
                             LossSums& sums) {
  constexpr int kWidth = 16 / static_cast<int>(sizeof(S));
  using Vector = Pack<S, kWidth>;
  const T floor = kl_floor(args.free_bits);
  const std::int64_t across = args.cols / kWidth, n = args.rows * across;
  for (std::int64_t i = block * kLossThreads + threadIdx.x; i < n; i += blocks * kLossThreads) {
    const std::int64_t row = quotient(i, across), col = (i - row * across) * kWidth;
    const auto read = [&](const Operand& m) {
      return *reinterpret_cast<const Vector*>(static_cast<const S*>(m.data) + row * m.row_stride +
                                              col);
    };
    const Vector mu = read(args.mu), logvar = read(args.logvar);
    Pack<T, kWidth> d_mu, d_logvar;
    T kl{}, charged{};
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const math::GaussianKl<T> term =
          math::gaussian_kl_term<T>(widened<T>(mu.at[k]), widened<T>(logvar.at[k]), T(1));
      const bool floored = term.kl < floor;
      const T g = floored ? T(0) : args.scale;
      kl += term.kl;
      charged += floored ? floor : term.kl;
      d_mu.at[k] = term.grad_mu() * g;
      d_logvar.at[k] = term.grad_logvar() * g;
    }
    sums.kl += static_cast<double>(kl);
    sums.charged += static_cast<double>(charged);
    if (!args.grad_mu.data) continue;
    const auto put = [&](const Result& m, const Pack<T, kWidth>& values) {
      write_pack(static_cast<S*>(m.data) + row * m.row_stride + col, values);
    };
    put(args.grad_mu, d_mu);
    put(args.grad_logvar, d_logvar);
  }
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
      const T g = floored ? T(0) : factor;
      write(args.grad_mu, row, col, term.grad_mu() * g);
      write(args.grad_logvar, row, col, term.grad_logvar() * g);
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

template <class T>
ELBOKIT_DEVICE void run_kl(const KlWork<T>& work, std::int64_t block, std::int64_t blocks,
                           LossSums& sums) {
  if (!work.packed)
    kl_rows(work.args, block, blocks, sums);
  else if (work.args.mu.element == Element::kBfloat16)
    kl_packs<T, BFloat16>(work.args, block, blocks, sums);
  else
    kl_packs<T, T>(work.args, block, blocks, sums);
}

}  // namespace elbokit::cuda
