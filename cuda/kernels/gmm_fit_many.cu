#include "kernels/gmm_fit_many.h"

#include <stdexcept>

#include "kernels/gmm_small_run.h"

namespace elbokit::cuda {

namespace {

template <class T, int D, bool kFull>
__global__ void __launch_bounds__(kMostWarps* kWarp, 3) fit_many(GmmFitManyArgs args) {
  const GmmData& data = args.data;
  const std::int64_t mixture = blockIdx.x;
  const std::int64_t begin = args.offsets ? args.offsets[mixture] : 0;
  const std::int64_t n = args.offsets ? args.offsets[mixture + 1] - begin : data.n_samples;
  const std::ptrdiff_t first = mixture * data.mixture_stride + begin * data.row_stride;
  const int item = data.element == Element::kFloat64   ? 8
                   : data.element == Element::kFloat32 ? 4
                                                       : 2;
  const std::int64_t weights_at = args.offsets ? begin : mixture * data.n_samples;
  const SmallRows rows{static_cast<const char*>(data.x) + first * item, data.element,
                       data.row_stride,
                       data.sample_weight ? data.sample_weight + weights_at : nullptr, n};
  std::int64_t* const outcome = args.outcome + 4 * mixture;
  SmallRun<T, D, kFull>(args, rows, mixture).run(args.lower_bound[mixture], outcome);
}

// Warps for each mixture: more where mixtures are too few to fill the device.
int warps_each(const GmmFitManyArgs& args, const Device& device) {
  const GmmData& data = args.data;
  const std::int64_t rows = args.offsets ? data.n_samples / data.n_mixtures : data.n_samples;
  int warps = 1;
  while (warps < kMostWarps && rows > 4 * kWarp * warps &&
         data.n_mixtures * warps < std::int64_t{device.multiprocessors} * 12)
    warps *= 2;
  return warps;
}

}  // namespace

void gmm_fit_many(const Queue& queue, const GmmFitManyArgs& args) {
  const GmmData& data = args.data;
  if (data.n_features < 1 || data.n_features > kSmallFeatures || args.n_components < 1 ||
      args.n_components > kManyComponents)
    throw std::invalid_argument("the mixtures have " + std::to_string(data.n_features) +
                                " features and " + std::to_string(args.n_components) +
                                " components, expected at most " + std::to_string(kSmallFeatures) +
                                " and " + std::to_string(kManyComponents));
  if (data.n_mixtures == 0) return;
  const DeviceGuard guard(queue);
  const int warps = warps_each(args, device_of(queue));
  const bool full = is_triangular(args.covariance, data.n_features);
  with_shape(data.n_features, full, [&](auto d, auto triangular) {
    constexpr int kD = decltype(d)::value;
    constexpr bool kFull = decltype(triangular)::value;
    const auto go = [&](auto value, auto kernel) {
      const SmallRunLayout<decltype(value), kD, kFull> layout(static_cast<int>(args.n_components),
                                                              warps);
      launch(queue, {data.n_mixtures}, warps * kWarp,
             static_cast<std::size_t>(layout.size()) * sizeof(double), kernel, args);
    };
    if (data.element == Element::kFloat64)
      go(double{}, fit_many<double, kD, kFull>);
    else
      go(float{}, fit_many<float, kD, kFull>);
  });
}

}  // namespace elbokit::cuda
