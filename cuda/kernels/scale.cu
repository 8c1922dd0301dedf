#include "kernels/scale.h"

#include "common/elements.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // vectors that a thread has in flight

template <class S>
ELBOKIT_DEVICE void scale_elements(const Scaled& t, double grad, std::int64_t block) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  constexpr int width = 16 / static_cast<int>(sizeof(S));
  using Vector = Pack<S, width>;
  const T factor = static_cast<T>(grad) * static_cast<T>(t.factor);
  if (factor == T(1) && t.in == t.out) return;
  const auto* const in = static_cast<const S*>(t.in);
  auto* const out = static_cast<S*>(t.out);
  const auto addresses =
      reinterpret_cast<std::uintptr_t>(in) | reinterpret_cast<std::uintptr_t>(out);
  const std::int64_t vectors = addresses % sizeof(Vector) == 0 ? t.n / width : 0;
  for (std::int64_t begin = block * kThreads * kUnroll + threadIdx.x; begin < vectors;
       begin += t.blocks * kThreads * kUnroll) {
    Vector v[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = begin + u * kThreads;
      if (i >= vectors) break;
      v[u] = reinterpret_cast<const Vector*>(in)[i];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t i = begin + u * kThreads;
      if (i >= vectors) break;
#pragma unroll
      for (int k = 0; k < width; ++k) v[u].at[k] = narrowed<S>(widened<T>(v[u].at[k]) * factor);
      reinterpret_cast<Vector*>(out)[i] = v[u];
    }
  }
  // The rest, or all that no whole vectors can be read of.
  for (std::int64_t i = vectors * width + block * kThreads + threadIdx.x; i < t.n;
       i += t.blocks * kThreads)
    out[i] = narrowed<S>(widened<T>(in[i]) * factor);
}

// The first blocks have the first tensor, the next ones the second.
__global__ void __launch_bounds__(kThreads) scale_kernel(ScaleArgs args) {
  const double grad = args.grad_is_double
                          ? *static_cast<const double*>(args.grad)
                          : static_cast<double>(*static_cast<const float*>(args.grad));
  std::int64_t block = blockIdx.x;
  Scaled mine = args.at[0];
#pragma unroll
  for (int i = 1; i < kMostScaled; ++i)
    if (block >= mine.blocks) {
      block -= mine.blocks;
      mine = args.at[i];
    }
  switch (mine.element) {
    case Element::kFloat64:
      return scale_elements<double>(mine, grad, block);
    case Element::kBfloat16:
      return scale_elements<BFloat16>(mine, grad, block);
    case Element::kFloat16:
      return scale_elements<Float16>(mine, grad, block);
    default:
      return scale_elements<float>(mine, grad, block);
  }
}

}  // namespace

void scale(const Queue& queue, ScaleArgs args) {
  const DeviceGuard guard(queue);
  const std::int64_t most = std::int64_t{device_of(queue).multiprocessors} * 8;
  std::int64_t blocks = 0;
  for (Scaled& t : args.at) {
    const std::int64_t each = kThreads * kUnroll * 16 / size_of(t.element);
    const std::int64_t wanted = (t.n + each - 1) / each;
    t.blocks = wanted < most ? wanted : most;
    blocks += t.blocks;
  }
  if (blocks) launch(queue, {blocks}, kThreads, 0, scale_kernel, args);
}

}  // namespace elbokit::cuda
