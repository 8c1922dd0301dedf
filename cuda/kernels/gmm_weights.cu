// The gradient in weights that are 0, or too small for a responsibility to carry it.
#include <cmath>

#include "kernels/gmm_gradient.h"
#include "kernels/gmm_pass.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 128;

// Of components with a smaller share of the weights the responsibilities may underflow.
constexpr double kLeastShare = 0x1p-60;

struct WeightArgs {
  GmmData data;
  GmmMixtures mixtures;
  double* partial;  // (n_mixtures, kWeightBlocks, n_components)
};

// log N_k(x_n), feature by feature.
ELBOKIT_DEVICE double log_normal(const WeightArgs& args, std::int64_t m, std::int64_t n,
                                 std::int64_t k) {
  const GmmMixtures& mixtures = args.mixtures;
  const std::int64_t d = args.data.n_features, component = m * mixtures.n_components + k;
  const Reader<double> read{{args.data.x, args.data.element, args.data.row_stride, 1}, 1.0};
  const double* const mean = mixtures.means + component * d;
  const double* const factor = mixtures.precisions_cholesky;
  const auto difference = [&](std::int64_t j) {
    return read(n, m * args.data.mixture_stride + j) - mean[j];
  };
  double distance = 0, log_det = 0;
  for (std::int64_t i = 0; i < d; ++i) {
    double y = 0, diagonal = 0;
    if (mixtures.covariance == Covariance::full || mixtures.covariance == Covariance::tied) {
      const double* const p =
          factor + (mixtures.covariance == Covariance::full ? component : m) * d * d;
      for (std::int64_t j = 0; j <= i; ++j) y += difference(j) * p[j * d + i];
      diagonal = p[i * d + i];
    } else {
      diagonal = factor[mixtures.covariance == Covariance::diag ? component * d + i : component];
      y = difference(i) * diagonal;
    }
    distance += y * y;
    log_det += math::log(diagonal);
  }
  return log_det - 0.5 * (distance + static_cast<double>(d) * 1.83787706640934548356);
}

// In double from the densities themselves. Where no weight is small, as almost always, there is
// nothing to do, which only the device knows.
__global__ void __launch_bounds__(kThreads) small_weights(WeightArgs args) {
  const std::int64_t m = blockIdx.z, k_all = args.mixtures.n_components;
  const double* const weights = args.mixtures.weights + m * k_all;
  double total = 0;
  for (std::int64_t k = 0; k < k_all; ++k) total += weights[k];
  constexpr double none = -__builtin_huge_val();
  for (std::int64_t k = 0; k < k_all; ++k) {
    if (weights[k] > kLeastShare * total) continue;
    double sum = 0;
    for (std::int64_t n = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
         n < args.data.n_samples; n += std::int64_t{gridDim.x} * kThreads) {
      const double grad = args.data.sample_weight[m * args.data.n_samples + n];
      if (grad == 0) continue;
      double largest = none, density = 0;
      for (std::int64_t c = 0; c < k_all; ++c) {
        const double value = ::log(weights[c]) + log_normal(args, m, n, c);
        if (value == none) continue;
        if (value > largest) {
          density *= math::exp(largest - value);
          largest = value;
        }
        density += math::exp(value - largest);
      }
      if (density == 0) continue;
      sum += grad * math::exp(log_normal(args, m, n, k) - largest) / density;
    }
    sum = block_sum<kThreads>(sum, shared_memory<double>());
    if (threadIdx.x == 0) args.partial[(m * gridDim.x + blockIdx.x) * k_all + k] = sum;
  }
}

}  // namespace

void gmm_small_weights(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                       double* partial) {
  const DeviceGuard guard(queue);
  for (std::int64_t m = 0; m < data.n_mixtures; m += kMostMixtures) {
    const std::int64_t left = data.n_mixtures - m;
    WeightArgs args{data, mixtures, partial + m * kWeightBlocks * mixtures.n_components};
    args.data.x =
        static_cast<const std::byte*>(data.x) + m * data.mixture_stride * size_of(data.element);
    args.data.sample_weight += m * data.n_samples;
    args.mixtures = mixtures_from(mixtures, data.n_features, m);
    launch(queue, {kWeightBlocks, 1, static_cast<int>(left < kMostMixtures ? left : kMostMixtures)},
           kThreads, sizeof(double) * kThreads / kWarp, small_weights, args);
  }
}

}  // namespace elbokit::cuda
