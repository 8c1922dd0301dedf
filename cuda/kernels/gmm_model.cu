// The tables that the kernels read, made of the parameters in double.
#include <cmath>

#include "kernels/gmm_full.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 128;

template <class T>
struct PackArgs {
  GmmPlan plan;
  GmmMixtures mixtures;
  GmmTables<T> tables;
};

ELBOKIT_DEVICE double diagonal_entry(const GmmPlan& plan, const double* factor, std::int64_t j) {
  switch (plan.covariance) {
    case Covariance::diag:
      return factor[j];
    case Covariance::spherical:
      return factor[0];
    default:
      return factor[j * plan.d + j];
  }
}

template <class T>
ELBOKIT_DEVICE void pack_triangle(const GmmPlan& plan, const double* factor, T* out) {
  for (std::int64_t e = threadIdx.x; e < plan.padded * plan.padded; e += kThreads) {
    const std::int64_t j = e / plan.padded, i = e % plan.padded;
    if (j / kTileFeatures > i / kTileFeatures) continue;
    const bool there = j <= i && i < plan.d;
    out[packed_index(j, i)] = there ? static_cast<T>(kScale * factor[j * plan.d + i]) : T(0);
  }
}

template <class T>
ELBOKIT_DEVICE void pack_bias(const GmmPlan& plan, const double* factor, const double* mean,
                              T* out) {
  for (std::int64_t i = threadIdx.x; i < plan.padded; i += kThreads) {
    double bias = 0;
    if (sizeof(T) == 4 && i < plan.d)  // in double nothing was rounded
      for (std::int64_t j = 0; j <= i; ++j) bias += factor[j * plan.d + i] * residual<T>(mean[j]);
    out[i] = static_cast<T>(kScale * bias);
  }
}

// A block has a component.
template <class T>
__global__ void __launch_bounds__(kThreads) pack_component(PackArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const GmmTables<T>& tables = args.tables;
  const std::int64_t k = blockIdx.x, m = blockIdx.z, component = m * plan.k + k;
  const double* const mean = args.mixtures.means + component * plan.d;
  const std::int64_t factor_size = plan.triangular                       ? plan.d * plan.d
                                   : plan.covariance == Covariance::diag ? plan.d
                                                                         : 1;
  const std::int64_t which = m * plan.factors() + (plan.factors() == 1 ? 0 : k);
  const double* const factor = args.mixtures.precisions_cholesky + which * factor_size;
  double log_det = 0;
  for (std::int64_t j = threadIdx.x; j < plan.padded; j += kThreads) {
    tables.center[component * plan.padded + j] = j < plan.d ? static_cast<T>(mean[j]) : T(0);
    if (j >= plan.d) continue;
    const double precision = diagonal_entry(plan, factor, j);
    log_det += ::log(precision);
    if (plan.triangular) continue;
    T* const out = tables.table + (m * plan.d + j) * 3 * plan.k + k;
    out[0] = static_cast<T>(mean[j]);
    out[plan.k] = static_cast<T>(kScale * precision);
    out[2 * plan.k] = static_cast<T>(kScale * precision * residual<T>(mean[j]));
  }
  log_det = block_sum<kThreads>(log_det, shared_memory<double>());
  if (threadIdx.x == 0)
    tables.exact[component] = ::log(args.mixtures.weights[component]) + log_det -
                              0.5 * static_cast<double>(plan.d) * kLog2Pi;
  if (!plan.triangular) return;
  pack_bias(plan, factor, mean, tables.bias + component * plan.padded);
  if (plan.factors() > 1 || k == 0)
    pack_triangle(plan, factor, tables.factor + which * plan.factor_size());
}

// A block has a mixture. The largest constant is taken out in double: rounding it to T would bias
// every log-probability.
template <class T>
__global__ void __launch_bounds__(kThreads) set_log_constants(PackArgs<T> args) {
  auto* const scratch = shared_memory<double>();
  const GmmPlan& plan = args.plan;
  const std::int64_t m = blockIdx.z;
  const double* const exact = args.tables.exact + m * plan.k;
  constexpr double none = -__builtin_huge_val();
  double largest = none;
  for (std::int64_t k = threadIdx.x; k < plan.k; k += kThreads)
    largest = exact[k] > largest ? exact[k] : largest;
  largest = warp_max(largest);
  if (lane_index() == 0) scratch[warp_index()] = largest;
  block_barrier();
  for (int i = 0; i < kThreads / kWarp; ++i) largest = scratch[i] > largest ? scratch[i] : largest;
  const double base = largest == none ? 0 : largest;
  for (std::int64_t k = threadIdx.x; k < plan.k; k += kThreads)
    args.tables.log_const[m * plan.k + k] = static_cast<T>((exact[k] - base) * kLog2E);
  if (threadIdx.x == 0)
    args.tables.log_base[m] = base - kExpectedSquare * static_cast<double>(plan.d) * kLn2;
}

}  // namespace

template <class T>
void make_tables(const Queue& queue, const GmmPlan& plan, const GmmMixtures& mixtures,
                 const GmmTables<T>& tables) {
  const PackArgs<T> args{plan, mixtures, tables};
  constexpr std::size_t shared = sizeof(double) * kThreads / kWarp;
  const int batch = static_cast<int>(plan.mixtures);
  launch(queue, {plan.k, 1, batch}, kThreads, shared, pack_component<T>, args);
  launch(queue, {1, 1, batch}, kThreads, shared, set_log_constants<T>, args);
  if constexpr (sizeof(T) == 4)
    if (plan.units) place_fragments(queue, plan, tables);
}

template void make_tables(const Queue&, const GmmPlan&, const GmmMixtures&,
                          const GmmTables<float>&);
template void make_tables(const Queue&, const GmmPlan&, const GmmMixtures&,
                          const GmmTables<double>&);

}  // namespace elbokit::cuda
