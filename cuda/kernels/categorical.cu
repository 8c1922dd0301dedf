#include "kernels/categorical.h"

#include <stdexcept>

#include "common/exponentials.h"
#include "math/categorical.h"

namespace elbokit::cuda {

namespace {

template <class T>
struct Power {
  ELBOKIT_DEVICE T operator()(T x) const { return math::exp_nonpositive(x); }
};

// What a team knows of its position. The position's classes are `inner` elements apart.
template <class T, class L, class G>
struct Position {
  bool given = false;        // there is such a position, and it counts
  std::int64_t target = -1;  // -1: no class
  T logit = 0, weight = 1, factor = 0;
  const L* logits = nullptr;
  G* grad = nullptr;  // of the position, if it is asked for

  ELBOKIT_DEVICE Position(const CategoricalArgs<T>& args, std::int64_t position, bool exists) {
    if (!exists) return;
    const std::int64_t row = args.inner == 1 ? position : quotient(position, args.inner);
    const std::int64_t at = position - row * args.inner;
    logits = static_cast<const L*>(args.logits.data) + row * args.logits.row_stride + at;
    if (args.grad.data) grad = static_cast<G*>(args.grad.data) + row * args.grad.row_stride + at;
    given = !args.mask || args.mask[position] != 0;
    target = args.target[position];
    const bool is_class = target >= 0 && target < args.classes;
    if (!is_class) target = -1;
    logit = is_class ? widened<T>(logits[target * args.inner])
                     : static_cast<T>(__builtin_nan(""));  // which spreads to all results
    if (args.weight.data)
      weight = args.weight.data[quotient(row, args.rows_per_sample) * args.weight.stride];
    factor = args.scale * weight;
  }

  ELBOKIT_DEVICE math::CategoricalTerm<T> term(const Exponentials<T>& rest) const {
    auto result = math::categorical_term<T>(logit, rest.largest, static_cast<T>(rest.sum));
    result.loss = given ? result.loss * weight : T(0);
    result.inverse *= factor;
    result.share *= -factor;
    return result;
  }

  // The gradient in the logit of class k, of exponential e.
  ELBOKIT_DEVICE G slope(const math::CategoricalTerm<T>& term, std::int64_t k, T e) const {
    return narrowed<G>(!given ? T(0) : k == target ? term.share : e * term.inverse);
  }
};

// The loss of a team's position, 0 if it is beyond `end`; all threads of the block take part.

// At most kEach classes per thread, which stay in registers.
template <class T, class L, class G, class Members, int kEach>
struct Kept {
  using Team = Members;

  static ELBOKIT_DEVICE T run(const CategoricalArgs<T>& args, std::int64_t position,
                              std::int64_t end) {
    const Position<T, L, G> here(args, position, position < end);
    const int classes = here.given ? static_cast<int>(args.classes) : 0;
    const std::int64_t inner = args.inner;
    T power[kEach];
    const auto rest = keep<Team>(
        classes, static_cast<int>(here.target), power,
        [&](int k) { return widened<T>(here.logits[k * inner]); }, Power<T>{});
    const auto term = here.term(rest);
    if (here.grad) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const int k = Team::lane() + j * Team::kSize;
        if (k < args.classes) here.grad[k * inner] = here.slope(term, k, power[j]);
      }
    }
    return term.loss;
  }
};

// Any number of classes, read twice if there is a gradient.
template <class T, class L, class G, class Members>
struct Swept {
  using Team = Members;

  static ELBOKIT_DEVICE T run(const CategoricalArgs<T>& args, std::int64_t position,
                              std::int64_t end) {
    const Position<T, L, G> here(args, position, position < end);
    const std::int64_t inner = args.inner;
    const auto rest = sweep<T, Team>(
        0, here.given ? args.classes : 0, here.target,
        [&](std::int64_t k) { return widened<T>(here.logits[k * inner]); }, Power<T>{});
    const auto term = here.term(rest);
    if (here.grad) {
      constexpr int unroll = 8;
      for (std::int64_t at = Team::lane(); at < args.classes; at += unroll * Team::kSize) {
        L logit[unroll];
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
          const std::int64_t k = at + u * Team::kSize;
          if (k < args.classes) logit[u] = here.logits[k * inner];
        }
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
          const std::int64_t k = at + u * Team::kSize;
          if (k < args.classes)
            here.grad[k * inner] =
                here.slope(term, k, Power<T>{}(widened<T>(logit[u]) - rest.shift));
        }
      }
    }
    return term.loss;
  }
};

// by_sample: a block has whole samples, each with a loss of its own.
template <class T, class Positions>
__global__ void __launch_bounds__(kLossThreads)
    categorical_kernel(CategoricalArgs<T> args, bool by_sample, LossSums* all) {
  using Team = typename Positions::Team;
  const std::int64_t n = args.rows * args.inner, each = args.rows_per_sample * args.inner;
  LossSums sums;
  // The block's next positions, one for each team, up to `end`.
  const auto next = [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t position = begin + Team::index();
    const T loss = Positions::run(args, position, end);
    const bool has_it = position < end && Team::lane() == 0;
    if (args.sample_loss.data && !by_sample && has_it)
      args.sample_loss.data[position * args.sample_loss.stride] = loss;
    return has_it ? static_cast<double>(loss) : 0.0;
  };
  if (by_sample) {
    for (std::int64_t sample = blockIdx.x; sample * each < n; sample += gridDim.x) {
      double loss = 0;
      for (std::int64_t at = 0; at < each; at += Team::kTeams)
        loss += next(sample * each + at, (sample + 1) * each);
      loss = block_sum<kLossThreads>(loss, shared_memory<double>());
      if (threadIdx.x == 0)
        args.sample_loss.data[sample * args.sample_loss.stride] = static_cast<T>(loss);
    }
  } else {
    const std::int64_t step = std::int64_t{gridDim.x} * Team::kTeams;
    for (std::int64_t at = std::int64_t{blockIdx.x} * Team::kTeams; at < n; at += step)
      sums.loss += next(at, n);
  }
  store_sums(sums, all);
}

template <class T, class Positions>
std::int64_t launch_positions(const Queue& queue, const CategoricalArgs<T>& args, LossSums* sums) {
  const std::int64_t each = args.rows_per_sample * args.inner;
  const bool by_sample = args.sample_loss && each > 1;
  constexpr int teams = Positions::Team::kTeams;
  const std::int64_t blocks =
      loss_blocks(queue, by_sample ? args.rows * args.inner / each
                                   : (args.rows * args.inner + teams - 1) / teams);
  launch(queue, {blocks}, kLossThreads, kTeamShared, categorical_kernel<T, Positions>, args,
         by_sample, sums);
  return blocks;
}

// Rows of classes, or planes of positions: as many threads per position as keep its classes in
// registers.
template <class T, class L, class G>
std::int64_t launch_categorical(const Queue& queue, const CategoricalArgs<T>& args,
                                LossSums* sums) {
  const std::int64_t n = args.classes;
  const auto of = [&](auto positions) {
    return launch_positions<T, decltype(positions)>(queue, args, sums);
  };
  if (args.inner > 1) {
    if (n <= 8) return of(Kept<T, L, G, Neighbours<1>, 8>{});
    if (n <= 32) return of(Kept<T, L, G, Neighbours<1>, 32>{});
    if (n <= 256) return of(Kept<T, L, G, Columns, 32>{});
    return of(Swept<T, L, G, Columns>{});
  }
  if (n <= 16) return of(Kept<T, L, G, Neighbours<4>, 4>{});
  if (n <= 128) return of(Kept<T, L, G, Neighbours<16>, 8>{});
  if (n <= 512) return of(Kept<T, L, G, Neighbours<kWarp>, 16>{});
  if (n <= 4096) return of(Kept<T, L, G, Neighbours<kLossThreads>, 16>{});
  return of(Swept<T, L, G, Neighbours<kLossThreads>>{});
}

}  // namespace

template <class T>
void categorical_loss(const Queue& queue, const CategoricalArgs<T>& args,
                      const LossOutputs<T>& outputs) {
  expect_workspace(queue, loss_workspace());
  const Element l = args.logits.element;
  const Element g = l == Element::kFloat16 ? Element::kFloat32 : l;
  if (l == Element::kUint8 || (args.grad && args.grad.element != g))
    throw std::invalid_argument("`logits` are not floating, or `grad` is of another type");
  const DeviceGuard guard(queue);
  auto* const sums = Workspace(queue).take<LossSums>(kMostLossBlocks);
  std::int64_t blocks = 0;
  if constexpr (sizeof(T) == 8) {
    blocks = launch_categorical<double, double, double>(queue, args, sums);
  } else if (l == Element::kBfloat16) {
    blocks = launch_categorical<float, BFloat16, BFloat16>(queue, args, sums);
  } else if (l == Element::kFloat16) {
    blocks = launch_categorical<float, Float16, float>(queue, args, sums);
  } else {
    blocks = launch_categorical<float, float, float>(queue, args, sums);
  }
  finish_loss(queue, sums, blocks, outputs);
}

template void categorical_loss(const Queue&, const CategoricalArgs<float>&,
                               const LossOutputs<float>&);
template void categorical_loss(const Queue&, const CategoricalArgs<double>&,
                               const LossOutputs<double>&);

}  // namespace elbokit::cuda
