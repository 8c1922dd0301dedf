#include "kernels/gmm_products_model.h"

#include <algorithm>
#include <cmath>

#include "common/reduce.h"

namespace elbokit::cuda {

namespace {

constexpr std::int64_t kPartialBytes = std::int64_t{32} << 20;

// The least power of two that is no smaller.
ELBOKIT_DEVICE double power_of_two_above(double value) {
  if (!(value >= 0x1p-100 && value <= 0x1p100)) return __builtin_nan("");
  return ::ldexp(1.0, static_cast<int>(::ceil(::log2(value))));
}

// A block has a warp's width of features, and each of its warps a part of the components.
__global__ void __launch_bounds__(kProductThreads)
    place_units(ProductShape shape, DiagonalMixture source, ProductMemory memory) {
  auto* const scratch = shared_memory<double>();
  const std::int64_t j = std::int64_t{blockIdx.x} * kWarp + lane_index();
  double largest = 0;
  for (std::int64_t k = warp_index(); j < shape.n_features && k < shape.n_components;
       k += kProductWarps) {
    if (source.mixtures.weights[k] == 0) continue;
    const double precision = kScale * source.precision(k, j);
    if (!(precision <= largest)) largest = precision;
  }
  scratch[threadIdx.x] = largest;
  block_barrier();
  if (warp_index() != 0 || j >= shape.n_features) return;
  for (int i = 1; i < kProductWarps; ++i) {
    const double other = scratch[i * kWarp + lane_index()];
    if (!(other <= largest)) largest = other;
  }
  memory.unit[j] = static_cast<float>(power_of_two_above(largest));
}

// What component k has of feature j: the logit loses square u^2 - 2 linear u + offset.
struct Term {
  double square, linear, offset;
};
ELBOKIT_DEVICE Term term(const ProductShape& shape, const DiagonalMixture& source,
                         const ProductMemory& memory, std::int64_t k, std::int64_t j) {
  // A component without weight has no logits; its mean may be anywhere.
  if (k >= shape.n_components || j >= shape.n_features || source.mixtures.weights[k] == 0)
    return {0, 0, 0};
  const double precision = kScale * source.precision(k, j);
  const double shift = precision * (source.mixtures.means[k * shape.n_features + j] -
                                    static_cast<double>(memory.pivot[j]));
  const double share = precision / static_cast<double>(memory.unit[j]);
  return {share * share, share * shift, shift * shift};
}

// A warp has a component, and two steps' features at a time.
__global__ void __launch_bounds__(kProductThreads)
    place_offsets(ProductShape shape, DiagonalMixture source, ProductMemory memory,
                  unsigned long long* failures) {
  const std::int64_t k = std::int64_t{blockIdx.x} * kProductWarps + warp_index();
  double spread = 0;
  for (std::int64_t step = 0; step < shape.steps(); step += 2) {
    const std::int64_t j = step * 16 + lane_index();
    double offset = term(shape, source, memory, k, j).offset;
    spread += offset * offset;
    if (j < shape.n_features) offset -= kExpectedSquare;
    for (int mask = 8; mask > 0; mask /= 2) offset += shuffle_xor(offset, mask);
    const std::int64_t mine = step + lane_index() / 16;
    if (lane_index() % 16 == 0 && mine < shape.steps())
      memory.offset[mine * shape.components + k] = static_cast<float>(offset);
  }
  spread = warp_sum(spread);
  if (lane_index() == 0 && !(spread <= kProductsSpread * kProductsSpread)) atomic_add(failures, 1);
}

__global__ void __launch_bounds__(kProductThreads)
    place_coefficients(ProductShape shape, DiagonalMixture source, ProductMemory memory) {
  const std::int64_t n = shape.components / 16 * shape.steps() * kWarp;
  const std::int64_t i = std::int64_t{blockIdx.x} * kProductThreads + threadIdx.x;
  if (i >= n) return;
  const int g = lane_index() / 4, t = lane_index() % 4;
  const std::int64_t step = i / kWarp % shape.steps(), tile = i / kWarp / shape.steps();
  std::uint32_t* const out = memory.coefficients + i / kWarp * 16 * kWarp + lane_index() * 4;
  for (int part = 0; part < 4; ++part) {
    const std::int64_t k = tile * 16 + g + part % 2 * 8, j = step * 16 + 2 * t + part / 2 * 8;
    const Term a = term(shape, source, memory, k, j), b = term(shape, source, memory, k, j + 1);
    const auto scaled = [](double value) { return static_cast<float>(kCoefficientScale * value); };
    const Halves square = halves(scaled(a.square), scaled(b.square));
    const Halves linear = halves(scaled(-2 * a.linear), scaled(-2 * b.linear));
    out[part] = square.high;
    out[4 * kWarp + part] = square.low;
    out[8 * kWarp + part] = linear.high;
    out[12 * kWarp + part] = linear.low;
  }
}

}  // namespace

GmmPlan products_plan(const GmmData& data, const GmmMixtures& mixtures, const Device& device) {
  GmmPlan plan = gmm_plan(data, mixtures, false, device, false);
  // Half as many logits again as in other chunks: whole waves of blocks count for more.
  const auto bytes = static_cast<std::int64_t>(gmm_chunk_bytes()) * 3 / 2;
  const std::int64_t most =
      std::max(bytes / (plan.k * kProductRows * std::int64_t{sizeof(float)}), std::int64_t{1});
  const std::int64_t tiles = whole(plan.k, kProductTile) / kProductTile;
  const std::int64_t fewest = whole(device.multiprocessors, most) / most;
  const std::int64_t splits = std::min(tiles, std::max(fewest, std::int64_t{2}));
  const std::int64_t wave = std::max(device.multiprocessors / splits, std::int64_t{1});
  const std::int64_t blocks =
      std::min(most < wave ? most : most / wave * wave, whole(plan.n, kProductRows) / kProductRows);
  plan.chunk = blocks * kProductRows;
  plan.ld = plan.chunk;
  plan.row_blocks = plan.chunk / kWarp;
  return plan;
}

ProductShape product_shape(const GmmPlan& plan, const Device& device) {
  ProductShape shape{};
  shape.n_features = plan.d;
  shape.n_components = plan.k;
  shape.depth = whole(plan.d, 16);
  shape.components = whole(plan.k, kProductTile);
  shape.across = plan.d > 2 * kMomentWidth ? 4 : 2;
  const std::int64_t each = shape.moments() * std::int64_t{sizeof(double)};
  shape.ranges = std::max(std::min({device.multiprocessors / shape.blocks(), kPartialBytes / each,
                                    plan.chunk / kProductRows}),
                          std::int64_t{1});
  return shape;
}

ProductMemory::ProductMemory(const GmmPlan& plan, const ProductShape& shape, const Device& device,
                             Workspace workspace) {
  pivot = workspace.take<float>(whole(shape.depth, kWarp));
  unit = workspace.take<float>(shape.depth);
  coefficients = workspace.take<std::uint32_t>(shape.components * shape.steps() * kWarp);
  offset = workspace.take<float>(shape.steps() * shape.components);
  moments = workspace.take<double>(shape.ranges * shape.moments());
  counts = workspace.take<double>(shape.ranges * shape.n_components);
  log_likelihood = workspace.take<double>(plan.row_blocks);
  space = gmm_space<float>(plan, device, workspace, false);
  bytes = workspace.used();
}

void pack_product_model(const Queue& queue, const ProductShape& shape, const GmmMixtures& mixtures,
                        const ProductMemory& memory, unsigned long long* failures) {
  const DiagonalMixture source{mixtures, shape.n_features};
  place_pivot(queue, source, memory.pivot, nullptr);
  launch(queue, {whole(shape.n_features, kWarp) / kWarp}, kProductThreads,
         sizeof(double) * kProductThreads, place_units, shape, source, memory);
  launch(queue, {shape.components / kProductWarps}, kProductThreads, 0, place_offsets, shape,
         source, memory, failures);
  const std::int64_t n = shape.components / 16 * shape.steps() * kWarp;
  launch(queue, {whole(n, kProductThreads) / kProductThreads}, kProductThreads, 0,
         place_coefficients, shape, source, memory);
}

}  // namespace elbokit::cuda
