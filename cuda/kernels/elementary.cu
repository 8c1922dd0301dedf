#include "kernels/elementary.h"

#include "kernels/elementary_functions.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    elementary_kernel(Elementary function, std::int64_t n, const T* x, T* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) out[i] = math::evaluate(function, x[i]);
}

}  // namespace

template <class T>
void elementary(const Queue& queue, Elementary function, std::int64_t n, const T* x, T* out) {
  if (n == 0) return;
  const DeviceGuard guard(queue);
  launch(queue, {(n + kThreads - 1) / kThreads}, kThreads, 0, elementary_kernel<T>, function, n, x,
         out);
}

template void elementary(const Queue&, Elementary, std::int64_t, const float*, float*);
template void elementary(const Queue&, Elementary, std::int64_t, const double*, double*);

}  // namespace elbokit::cuda
