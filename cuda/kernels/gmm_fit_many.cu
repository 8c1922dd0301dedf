#include "kernels/gmm_fit_many.h"

#include <stdexcept>

#include "kernels/gmm_small_run.h"

namespace elbokit::cuda {

namespace {

// Blocks of the most warps that a multiprocessor holds: what registers allow without spills in the
// loops over rows.
constexpr int kResident = 3;

// Several mixtures of a warp, or one of a block, `width` lanes of each warp for a mixture.
template <int D, bool kFull>
__global__ void __launch_bounds__(kMostWarps* kWarp, kResident)
    fit_many(GmmFitManyArgs args, int width) {
  const GmmData& data = args.data;
  const MixtureLanes lanes{width};
  const std::int64_t mixture = blockIdx.x * std::int64_t{kWarp / width} + lane_index() / width;
  const bool exists = mixture < data.n_mixtures;
  const std::int64_t begin = args.offsets && exists ? args.offsets[mixture] : 0;
  const std::int64_t n = !exists        ? 0
                         : args.offsets ? args.offsets[mixture + 1] - begin
                                        : data.n_samples;
  const std::ptrdiff_t first = mixture * data.mixture_stride + begin * data.row_stride;
  const int item = data.element == Element::kFloat64   ? 8
                   : data.element == Element::kFloat32 ? 4
                                                       : 2;
  const std::int64_t weights_at = args.offsets ? begin : mixture * data.n_samples;
  const SmallRows rows{static_cast<const char*>(data.x) + first * item, data.element,
                       data.row_stride,
                       data.sample_weight ? data.sample_weight + weights_at : nullptr, n};
  SmallRun<D, kFull>(args, lanes, rows, mixture).run();
}

// Lanes for each mixture: one for each component, and more where mixtures are too few to fill the
// device.
int lanes_each(const GmmFitManyArgs& args, const Device& device) {
  const GmmData& data = args.data;
  const std::int64_t rows = args.offsets ? data.n_samples / data.n_mixtures : data.n_samples;
  const std::int64_t filled = std::int64_t{device.multiprocessors} * kResident * kMostWarps * kWarp;
  int lanes = kLeastLanes;
  while (lanes < args.n_components) lanes *= 2;
  while (lanes < kMostWarps * kWarp && rows > 4 * lanes && data.n_mixtures * lanes < filled)
    lanes *= 2;
  return lanes;
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
  const int lanes = lanes_each(args, device_of(queue)), width = lanes < kWarp ? lanes : kWarp;
  const int warps = lanes / width, together = kWarp / width;
  const bool full = is_triangular(args.covariance, data.n_features);
  with_shape(data.n_features, full, [&](auto d, auto triangular) {
    constexpr int kD = decltype(d)::value;
    constexpr bool kFull = decltype(triangular)::value;
    const SmallRunLayout<kD, kFull> layout(static_cast<int>(args.n_components), warps);
    launch(queue, {(data.n_mixtures + together - 1) / together}, warps * kWarp,
           static_cast<std::size_t>(together * layout.size()) * sizeof(double), fit_many<kD, kFull>,
           args, width);
  });
}

}  // namespace elbokit::cuda
