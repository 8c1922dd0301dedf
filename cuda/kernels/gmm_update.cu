#include "kernels/gmm_update.h"

#include "kernels/gmm_update_owner.h"

namespace elbokit::cuda {

namespace {

using namespace m_step;

// Full and tied. The moments about the new means, regularised: to next, and their lower triangle to
// `lower` with rows of `stride`.
ELBOKIT_DEVICE void set_covariance(const GmmUpdateArgs& args, const Owner& owner,
                                   const double* shifts, double* lower, std::int64_t stride,
                                   Found& found) {
  const std::int64_t d = args.n_features, begin = blockIdx.x * owner.size;
  const bool tied = args.covariance == Covariance::tied;
  const double* const shift = shifts + owner.first * d;
  const double* const mean = args.next.means + owner.first * d;
  for (std::int64_t i = warp_index(); i < d; i += kWarps)
    for (std::int64_t j = lane_index(); j < d; j += kWarp) {
      const double second = args.statistics.second[begin + i * d + j];
      found.finite = found.finite && is_finite(second);
      double value;
      if (tied) {
        double between = 0;
        for (std::int64_t k = 0; k < owner.number; ++k)
          between += count_of(args, owner.threshold, owner.first + k) * shift[k * d + i] *
                     shift[k * d + j];
        value = (second - between) / owner.count;
      } else {
        value = second / owner.count - shift[i] * shift[j];
      }
      if (i == j) {
        double rounding = 0;
        for (std::int64_t k = 0; k < owner.number; ++k) {
          const double each = math::variance_of_rounding(mean[k * d + i]);
          rounding = each > rounding ? each : rounding;
        }
        value = math::regularised(value, rounding, args.reg_covar[i]);
      }
      args.next.covariances[begin + i * d + j] = value;
      if (j <= i) lower[i * stride + j] = value;
    }
}

// Turns a symmetric matrix, of which it reads the lower triangle, into the inverse of its Cholesky
// factor. Column by column: the rank-one update that eliminates a column from the rows below does
// the same to the identity, whose part that is not zero takes the place of the columns that are
// done. row: d numbers. Returns false, in all threads, if a pivot is not positive.
ELBOKIT_DEVICE bool invert_cholesky(std::int64_t d, double* a, std::int64_t stride, double* row) {
  for (std::int64_t j = 0; j < d; ++j) {
    const double pivot = a[j * stride + j];
    if (!math::is_positive(pivot)) return false;
    const double inverse = 1.0 / std::sqrt(pivot);
    for (std::int64_t k = threadIdx.x; k < d; k += kThreads)
      row[k] = k == j ? inverse : inverse * (k < j ? a[j * stride + k] : a[k * stride + j]);
    block_barrier();
    for (std::int64_t i = j + warp_index(); i < d; i += kWarps) {
      double* const own = a + i * stride;
      const double factor = row[i];
      for (std::int64_t k = lane_index(); k <= i; k += kWarp) {
        const double before = k == j ? 0.0 : own[k];
        if (i > j)
          own[k] = before - factor * row[k];
        else
          own[k] = row[k];
      }
    }
    block_barrier();
  }
  return true;
}

// A thread's share of tr(P P^T S) for an upper triangular P.
ELBOKIT_DEVICE double squares(std::int64_t d, const double* factor, const double* second) {
  double sum = 0;
  for (std::int64_t i = warp_index(); i < d; i += kWarps)
    for (std::int64_t j = i + lane_index(); j < d; j += kWarp) {
      double product = 0;
      for (std::int64_t m = 0; m <= j; ++m) product += second[i * d + m] * factor[m * d + j];
      sum += factor[i * d + j] * product;
    }
  return sum;
}

__global__ void __launch_bounds__(kThreads, 2)
    matrix_kernel(GmmUpdateArgs args, bool in_shared, double* shifts, Part* parts) {
  auto* const scratch = shared_memory<double>();
  double* const row = scratch + kWarps;
  const std::int64_t d = args.n_features;
  const Owner owner = owner_of_block(args, d * d, scratch);
  const std::int64_t begin = blockIdx.x * owner.size;
  Found found;
  move(args, owner, shifts, found);
  const double* const before = args.previous.precisions_cholesky + begin;
  const double* const second = args.statistics.second + begin;
  found.gain += 0.5 * squares(d, before, second);
  block_barrier();
  double* const factor = args.next.precisions_cholesky + begin;
  if (owner.count == 0.0) {
    for (std::int64_t i = threadIdx.x; i < d * d; i += kThreads)
      found.finite = found.finite && is_finite(second[i]);
    keep(args, begin, owner.size, found);
  } else {
    // An odd stride spreads a column over the banks.
    double* const a = in_shared ? row + d : factor;
    const std::int64_t stride = in_shared ? d | 1 : d;
    set_covariance(args, owner, shifts, a, stride, found);
    block_barrier();
    found.singular = !invert_cholesky(d, a, stride, row);
    double log_ratio = 0, added = 0;
    for (std::int64_t i = warp_index(); i < d; i += kWarps)
      for (std::int64_t j = i + lane_index(); j < d; j += kWarp) {
        const double value = a[j * stride + i];
        factor[i * d + j] = value;
        if (i != j) factor[j * d + i] = 0.0;
        added += args.reg_covar[i] * value * value;
        found.beyond_float = found.beyond_float || is_beyond_float(value);
        if (i != j) continue;
        log_ratio += std::log(value) - std::log(before[i * d + i]);
        found.coarse = found.coarse || math::below_float_resolution(value, second[i * d + i],
                                                                    owner.count, owner.pooled);
      }
    found.gain += owner.count * (log_ratio + 0.5 * added);
    if (threadIdx.x == 0) found.gain -= 0.5 * owner.count * static_cast<double>(d);
  }
  store(owner, found, scratch, parts);
}

// Diagonal and spherical.
__global__ void __launch_bounds__(kThreads, 2)
    diagonal_kernel(GmmUpdateArgs args, double* shifts, Part* parts) {
  auto* const scratch = shared_memory<double>();
  const std::int64_t d = args.n_features;
  const bool spherical = args.covariance == Covariance::spherical;
  const std::int64_t each = spherical ? 1 : d;
  const double averaged = static_cast<double>(spherical ? d : 1);  // features of a variance
  const Owner owner = owner_of_block(args, each, scratch);
  const std::int64_t begin = blockIdx.x * each;
  Found found;
  move(args, owner, shifts, found);
  block_barrier();
  const double* const shift = shifts + owner.first * d;
  const double* const mean = args.next.means + owner.first * d;
  double shifted = 0, rounding = 0;
  if (spherical) {
    for (std::int64_t i = threadIdx.x; i < d; i += kThreads) {
      shifted += shift[i] * shift[i];
      rounding += math::variance_of_rounding(mean[i]);
    }
    shifted = block_sum<kThreads>(shifted, scratch);
    rounding = block_sum<kThreads>(rounding, scratch) / averaged;
  }
  for (std::int64_t i = threadIdx.x; i < each; i += kThreads) {
    const double second = args.statistics.second[begin + i];
    const double before = args.previous.precisions_cholesky[begin + i];
    found.finite = found.finite && is_finite(second);
    found.gain += 0.5 * before * before * second;
    if (owner.count == 0.0) continue;
    if (!spherical) {
      shifted = shift[i] * shift[i];
      rounding = math::variance_of_rounding(mean[i]);
    }
    const double variance =
        math::regularised((second / owner.count - shifted) / averaged, rounding, args.reg_covar[i]);
    found.singular = found.singular || !math::is_positive(variance);
    const double precision = 1.0 / std::sqrt(variance);
    args.next.covariances[begin + i] = variance;
    args.next.precisions_cholesky[begin + i] = precision;
    const double added = args.reg_covar[i] * precision * precision;
    found.gain +=
        owner.count * averaged * (std::log(precision) - std::log(before) - 0.5 * (1.0 - added));
    found.beyond_float = found.beyond_float || is_beyond_float(precision);
    found.coarse = found.coarse || math::below_float_resolution(precision, second / averaged,
                                                                owner.count, owner.pooled);
  }
  if (owner.count == 0.0) keep(args, begin, each, found);
  store(owner, found, scratch, parts);
}

// A block has a mixture.
__global__ void __launch_bounds__(kThreads, 2)
    finish_kernel(GmmUpdateArgs args, std::int64_t owners, std::int64_t size, const Part* all) {
  auto* const scratch = shared_memory<double>();
  auto* const counter = reinterpret_cast<long long*>(scratch);
  const std::int64_t mixture = blockIdx.x;
  const Part* const parts = all + mixture * owners;
  double sum = 0;
  long long overflow = 0, coarse = 0, beyond_float = 0, singular = 0;
  for (std::int64_t o = threadIdx.x; o < owners; o += kThreads) {
    sum += parts[o].gain;
    overflow += parts[o].overflow;
    coarse += parts[o].coarse;
    beyond_float += parts[o].beyond_float;
    singular += parts[o].singular;
  }
  sum = block_sum<kThreads>(sum, scratch);
  overflow = block_sum<kThreads>(overflow, counter);
  coarse = block_sum<kThreads>(coarse, counter);
  beyond_float = block_sum<kThreads>(beyond_float, counter);
  singular = block_sum<kThreads>(singular, counter);
  GmmFitStatus status = GmmFitStatus::ok;
  if (overflow > 0)
    status = GmmFitStatus::overflow;
  else if (!(parts[0].mass > 0.0))
    status = GmmFitStatus::no_component;
  else if (singular > 0)
    status = GmmFitStatus::singular_covariance;
  const bool ok = status == GmmFitStatus::ok;
  if (threadIdx.x == 0) {
    std::int64_t component = -1;
    if (status == GmmFitStatus::singular_covariance && args.covariance != Covariance::tied)
      for (component = 0; !parts[component].singular;) ++component;
    args.outcomes[mixture] = {args.statistics.log_likelihood[mixture],
                              ok ? sum : 0.0,
                              static_cast<std::int64_t>(status),
                              component,
                              ok && coarse > 0,
                              ok && beyond_float > 0};
  }
  if (ok) return;
  const auto restore = [&](const double* from, double* to, std::int64_t n) {
    for (std::int64_t i = mixture * n + threadIdx.x; i < (mixture + 1) * n; i += kThreads)
      to[i] = from[i];
  };
  restore(args.previous.weights, args.next.weights, args.n_components);
  restore(args.previous.means, args.next.means, args.n_components * args.n_features);
  restore(args.previous.covariances, args.next.covariances, size);
  restore(args.previous.precisions_cholesky, args.next.precisions_cholesky, size);
}

struct Memory {
  double* shifts;
  Part* parts;

  Memory(const GmmUpdateArgs& args, Workspace& workspace)
      : shifts(workspace.take<double>(args.n_mixtures * args.n_components * args.n_features)),
        parts(workspace.take<Part>(args.n_mixtures * owners_of(args))) {}
};

}  // namespace

std::size_t gmm_update_workspace(const GmmUpdateArgs& args) {
  Workspace counted;
  const Memory memory(args, counted);
  static_cast<void>(memory);
  return counted.used();
}

void gmm_update(const Queue& queue, const GmmUpdateArgs& args) {
  expect_workspace(queue, gmm_update_workspace(args));
  const DeviceGuard guard(queue);
  Workspace workspace(queue);
  const Memory memory(args, workspace);
  const std::int64_t owners = owners_of(args), d = args.n_features;
  const Grid grid{args.n_mixtures * owners};
  constexpr std::size_t scratch = sizeof(double) * kWarps;
  if (args.covariance == Covariance::full || args.covariance == Covariance::tied) {
    const std::size_t vectors = scratch + sizeof(double) * static_cast<std::size_t>(d);
    const std::size_t whole = vectors + sizeof(double) * static_cast<std::size_t>(d * (d | 1));
    // A matrix that is too large is factored where the result goes.
    const bool in_shared = whole <= device_of(queue).shared_bytes;
    launch(queue, grid, kThreads, in_shared ? whole : vectors, matrix_kernel, args, in_shared,
           memory.shifts, memory.parts);
  } else {
    launch(queue, grid, kThreads, scratch, diagonal_kernel, args, memory.shifts, memory.parts);
  }
  launch(queue, {args.n_mixtures}, kThreads, scratch, finish_kernel, args, owners,
         covariance_size(args.covariance, args.n_components, d), memory.parts);
}

}  // namespace elbokit::cuda
