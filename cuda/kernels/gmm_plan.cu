// How a pass is cut, and what it needs to work in.
#include <algorithm>

#include "kernels/gmm_drive.h"
#include "kernels/gmm_full.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 256;

// Bytes of the sums of all ranges.
constexpr std::int64_t kSumsBytes = 32 << 20;
constexpr std::int64_t kRowUnit = 256;  // rows of a chunk come in whole blocks of them
constexpr std::int64_t kMostRanges = 256;

std::int64_t parts(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

struct WidenArgs {
  const void* x;
  Element element;
  std::ptrdiff_t mixture_stride, row_stride;
  std::int64_t rows, d, chunk;
  void* out;  // (mixtures, chunk, d)
};

// A warp has a row.
template <class T>
__global__ void __launch_bounds__(kThreads) widen_rows(WidenArgs args) {
  const std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / kWarp) + warp_index();
  const std::int64_t m = blockIdx.z;
  if (row >= args.rows) return;
  const Reader<T> read{{args.x, args.element, args.row_stride, 1}, T(1)};
  T* const out = static_cast<T*>(args.out) + (m * args.chunk + row) * args.d;
  const std::int64_t skipped = m * args.mixture_stride;
  for (std::int64_t j = lane_index(); j < args.d; j += kWarp) out[j] = read(row, skipped + j);
}

}  // namespace

std::size_t& gmm_chunk_bytes() {
  static std::size_t bytes = std::size_t{24} << 20;
  return bytes;
}

GmmPlan gmm_plan(const GmmData& data, const GmmMixtures& mixtures, bool wide, const Device& device,
                 bool sums) {
  GmmPlan plan{};
  plan.covariance = mixtures.covariance;
  plan.n = data.n_samples, plan.k = mixtures.n_components, plan.d = data.n_features;
  plan.triangular = plan.covariance == Covariance::full || plan.covariance == Covariance::tied;
  plan.tiles = parts(plan.d, kTileFeatures);
  plan.padded = plan.tiles * kTileFeatures;
  plan.widens = data.element != (wide ? Element::kFloat64 : Element::kFloat32);
  plan.units = full_suits_units(plan, wide, device);
  const std::int64_t item = wide ? 8 : 4;
  const std::int64_t row = item * std::max(plan.k, plan.widens ? plan.d : 0);
  const std::int64_t room = static_cast<std::int64_t>(gmm_chunk_bytes()) / row;
  plan.chunk =
      std::min(std::max(room / kRowUnit, std::int64_t{1}), parts(plan.n, kRowUnit)) * kRowUnit;
  plan.ld = plan.chunk;
  plan.row_blocks = parts(plan.chunk, kWarp);
  const std::int64_t each = sizeof(double) * (plan.moments_size() + plan.scatter_size());
  plan.mixtures = std::max(room / plan.chunk, std::int64_t{1});
  if (sums) plan.mixtures = std::min(plan.mixtures, std::max(kSumsBytes / each, std::int64_t{1}));
  plan.mixtures = std::min({plan.mixtures, data.n_mixtures, kMostMixtures});
  // Enough blocks for the device, if there are rows for them; `blocks` have a range each.
  const auto ranges = [&](std::int64_t blocks, std::int64_t size) {
    const std::int64_t wanted = 4 * device.multiprocessors / (blocks * plan.mixtures);
    const std::int64_t held =
        kSumsBytes / (static_cast<std::int64_t>(sizeof(double)) * size * plan.mixtures);
    return std::max(std::min({wanted, held, parts(plan.chunk, kRowUnit), kMostRanges}),
                    std::int64_t{1});
  };
  plan.moment_ranges = ranges(plan.component_tiles() * plan.feature_tiles(), plan.moments_size());
  if (plan.triangular)
    plan.scatter_ranges = ranges(plan.k * plan.scatter_splits(), plan.scatter_size());
  return plan;
}

template <class T>
GmmSpace<T> gmm_space(const GmmPlan& plan, const Device& device, Workspace& workspace, bool sums) {
  const std::int64_t m = plan.mixtures, components = m * plan.k;
  GmmSpace<T> space{};
  GmmTables<T>& tables = space.tables;
  tables.center = workspace.take<T>(components * plan.padded);
  tables.factor = workspace.take<T>(plan.triangular ? m * plan.factors() * plan.factor_size() : 0);
  tables.bias = workspace.take<T>(plan.triangular ? components * plan.padded : 0);
  tables.fragments = workspace.take<Fragment>(plan.units ? m * full_fragments(plan) : 0);
  tables.table = workspace.take<T>(plan.triangular ? 0 : components * 3 * plan.d);
  tables.log_const = workspace.take<T>(components);
  tables.log_base = workspace.take<double>(m);
  tables.exact = workspace.take<double>(components);
  space.logits = workspace.take<T>(components * plan.ld);
  space.wide = workspace.take<T>(plan.widens ? m * plan.chunk * plan.d : 0);
  space.scratch = workspace.take<T>(logits_scratch<T>(plan, device));
  if (!sums) return space;
  space.partials.moments = workspace.take<double>(m * plan.moment_ranges * plan.moments_size());
  space.partials.scatter = workspace.take<double>(m * plan.scatter_ranges * plan.scatter_size());
  space.partials.log_likelihood = workspace.take<double>(m * plan.row_blocks);
  space.first = workspace.take<double>(components * plan.d);
  return space;
}

template <class T>
GmmChunkRows<T> chunk_rows(const Queue& queue, const GmmPlan& plan, const GmmData& data,
                           std::int64_t mixture, std::int64_t begin, std::int64_t count, T* wide) {
  const std::ptrdiff_t skipped = mixture * data.mixture_stride + begin * data.row_stride;
  const void* const x = static_cast<const std::byte*>(data.x) + skipped * size_of(data.element);
  if (!plan.widens) return {static_cast<const T*>(x), data.mixture_stride, data.row_stride, count};
  const WidenArgs args{x,     data.element, data.mixture_stride, data.row_stride,
                       count, plan.d,       plan.chunk,          wide};
  launch(queue, {parts(count, kThreads / kWarp), 1, static_cast<int>(plan.mixtures)}, kThreads, 0,
         widen_rows<T>, args);
  return {wide, plan.chunk * plan.d, plan.d, count};
}

GmmMixtures mixtures_from(const GmmMixtures& all, std::int64_t n_features, std::int64_t m) {
  const std::int64_t k = all.n_components;
  return {all.covariance, k, all.weights + m * k, all.means + m * k * n_features,
          all.precisions_cholesky + m * covariance_size(all.covariance, k, n_features)};
}

#define ELBOKIT_INSTANTIATE(T)                                                                    \
  template GmmSpace<T> gmm_space(const GmmPlan&, const Device&, Workspace&, bool);                \
  template GmmChunkRows<T> chunk_rows(const Queue&, const GmmPlan&, const GmmData&, std::int64_t, \
                                      std::int64_t, std::int64_t, T*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
