#include "kernels/gmm_gradient.h"

#include "kernels/gmm_drive.h"
#include "kernels/gmm_rows.h"

namespace elbokit::cuda {

namespace {

constexpr int kTile = kTileFeatures;
constexpr int kThreads = 128;
constexpr int kRowsEach = 4;

template <class T>
struct SlopeArgs {
  GmmPlan plan;
  const double* factors;
  GmmTables<T> tables;
  T *precisions, *shift;  // Lambda: (factors, padded, padded); Lambda (mean - center)
  const double* means;
  GmmChunkRows<T> rows;
  const T* responsibilities;  // times the upstream gradient
  T* gradient;
};

// A block has a component, or with one factor for all a mixture, and makes the matrix Lambda.
template <class T>
__global__ void __launch_bounds__(kThreads) make_precision(SlopeArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t which = std::int64_t{blockIdx.z} * plan.factors() + blockIdx.x;
  const double* const p = args.factors + which * plan.d * plan.d;
  T* const out = args.precisions + which * plan.padded * plan.padded;
  for (std::int64_t e = threadIdx.x; e < plan.padded * plan.padded; e += kThreads) {
    const std::int64_t i = e / plan.padded, j = e % plan.padded;
    double sum = 0;
    if (i < plan.d && j < plan.d)
      for (std::int64_t l = i > j ? i : j; l < plan.d; ++l)
        sum += p[i * plan.d + l] * p[j * plan.d + l];
    out[e] = static_cast<T>(sum);
  }
}

// A block has a component. Lambda in T serves: what rounding left of a mean is small.
template <class T>
__global__ void __launch_bounds__(kThreads) make_shift(SlopeArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t k = blockIdx.x, m = blockIdx.z, component = m * plan.k + k;
  const std::int64_t which = m * plan.factors() + (plan.factors() == 1 ? 0 : k);
  const T* const lambda = args.precisions + which * plan.padded * plan.padded;
  for (std::int64_t j = threadIdx.x; j < plan.padded; j += kThreads) {
    double sum = 0;
    for (std::int64_t i = 0; i < plan.d; ++i)
      sum += static_cast<double>(lambda[i * plan.padded + j]) *
             residual<T>(args.means[component * plan.d + i]);
    args.shift[component * plan.padded + j] = static_cast<T>(sum);
  }
}

template <class T, int kRows>
ELBOKIT_DEVICE void store_slopes(const SlopeArgs<T>& args, std::int64_t m, std::int64_t row0,
                                 std::int64_t j0, int columns, const T (&sum)[kTile][kRows]) {
  const GmmPlan& plan = args.plan;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const std::int64_t row = row0 + WarpRows<T, kRows>::at(i);
    if (row >= args.rows.count) continue;
    T* const out = args.gradient + (m * plan.n + row) * plan.d + j0;
#pragma unroll
    for (int c = 0; c < kTile; ++c)
      if (c < columns && j0 + c < plan.d) out[c] = sum[c][i];
  }
}

// A warp has 8 columns of Lambda, or features, and 128 rows; the rows pass by 8 features at a time.
template <class T, int kRows>
__global__ void __launch_bounds__(kThreads) triangular_slopes(SlopeArgs<T> args) {
  using Rows = WarpRows<T, kRows>;
  const GmmPlan& plan = args.plan;
  const std::int64_t m = blockIdx.z, row0 = std::int64_t{blockIdx.x} * Rows::kBlock;
  const std::int64_t own = std::int64_t{blockIdx.y} * (kThreads / kWarp) + warp_index();
  const std::int64_t j0 = (own < plan.tiles ? own : plan.tiles - 1) * kTile;
  T* const x = shared_memory<T>();
  T sum[kTile][kRows] = {};
  for (std::int64_t b = 0; b < plan.tiles; ++b) {
    block_barrier();
    stage_rows(args.rows.x + m * args.rows.mixture_stride + row0 * args.rows.row_stride,
               args.rows.row_stride, args.rows.count - row0, Rows::kBlock, b * kTile, kTile, plan.d,
               x, Rows::kStride);
    block_barrier();
    for (std::int64_t k = 0; k < plan.k; ++k) {
      const std::int64_t component = m * plan.k + k;
      const std::int64_t which = m * plan.factors() + (plan.factors() == 1 ? 0 : k);
      const T* const lambda =
          args.precisions + (which * plan.padded + b * kTile) * plan.padded + j0;
      const T* const center = args.tables.center + component * plan.padded + b * kTile;
      const T* const r = args.responsibilities + component * plan.ld + row0;
      T weight[kRows];
      for (int i = 0; i < kRows; ++i)
        weight[i] = row0 + Rows::at(i) < args.rows.count ? r[Rows::at(i)] : T(0);
      if (b == 0)
        for (int c = 0; c < kTile; ++c) {
          const T shift = args.shift[component * plan.padded + j0 + c];
          for (int i = 0; i < kRows; ++i) sum[c][i] += weight[i] * shift;
        }
#pragma unroll 2
      for (int j = 0; j < kTile; ++j) {
        T value[kRows];
        Rows::load(x + j * Rows::kStride, value);
        const auto p = *reinterpret_cast<const Pack<T, kTile>*>(lambda + j * plan.padded);
        for (int i = 0; i < kRows; ++i) value[i] = (value[i] - center[j]) * weight[i];
        for (int c = 0; c < kTile; ++c)
          for (int i = 0; i < kRows; ++i) sum[c][i] -= value[i] * p.at[c];
      }
    }
  }
  if (own < plan.tiles) store_slopes<T, kRows>(args, m, row0, j0, kTile, sum);
}

// A warp has four features and 128 rows.
template <class T, int kRows>
__global__ void __launch_bounds__(kThreads) diagonal_slopes(SlopeArgs<T> args) {
  using Rows = WarpRows<T, kRows>;
  constexpr int width = 4;
  // P is scaled by sqrt(log2(e) / 2).
  constexpr T unscaled = static_cast<T>(2 * kLn2);
  const GmmPlan& plan = args.plan;
  const std::int64_t m = blockIdx.z, row0 = std::int64_t{blockIdx.x} * Rows::kBlock;
  const std::int64_t j0 = width * (std::int64_t{blockIdx.y} * (kThreads / kWarp) + warp_index());
  if (j0 >= plan.d) return;
  T x[width][kRows], sum[kTile][kRows] = {};
  for (int i = 0; i < kRows; ++i) {
    const std::int64_t row = row0 + Rows::at(i);
    const T* const from =
        args.rows.x + m * args.rows.mixture_stride + row * args.rows.row_stride + j0;
    for (int c = 0; c < width; ++c)
      x[c][i] = row < args.rows.count && j0 + c < plan.d ? from[c] : T(0);
  }
  for (std::int64_t k = 0; k < plan.k; ++k) {
    const T* const r = args.responsibilities + (m * plan.k + k) * plan.ld + row0;
    T weight[kRows];
    for (int i = 0; i < kRows; ++i)
      weight[i] = row0 + Rows::at(i) < args.rows.count ? r[Rows::at(i)] : T(0);
    for (int c = 0; c < width; ++c) {
      if (j0 + c >= plan.d) continue;
      const T* const entry = args.tables.table + (m * plan.d + j0 + c) * 3 * plan.k + k;
      const T center = entry[0], precision = entry[plan.k], bias = entry[2 * plan.k];
      const T factor = -unscaled * precision;
      for (int i = 0; i < kRows; ++i)
        sum[c][i] += weight[i] * (factor * math::whiten(x[c][i], center, precision, bias));
    }
  }
  store_slopes<T, kRows>(args, m, row0, j0, width, sum);
}

std::int64_t parts(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

template <class T>
struct SlopeSpace {
  GmmSpace<T> common;
  T *precisions, *shift;
};

template <class T>
SlopeSpace<T> slope_space(const GmmPlan& plan, const Device& device, Workspace& workspace) {
  SlopeSpace<T> space{gmm_space<T>(plan, device, workspace, false), nullptr, nullptr};
  const std::int64_t all = plan.triangular ? plan.mixtures * plan.factors() : 0;
  space.precisions = workspace.take<T>(all * plan.padded * plan.padded);
  space.shift = workspace.take<T>(plan.triangular ? plan.mixtures * plan.k * plan.padded : 0);
  return space;
}

}  // namespace

std::size_t gmm_row_gradient_workspace(const GmmData& data, const GmmMixtures& mixtures, bool wide,
                                       const Device& device) {
  const GmmPlan plan = gmm_plan(data, mixtures, wide, device, true);
  Workspace counted;
  if (wide)
    slope_space<double>(plan, device, counted);
  else
    slope_space<float>(plan, device, counted);
  return counted.used();
}

template <class T>
void gmm_row_gradient(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                      T* gradient) {
  const Device& device = device_of(queue);
  expect_workspace(queue, gmm_row_gradient_workspace(data, mixtures, sizeof(T) == 8, device));
  const DeviceGuard guard(queue);
  const GmmPlan plan = gmm_plan(data, mixtures, sizeof(T) == 8, device, true);
  Workspace workspace(queue);
  const auto all = slope_space<T>(plan, device, workspace);
  const GmmSpace<T>& space = all.common;
  SlopeArgs<T> args{};
  args.tables = space.tables;
  args.precisions = all.precisions, args.shift = all.shift;
  args.responsibilities = space.logits;
  for_each_chunk(
      queue, plan, data, mixtures, space,
      [&](const GmmPlan& part, const GmmMixtures& here) {
        args.plan = part;
        args.factors = here.precisions_cholesky, args.means = here.means;
        if (!part.triangular) return;
        const int batch = static_cast<int>(part.mixtures);
        launch(queue, {part.factors(), 1, batch}, kThreads, 0, make_precision<T>, args);
        launch(queue, {part.k, 1, batch}, kThreads, 0, make_shift<T>, args);
      },
      [&](const GmmPlan& part, std::int64_t m, std::int64_t begin, const GmmChunkRows<T>& rows) {
        GmmChunkOutputs<T> out{};
        out.sample_weight = data.sample_weight + m * part.n + begin;
        out.stride = part.n;
        out.keep = true;
        make_responsibilities(queue, part, space.tables, rows.count, space.logits, out);
        args.rows = rows;
        args.gradient = gradient + (m * part.n + begin) * part.d;
        using Rows = WarpRows<T, kRowsEach>;
        const std::int64_t warps = part.triangular ? part.tiles : parts(part.d, 4);
        const Grid grid{parts(rows.count, Rows::kBlock),
                        static_cast<int>(parts(warps, kThreads / kWarp)),
                        static_cast<int>(part.mixtures)};
        if (part.triangular)
          launch(queue, grid, kThreads, sizeof(T) * kTile * Rows::kStride,
                 triangular_slopes<T, kRowsEach>, args);
        else
          launch(queue, grid, kThreads, 0, diagonal_slopes<T, kRowsEach>, args);
      },
      [](const GmmPlan&, std::int64_t) {});
}

#define ELBOKIT_INSTANTIATE(T) \
  template void gmm_row_gradient(const Queue&, const GmmData&, const GmmMixtures&, T*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
