// A mixture as factors of products, and the memory that a pass over the rows needs.
#pragma once

#include "common/tensor_core.h"
#include "kernels/gmm_diagonal.h"
#include "kernels/gmm_pass.h"
#include "kernels/gmm_products.h"

namespace elbokit::cuda {

inline constexpr int kProductThreads = 256;
inline constexpr int kProductWarps = kProductThreads / kWarp;

// A block of logits: these rows, and at a time so many components.
inline constexpr int kProductRows = 128;
inline constexpr int kProductTile = 128;

// What a warp has of the moments: so many components, and first and second moments of as many
// features.
inline constexpr int kMomentWidth = 32;
inline constexpr int kThreadMoments = kMomentWidth * kMomentWidth * 2 / kWarp;

// Powers of two that keep factors within float16: of u = z times a feature's unit, where the unit
// is at least the largest precision of that feature, the coefficients of u^2 are at most 1.
inline constexpr float kCoefficientScale = 0x1p8f;
inline constexpr float kResponsibilityScale = 0x1p14f;
inline constexpr float kLargestCoordinate = 255;  // its square has to fit
inline constexpr double kLargestWeight = 3;       // times kResponsibilityScale, too

// Below so much of the rows, a count loses digits: of each responsibility 2^-39 is left out.
inline constexpr double kLeastCount = 0x1p-19;

// Below so much of a count, a moment of u^2 loses digits: of each u^2 2^-25 is left out.
inline constexpr double kLeastSquare = 0x1p-8;

// Second moments about the pivot may be so many times those about the mean: six bits go. It is more
// where rows lie much closer to a mean than their component expects.
inline constexpr double kMostCancelled = 64;

// Two numbers, each as the sum of two float16.
struct Halves {
  std::uint32_t high, low;
};
ELBOKIT_DEVICE Halves halves(float a, float b) {
  const Float16 first = to_float16(a), second = to_float16(b);
  return {first.bits | std::uint32_t{second.bits} << 16,
          packed<Float16>(a - widened<float>(first), b - widened<float>(second))};
}

// The high parts of a b fragment's two registers, and their low parts.
ELBOKIT_DEVICE Fragment split(float a, float b, float c, float d) {
  const Halves first = halves(a, b), second = halves(c, d);
  return {{first.high, second.high, first.low, second.low}};
}

struct ProductShape {
  std::int64_t n_features, n_components;
  std::int64_t depth;       // features, in whole steps of the matrix units
  std::int64_t components;  // in whole tiles
  std::int64_t ranges;      // parts of a chunk's rows, each with moments of its own
  int across;               // warps of a block side by side over the features' moments

  ELBOKIT_INLINE std::int64_t steps() const { return depth / 16; }
  // Blocks of moments, of so many components and features.
  ELBOKIT_INLINE std::int64_t block_components() const {
    return kProductWarps / across * kMomentWidth;
  }
  ELBOKIT_INLINE std::int64_t block_features() const { return across * kMomentWidth; }
  ELBOKIT_INLINE std::int64_t feature_blocks() const {
    return whole(n_features, block_features()) / block_features();
  }
  ELBOKIT_INLINE std::int64_t blocks() const {
    return whole(n_components, block_components()) / block_components() * feature_blocks();
  }
  // Moments of one range.
  ELBOKIT_INLINE std::int64_t moments() const {
    return blocks() * kThreadMoments * kProductThreads;
  }
};

// A thread's place among the moments of a range, and which of them are its own: for component k and
// feature j of the block, of u (kind 0) and of u^2.
struct MomentPlace {
  int thread, slot;

  ELBOKIT_DEVICE static MomentPlace of(const ProductShape& shape, int k, int j, int kind) {
    const int warp = k / kMomentWidth * shape.across + j / kMomentWidth;
    return {warp * kWarp + k % 8 * 4 + j % 8 / 2,
            sum_of(k % kMomentWidth / 16, j % kMomentWidth / 8, kind) * 4 + k % 16 / 8 * 2 + j % 2};
  }
  // Which sum of products it is, of 16 components by 8 features: four slots each.
  ELBOKIT_DEVICE static constexpr int sum_of(int row, int column, int kind) {
    return (row * 4 + column) * 2 + kind;
  }
  ELBOKIT_DEVICE static std::int64_t at(std::int64_t block, int slot, int thread) {
    return (block * kThreadMoments + slot) * kProductThreads + thread;
  }
};

GmmPlan products_plan(const GmmData& data, const GmmMixtures& mixtures, const Device& device);
ProductShape product_shape(const GmmPlan& plan, const Device& device);

// All is in log2 units, as in elbokit/gmm.h.
struct ProductMemory {
  float *pivot, *unit;  // (depth): the mean of the mixture, powers of two
  // (components / 16, steps, 4, 32 lanes, 4): a fragments of the coefficients of u^2, their high
  // and low parts, then of those of u, times kCoefficientScale.
  std::uint32_t* coefficients;
  float* offset;           // (steps, components): sum of (precision (mean - pivot))^2, less
                           // kExpectedSquare each
  double* moments;         // (ranges, blocks, kThreadMoments, kProductThreads): see MomentPlace
  double* counts;          // (ranges, n_components)
  double* log_likelihood;  // by blocks of rows
  GmmSpace<float> space;
  std::size_t bytes;

  ProductMemory(const GmmPlan& plan, const ProductShape& shape, const Device& device,
                Workspace workspace);
};

void pack_product_model(const Queue& queue, const ProductShape& shape, const GmmMixtures& mixtures,
                        const ProductMemory& memory, unsigned long long* failures);

// A chunk's logits; rows that do not fit are counted.
std::size_t product_logits_shared(const ProductShape& shape);
void make_product_logits(const Queue& queue, const GmmPlan& plan, const ProductShape& shape,
                         const GmmChunkRows<float>& rows, const double* sample_weight,
                         const ProductMemory& memory, unsigned long long* failures);

std::size_t product_moments_shared(const ProductShape& shape);

// Adds the moments of a chunk, about the pivot, or begins with them.
void add_product_moments(const Queue& queue, const GmmPlan& plan, const ProductShape& shape,
                         const GmmChunkRows<float>& rows, const ProductMemory& memory, bool first);

void merge_product_moments(const Queue& queue, const ProductShape& shape, std::int64_t n_samples,
                           const GmmMixtures& mixtures, const ProductMemory& memory,
                           const GmmStatistics& statistics, unsigned long long* failures);

}  // namespace elbokit::cuda
