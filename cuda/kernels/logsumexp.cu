#include "kernels/logsumexp.h"

#include "common/exponentials.h"

namespace elbokit::cuda {

namespace {

// A single sum is cut into so many chunks at most, and only if each has so many elements.
constexpr std::int64_t kMostChunks = 4096, kLeastChunk = 4096;

// e^x for a value less the largest; at most 1 where the largest is inf, and nothing is taken off.
template <class T>
struct Power {
  ELBOKIT_DEVICE T operator()(T x) const { return math::exp_nonpositive(x > T(0) ? T(0) : x); }
};

template <class T>
ELBOKIT_DEVICE T closed(const Exponentials<T>& all) {
  const T infinity = -kLowest<T>, sum = static_cast<T>(all.sum);
  return math::logsumexp_close(all.shift, all.largest == infinity && sum >= T(0) ? infinity : sum);
}

// A team has a position (o, j), or a chunk of its elements.
template <class T>
struct Chunk {
  const T* a;
  std::int64_t begin, end;

  template <class Args>
  ELBOKIT_DEVICE Chunk(const Args& args, std::int64_t unit, std::int64_t chunks) {
    const std::int64_t position = chunks == 1 ? unit : quotient(unit, chunks);
    const std::int64_t chunk = unit - position * chunks;
    const std::int64_t o = args.inner == 1 ? position : quotient(position, args.inner);
    const std::int64_t j = position - o * args.inner;
    a = args.a + o * args.outer_stride + j * args.inner_stride;
    begin = chunks == 1 ? 0 : quotient(args.n * chunk, chunks);
    end = chunks == 1 ? args.n : quotient(args.n * (chunk + 1), chunks);
  }
};

// kEach: elements per thread that stay in registers; 0 for any number of them, and for chunks,
// whose sums go to `partial`.
template <class T, class Team, int kEach>
__global__ void __launch_bounds__(kLossThreads)
    logsumexp_kernel(LogsumexpArgs<T> args, std::int64_t chunks, Exponentials<T>* partial) {
  const std::int64_t n = args.outer * args.inner * chunks;
  const std::int64_t step = std::int64_t{gridDim.x} * Team::kTeams;
  for (std::int64_t at = std::int64_t{blockIdx.x} * Team::kTeams; at < n; at += step) {
    const std::int64_t unit = at + Team::index();
    const bool given = unit < n;
    const Chunk<T> chunk(args, given ? unit : 0, chunks);
    const auto read = [&](std::int64_t i) { return chunk.a[i * args.axis_stride]; };
    Exponentials<T> all;
    if constexpr (kEach > 0) {
      T power[kEach];
      all = keep<Team>(given ? static_cast<int>(args.n) : 0, -1, power, read, Power<T>{});
    } else {
      all = sweep<T, Team>(chunk.begin, given ? chunk.end : chunk.begin, -1, read, Power<T>{});
    }
    if (!given || Team::lane() != 0) continue;
    if (partial)
      partial[unit] = all;
    else
      args.out[unit] = closed(all);
  }
}

// A warp joins the chunks of a position.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    join_kernel(std::int64_t n, std::int64_t chunks, const Exponentials<T>* partial, T* out) {
  for_each_row<kWarp>(n, blockIdx.x, gridDim.x, [&](std::int64_t position) {
    Exponentials<T> mine{kLowest<T>, T(0), 0};
    for (std::int64_t i = lane_index(); i < chunks; i += kWarp) {
      const Exponentials<T> other = partial[position * chunks + i];
      const T largest = larger(mine.largest, other.largest);
      const T shift = math::logsumexp_shift(largest);
      const auto relative = [&](const Exponentials<T>& e) {
        return rescaled(e.sum, static_cast<double>(e.shift), static_cast<double>(shift));
      };
      mine = {largest, shift, relative(mine) + relative(other)};
    }
    const Exponentials<T> all = joined<Neighbours<kWarp>>(mine);
    if (lane_index() == 0) out[position] = closed(all);
  });
}

// A team has a position, and goes along its elements.
template <class T, class Team>
__global__ void __launch_bounds__(kLossThreads)
    logsumexp_backward_kernel(LogsumexpBackwardArgs<T> args, std::int64_t chunks) {
  constexpr int unroll = 4;
  const std::int64_t n = args.outer * args.inner * chunks;
  const std::int64_t step = std::int64_t{gridDim.x} * Team::kTeams;
  for (std::int64_t unit = std::int64_t{blockIdx.x} * Team::kTeams + Team::index(); unit < n;
       unit += step) {
    const std::int64_t position = chunks == 1 ? unit : quotient(unit, chunks);
    const std::int64_t o = args.inner == 1 ? position : quotient(position, args.inner);
    const Chunk<T> chunk(args, unit, chunks);
    const T lse = args.lse[position], grad = args.grad[position];
    T* const out = args.out + o * args.n * args.inner + (position - o * args.inner);
    for (std::int64_t at = chunk.begin + Team::lane(); at < chunk.end; at += unroll * Team::kSize) {
      T a[unroll];
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        const std::int64_t i = at + u * Team::kSize;
        a[u] = i < chunk.end ? chunk.a[i * args.axis_stride] : T(0);
      }
#pragma unroll
      for (int u = 0; u < unroll; ++u) {
        const std::int64_t i = at + u * Team::kSize;
        if (i < chunk.end)
          out[i * args.inner] = lse == kLowest<T> ? T(0) : grad * math::exp(a[u] - lse);
      }
    }
  }
}

// Whether neighbouring threads should have neighbouring elements of a sum, not neighbouring sums.
template <class Args>
bool along_axis(const Args& args) {
  const auto size = [](std::ptrdiff_t stride) { return stride < 0 ? -stride : stride; };
  const std::ptrdiff_t beside = args.inner == 1 ? args.outer_stride : args.inner_stride;
  const std::int64_t sums = args.inner == 1 ? args.outer : args.inner;
  return sums < 8 || size(args.axis_stride) <= size(beside);
}

// Chunks per sum, so that few long sums occupy the device too.
template <class Args>
std::int64_t chunks_of(const Args& args, std::int64_t teams) {
  const std::int64_t sums = args.outer * args.inner;
  const std::int64_t room = teams * kMostLossBlocks / 4 / sums, enough = args.n / kLeastChunk;
  const std::int64_t most = kMostChunks / sums;
  const std::int64_t wanted = room < enough ? room : enough;
  const std::int64_t chunks = wanted < most ? wanted : most;
  return chunks < 1 ? 1 : chunks;
}

template <class T, class Team, int kEach>
void launch_forward(const Queue& queue, const LogsumexpArgs<T>& args, std::int64_t chunks) {
  const std::int64_t sums = args.outer * args.inner;
  auto* const partial = chunks > 1 ? Workspace(queue).take<Exponentials<T>>(kMostChunks) : nullptr;
  launch(queue, {loss_blocks(queue, (sums * chunks + Team::kTeams - 1) / Team::kTeams)},
         kLossThreads, kTeamShared, logsumexp_kernel<T, Team, kEach>, args, chunks, partial);
  if (partial)
    launch(queue, {loss_blocks(queue, sums, 1)}, kLossThreads, 0, join_kernel<T>, sums, chunks,
           static_cast<const Exponentials<T>*>(partial), args.out);
}

template <class T, class Team>
void launch_backward(const Queue& queue, const LogsumexpBackwardArgs<T>& args) {
  const std::int64_t chunks = chunks_of(args, Team::kTeams);
  const std::int64_t units = args.outer * args.inner * chunks;
  launch(queue, {loss_blocks(queue, (units + Team::kTeams - 1) / Team::kTeams)}, kLossThreads, 0,
         logsumexp_backward_kernel<T, Team>, args, chunks);
}

}  // namespace

std::size_t logsumexp_workspace() {
  Workspace counted;
  counted.take<Exponentials<double>>(kMostChunks);
  return counted.used();
}

template <class T>
void logsumexp(const Queue& queue, const LogsumexpArgs<T>& args) {
  expect_workspace(queue, logsumexp_workspace());
  const DeviceGuard guard(queue);
  if (along_axis(args)) {
    if (args.n <= 16) return launch_forward<T, Neighbours<4>, 4>(queue, args, 1);
    if (args.n <= 256) return launch_forward<T, Neighbours<kWarp>, 8>(queue, args, 1);
    return launch_forward<T, Neighbours<kLossThreads>, 0>(queue, args, chunks_of(args, 1));
  }
  if (args.n <= 16) return launch_forward<T, Neighbours<1>, 16>(queue, args, 1);
  return launch_forward<T, Columns, 0>(queue, args, chunks_of(args, Columns::kTeams));
}

template <class T>
void logsumexp_backward(const Queue& queue, const LogsumexpBackwardArgs<T>& args) {
  const DeviceGuard guard(queue);
  if (along_axis(args)) {
    if (args.n <= 32) return launch_backward<T, Neighbours<4>>(queue, args);
    if (args.n <= kShortRow) return launch_backward<T, Neighbours<kWarp>>(queue, args);
    return launch_backward<T, Neighbours<kLossThreads>>(queue, args);
  }
  if (args.n <= 32) return launch_backward<T, Neighbours<1>>(queue, args);
  return launch_backward<T, Columns>(queue, args);
}

#define ELBOKIT_INSTANTIATE(T)                                    \
  template void logsumexp(const Queue&, const LogsumexpArgs<T>&); \
  template void logsumexp_backward(const Queue&, const LogsumexpBackwardArgs<T>&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
