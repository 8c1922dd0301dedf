#include "kernels/gmm_diagonal.h"

#include "common/reduce.h"
#include "common/tensor_core.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// A block has a warp's width of features, and each of its warps a part of the components.
__global__ void __launch_bounds__(kThreads)
    place_pivot_kernel(DiagonalMixture mixture, float* pivot, double* sum_of_weights) {
  auto* const scratch = shared_memory<double>();
  const double *const weights = mixture.mixtures.weights, *const means = mixture.mixtures.means;
  const std::int64_t n_components = mixture.mixtures.n_components;
  double mass = 0;
  for (std::int64_t k = threadIdx.x; k < n_components; k += kThreads) mass += weights[k];
  mass = block_sum<kThreads>(mass, scratch);
  if (sum_of_weights && blockIdx.x == 0 && threadIdx.x == 0) *sum_of_weights = mass;
  const std::int64_t j = std::int64_t{blockIdx.x} * kWarp + lane_index();
  double mean = 0;
  for (std::int64_t k = warp_index(); j < mixture.n_features && k < n_components; k += kWarps)
    mean += weights[k] * means[k * mixture.n_features + j];
  scratch[threadIdx.x] = mean;
  block_barrier();
  if (warp_index() != 0) return;
  for (int i = 1; i < kWarps; ++i) mean += scratch[i * kWarp + lane_index()];
  pivot[j] = static_cast<float>(mean / mass);
}

// One block.
__global__ void __launch_bounds__(kThreads)
    add_up_kernel(const double* numbers, std::int64_t n, double* total) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) sum += numbers[i];
  sum = block_sum<kThreads>(sum, shared_memory<double>());
  if (threadIdx.x == 0) *total = sum;
}

}  // namespace

bool suits_matrix_units(const GmmData& data, const GmmMixtures& mixtures, const Device& device) {
  const bool diagonal =
      mixtures.covariance == Covariance::diag || mixtures.covariance == Covariance::spherical;
  return diagonal && data.n_mixtures == 1 && data.element != Element::kFloat64 &&
         data.n_features >= 16 && mixtures.n_components >= 64 &&
         device.compiled >= kTensorCoreCapability;
}

void place_pivot(const Queue& queue, const DiagonalMixture& mixture, float* pivot, double* mass) {
  launch(queue, {whole(mixture.n_features, kWarp) / kWarp}, kThreads, sizeof(double) * kThreads,
         place_pivot_kernel, mixture, pivot, mass);
}

void add_up(const Queue& queue, const double* numbers, std::int64_t n, double* sum) {
  launch(queue, {}, kThreads, sizeof(double) * kWarps, add_up_kernel, numbers, n, sum);
}

}  // namespace elbokit::cuda
