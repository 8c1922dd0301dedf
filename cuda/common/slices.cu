#include "common/slices.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

// A lane has a number, and a warp every kWarps-th slice.
__global__ void __launch_bounds__(kThreads)
    add_kernel(const double* slices, std::int64_t n_slices, std::int64_t n, double* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kWarp + lane_index();
  double sum = 0;
  if (i < n) {
#pragma unroll 8
    for (std::int64_t slice = warp_index(); slice < n_slices; slice += kWarps)
      sum += slices[slice * n + i];
  }
  auto* const sums = shared_memory<double>();
  sums[threadIdx.x] = sum;
  block_barrier();
  if (warp_index() > 0 || i >= n) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[w * kWarp + lane_index()];
  out[i] = sum;
}

}  // namespace

void add_slices(const Queue& queue, const double* slices, std::int64_t n_slices, std::int64_t n,
                double* out) {
  launch(queue, {(n + kWarp - 1) / kWarp}, kThreads, sizeof(double) * kThreads, add_kernel, slices,
         n_slices, n, out);
}

}  // namespace elbokit::cuda
