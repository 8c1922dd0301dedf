#include "kernels/gmm_small.h"

#include "kernels/gmm_small_pass.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;

// Blocks that a multiprocessor holds, and one launch has for each: what registers allow.
template <class T, int D>
constexpr int kResident = sizeof(T) == 4 && D < 4 ? 4 : 3;
constexpr int kMostResident = kResident<float, 1>;

// A merge's threads, at most: a warp has a component at a time.
constexpr std::int64_t kMergeThreads = 256;

template <class F>
auto with_shape_of(const GmmData& data, const GmmMixtures& mixtures, F&& f) {
  return with_shape(data.n_features, is_triangular(mixtures.covariance, data.n_features), f);
}

// Blocks that share the rows of one mixture.
std::int64_t blocks_each(const GmmData& data, const Device& device, int resident) {
  const std::int64_t room = std::int64_t{device.multiprocessors} * resident / data.n_mixtures;
  const std::int64_t work = (data.n_samples + kThreads - 1) / kThreads;
  const std::int64_t blocks = room < work ? room : work;
  return blocks < 1 ? 1 : blocks;
}

// The sums of one block: (n_components, kSums), and the log-likelihood.
template <class Gmm>
ELBOKIT_INLINE std::int64_t partial_size(std::int64_t n_components) {
  return n_components * Gmm::kSums + 1;
}

template <class T, int D, bool kFull>
struct SmallArgs {
  GmmData data;
  GmmMixtures mixtures;
  std::int64_t blocks;  // of each mixture
  int team;
  std::int64_t precisions_size, mixture_bytes;  // between mixtures
  double* partial;                              // (n_mixtures, blocks, partial_size)

  int padded() const { return team * SmallGmm<T, D, kFull>::kEach; }
  std::size_t shared_bytes() const {
    using Gmm = SmallGmm<T, D, kFull>;
    return padded() *
           (kWarps * Gmm::kSums * sizeof(double) + sizeof(double) + Gmm::kParameters * sizeof(T));
  }
};

template <class T, int D, bool kFull>
__global__ void __launch_bounds__(kThreads, kResident<T, D>)
    small_statistics(SmallArgs<T, D, kFull> args) {
  using Gmm = SmallGmm<T, D, kFull>;
  const GmmData& data = args.data;
  const GmmMixtures& mixtures = args.mixtures;
  const std::int64_t mixture = blockIdx.x / args.blocks, block = blockIdx.x % args.blocks;
  const int n_components = static_cast<int>(mixtures.n_components);
  const int padded = args.team * Gmm::kEach, size = padded * Gmm::kSums;
  const int thread = static_cast<int>(threadIdx.x);
  auto* const sums = shared_memory<double>();  // (kWarps, padded, kSums)
  double* const log_const = sums + kWarps * size;
  T* const model = reinterpret_cast<T*>(log_const + padded);

  const double* const precisions = mixtures.precisions_cholesky + mixture * args.precisions_size;
  for (int k = thread; k < n_components; k += kThreads) {
    const std::int64_t at = mixture * n_components + k;
    double factor[Gmm::kFactor];
    load_packed<D, kFull>(mixtures.covariance, precisions + small_offset<D>(mixtures.covariance, k),
                          factor);
    log_const[k] = pack_component<T, D, kFull>(mixtures.weights[at], mixtures.means + at * D,
                                               factor, model + k * Gmm::kParameters);
  }
  for (int i = thread; i < kWarps * size; i += kThreads) sums[i] = 0;
  const double log_base =
      finish_model<T, Gmm::kParameters>(log_const, n_components, padded, thread, kThreads, model);

  const SmallRows rows{static_cast<const char*>(data.x) + mixture * args.mixture_bytes,
                       data.element, data.row_stride,
                       data.sample_weight ? data.sample_weight + mixture * data.n_samples : nullptr,
                       data.n_samples};
  SmallPass<T, D, kFull> pass(model, log_base, args.team, MixtureLanes{});
  double log_likelihood = pass.run(rows, block * kWarps + warp_index(), args.blocks * kWarps,
                                   sums + warp_index() * size);
  log_likelihood = warp_sum(log_likelihood);
  block_barrier();
  double* const out = args.partial + blockIdx.x * partial_size<Gmm>(n_components);
  for (int i = thread; i < n_components * Gmm::kSums; i += kThreads) {
    double sum = sums[i];
    for (int warp = 1; warp < kWarps; ++warp) sum += sums[warp * size + i];
    out[i] = sum;
  }
  block_barrier();
  if (lane_index() == 0) sums[warp_index()] = log_likelihood;
  block_barrier();
  if (thread != 0) return;
  for (int warp = 1; warp < kWarps; ++warp) log_likelihood += sums[warp];
  out[n_components * Gmm::kSums] = log_likelihood;
}

// Adds up the blocks of a mixture, about the means.
template <class T, int D, bool kFull>
__global__ void __launch_bounds__(kMergeThreads)
    merge(SmallArgs<T, D, kFull> args, GmmStatistics statistics) {
  using Gmm = SmallGmm<T, D, kFull>;
  const std::int64_t mixture = blockIdx.x, size = partial_size<Gmm>(args.mixtures.n_components);
  const int n_components = static_cast<int>(args.mixtures.n_components);
  const Covariance covariance = args.mixtures.covariance;
  const double* const partial = args.partial + mixture * args.blocks * size;
  auto* const seconds = shared_memory<double>();  // tied: (n_components, kFactor)
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const auto total = [&](std::int64_t at) {
    double sum = 0;
    for (std::int64_t block = lane_index(); block < args.blocks; block += kWarp)
      sum += partial[block * size + at];
    return warp_sum(sum);
  };

  for (int k = warp_index(); k < n_components; k += warps) {
    SmallMoments<D, kFull> moments;
    const int at = k * Gmm::kSums;
    moments.count = total(at);
#pragma unroll
    for (int i = 0; i < D; ++i) moments.first[i] = total(at + 1 + i);
#pragma unroll
    for (int i = 0; i < Gmm::kFactor; ++i) moments.second[i] = total(at + 1 + D + i);
    const std::int64_t component = mixture * n_components + k;
    moments.recentre(args.mixtures.means + component * D, sizeof(T) == 4);
    if (lane_index() != 0) continue;
    statistics.counts[component] = moments.count;
#pragma unroll
    for (int i = 0; i < D; ++i) statistics.first[component * D + i] = moments.first[i];
    if (covariance == Covariance::tied) {
#pragma unroll
      for (int i = 0; i < Gmm::kFactor; ++i) seconds[k * Gmm::kFactor + i] = moments.second[i];
    } else {
      store_packed<D, kFull>(
          covariance, moments.second,
          statistics.second + mixture * args.precisions_size + small_offset<D>(covariance, k));
    }
  }
  if (warp_index() == 0) {
    const double log_likelihood = total(size - 1);
    if (lane_index() == 0) statistics.log_likelihood[mixture] = log_likelihood;
  }
  if (covariance != Covariance::tied) return;
  block_barrier();
  if (threadIdx.x != 0) return;
  double second[Gmm::kFactor] = {};
  for (int k = 0; k < n_components; ++k)
#pragma unroll
    for (int i = 0; i < Gmm::kFactor; ++i) second[i] += seconds[k * Gmm::kFactor + i];
  store_packed<D, kFull>(covariance, second, statistics.second + mixture * args.precisions_size);
}

}  // namespace

bool gmm_is_small(const GmmData& data, const GmmMixtures& mixtures, bool wide, const Device&) {
  if (data.n_features > kSmallFeatures || data.n_mixtures < 1 || data.n_samples < 1) return false;
  return with_shape_of(data, mixtures, [&](auto d, auto full) {
    constexpr int kD = decltype(d)::value;
    constexpr bool kFull = decltype(full)::value;
    return mixtures.n_components <=
           (wide ? SmallGmm<double, kD, kFull>::kMost : SmallGmm<float, kD, kFull>::kMost);
  });
}

std::size_t gmm_small_workspace(const GmmData& data, const GmmMixtures& mixtures, bool,
                                const Device& device) {
  return with_shape_of(data, mixtures, [&](auto d, auto full) {
    using Gmm = SmallGmm<double, decltype(d)::value, decltype(full)::value>;
    Workspace counted;
    counted.take<double>(data.n_mixtures * blocks_each(data, device, kMostResident) *
                         partial_size<Gmm>(mixtures.n_components));
    return counted.used();
  });
}

template <class T>
void gmm_small_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                          const GmmStatistics& statistics) {
  const Device& device = device_of(queue);
  expect_workspace(queue, gmm_small_workspace(data, mixtures, sizeof(T) == 8, device));
  const DeviceGuard guard(queue);
  with_shape_of(data, mixtures, [&](auto d, auto full) {
    constexpr int kD = decltype(d)::value;
    constexpr bool kFull = decltype(full)::value;
    using Gmm = SmallGmm<T, kD, kFull>;
    const std::int64_t k = mixtures.n_components;
    const std::int64_t blocks = blocks_each(data, device, kResident<T, kD>);
    const SmallArgs<T, kD, kFull> args{
        data,
        mixtures,
        blocks,
        small_team(k, Gmm::kEach),
        covariance_size(mixtures.covariance, k, kD),
        data.mixture_stride * size_of(data.element),
        Workspace(queue).take<double>(data.n_mixtures * blocks * partial_size<Gmm>(k))};
    launch(queue, {data.n_mixtures * args.blocks}, kThreads, args.shared_bytes(),
           small_statistics<T, kD, kFull>, args);
    const std::int64_t threads = k * kWarp < kMergeThreads ? k * kWarp : kMergeThreads;
    launch(queue, {data.n_mixtures}, static_cast<int>(threads),
           static_cast<std::size_t>(k * Gmm::kFactor) * sizeof(double), merge<T, kD, kFull>, args,
           statistics);
  });
}

#define ELBOKIT_INSTANTIATE(T)                                                            \
  template void gmm_small_statistics<T>(const Queue&, const GmmData&, const GmmMixtures&, \
                                        const GmmStatistics&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
