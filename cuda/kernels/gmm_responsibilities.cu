// From a chunk's logits to what each row needs of them: log p, responsibilities, labels.
#include "kernels/gmm_pass.h"

namespace elbokit::cuda {

namespace {

constexpr int kMostWarps = 16;

// Components that a thread keeps in registers.
constexpr int kFew = 8;
template <class T>
constexpr int kMany = sizeof(T) == 4 ? 32 : 16;

template <class T>
struct ResponsibilityArgs {
  GmmPlan plan;
  GmmTables<T> tables;
  std::int64_t count;
  T* logits;
  GmmChunkOutputs<T> outputs;
};

template <class T>
struct Label {
  T most;
  std::int64_t k;
};

// A block has 32 rows, one for each lane; its warps share the components. Where these are too many
// for the registers, the logits are read three times.
template <class T, int kEach, bool kHeld>
__global__ void __launch_bounds__(kMostWarps* kWarp) responsibilities(ResponsibilityArgs<T> args) {
  const GmmPlan& plan = args.plan;
  const GmmChunkOutputs<T>& outputs = args.outputs;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const std::int64_t m = blockIdx.z, n = std::int64_t{blockIdx.x} * kWarp + lane_index();
  const bool there = n < args.count;
  const std::int64_t at = m * outputs.stride + n;
  T* const logits = args.logits + m * plan.k * plan.ld + n;
  constexpr T none = -static_cast<T>(__builtin_huge_val());
  T held[kEach];
  // Calls f(k, value, at) with the logits, or what became of them, of this warp's components, and
  // where they are; nowhere past the last one.
  const auto for_each = [&](bool first, auto&& f) {
    for (std::int64_t k0 = std::int64_t{warp_index()} * kEach; k0 < plan.k;
         k0 += std::int64_t{warps} * kEach) {
      const int here = !there ? 0 : static_cast<int>(plan.k - k0 < kEach ? plan.k - k0 : kEach);
      T* const at_k = logits + k0 * plan.ld;
      if (!kHeld || first) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) held[i] = i < here ? at_k[i * plan.ld] : none;
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) f(k0 + i, held[i], i < here ? at_k + i * plan.ld : nullptr);
    }
  };
  // Combines the warps' values of each row, in order.
  T* const shared = shared_memory<T>();
  const auto over_warps = [&](T value, auto&& join) {
    shared[threadIdx.x] = value;
    block_barrier();
    value = shared[lane_index()];
    for (int i = 1; i < warps; ++i) value = join(value, shared[i * kWarp + lane_index()]);
    block_barrier();
    return value;
  };

  const auto larger = [](T a, T b) { return b > a ? b : a; };  // NaN shows in the sum
  T largest = none;
  for_each(true, [&](std::int64_t, T& value, T*) { largest = larger(largest, value); });
  largest = over_warps(largest, larger);
  const T shift = largest == none ? T(0) : largest;
  T sum = 0;
  for_each(false, [&](std::int64_t, T& value, T*) {
    value = math::exp2_nonpositive(value - shift);
    sum += value;
  });
  sum = over_warps(sum, [](T a, T b) { return a + b; });

  if (warp_index() == 0) {
    double log_prob = static_cast<double>(math::log_density(T(0), sum));
    if (sum > T(0)) log_prob += static_cast<double>(largest) * kLn2;
    log_prob += args.tables.log_base[m];
    if (there && outputs.log_prob) outputs.log_prob[at] = static_cast<T>(log_prob);
    if (outputs.log_likelihood) {
      const double weight = !there ? 0 : outputs.sample_weight ? outputs.sample_weight[at] : 1;
      const double total = warp_sum(weight == 0 ? 0 : weight * log_prob);
      if (lane_index() == 0) outputs.log_likelihood[m * plan.row_blocks + blockIdx.x] += total;
    }
  }
  if (!outputs.keep && !outputs.responsibilities && !outputs.labels) return;

  const T scale = sum == T(0) ? T(0) : T(1) / sum;
  const T weight =
      there && outputs.sample_weight ? static_cast<T>(outputs.sample_weight[at]) : T(1);
  Label<T> label{none, 0};
  for_each(false, [&](std::int64_t k, T& value, T* place) {
    const T e = kHeld ? value : math::exp2_nonpositive(value - shift);
    const T r = e * scale;
    if (!place) return;
    if (outputs.responsibilities) outputs.responsibilities[at * plan.k + k] = r;
    if (outputs.keep) *place = r * weight;
    if (r > label.most) label = {r, k};
  });
  if (!outputs.labels) return;
  auto* const found = reinterpret_cast<Label<T>*>(shared);
  found[threadIdx.x] = label;
  block_barrier();
  if (warp_index() > 0 || !there) return;
  for (int i = 1; i < warps; ++i) {
    const Label<T> other = found[i * kWarp + lane_index()];
    // Without registers a warp's components are not all before the next one's.
    if (other.most > label.most || (other.most == label.most && other.k < label.k)) label = other;
  }
  outputs.labels[at] = label.k;
}

template <class T, int kEach, bool kHeld>
void launch_rows(const Queue& queue, const ResponsibilityArgs<T>& args, int most) {
  const std::int64_t wanted = (args.plan.k + kEach - 1) / kEach;
  const int warps = wanted < most ? static_cast<int>(wanted) : most;
  const std::size_t each = args.outputs.labels ? sizeof(Label<T>) : sizeof(T);
  launch(queue, {(args.count + kWarp - 1) / kWarp, 1, static_cast<int>(args.plan.mixtures)},
         warps * kWarp, each * static_cast<std::size_t>(warps * kWarp),
         responsibilities<T, kEach, kHeld>, args);
}

}  // namespace

template <class T>
void make_responsibilities(const Queue& queue, const GmmPlan& plan, const GmmTables<T>& tables,
                           std::int64_t count, T* logits, const GmmChunkOutputs<T>& outputs) {
  const ResponsibilityArgs<T> args{plan, tables, count, logits, outputs};
  if (plan.k <= 8 * kFew)
    launch_rows<T, kFew, true>(queue, args, 8);
  else if (plan.k <= kMostWarps * kMany<T>)
    launch_rows<T, kMany<T>, true>(queue, args, kMostWarps);
  else if (plan.k <= kMostWarps * 2 * kMany<T>)
    launch_rows<T, 2 * kMany<T>, true>(queue, args, kMostWarps);
  else
    launch_rows<T, kFew, false>(queue, args, kMostWarps);
}

#define ELBOKIT_INSTANTIATE(T)                                                           \
  template void make_responsibilities(const Queue&, const GmmPlan&, const GmmTables<T>&, \
                                      std::int64_t, T*, const GmmChunkOutputs<T>&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
