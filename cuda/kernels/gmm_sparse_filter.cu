#include "common/reduce.h"
#include "kernels/gmm_sparse_model.h"

namespace elbokit::cuda {

namespace {

// bfloat16 keeps 8 bits, so a product of two rounded numbers is off by 2^-8 of its size at most;
// the rest is for the sums in float and for the rounding of what this is multiplied with. The sizes
// of all products of a logit add up to 2 sum precision^2 z^2 + offset at most, since
// 2 |z shift| <= z^2 + shift^2.
constexpr float kBound = 0x1p-8f * 1.03f;

constexpr float kWindow = 44;  // -log2(kSparseDropped)

// 32-bit words between rows of the tile in shared memory: the eight rows and four words that a warp
// reads at once lie in different banks.
ELBOKIT_INLINE std::int64_t tile_stride(std::int64_t depth) {
  return depth / 2 + (4 - depth / 2 % 32 + 32) % 32;
}

// Where things lie in shared memory.
struct Tile {
  std::uint32_t *squares, *linear;  // (kSparseRows, stride) pairs of z^2, of z
  float* upper;                     // (kSparseRows, words): largest upper bound of 32 components
  unsigned* masks;                  // (kSparseRows, words)
  float* lower;                     // (kSparseRows, kSparseWarps): largest lower bound of a warp's
  float* best;                      // (kSparseRows): largest lower bound so far

  ELBOKIT_DEVICE Tile(const SparseShape& shape, std::uint32_t* memory) {
    const std::int64_t pairs = kSparseRows * tile_stride(shape.depth);
    const std::int64_t words = kSparseRows * shape.words();
    squares = memory;
    linear = squares + pairs;
    masks = linear + pairs;
    upper = reinterpret_cast<float*>(masks + words);
    lower = upper + words;
    best = lower + kSparseRows * kSparseWarps;
  }
};

ELBOKIT_DEVICE void load_rows(const SparseShape& shape, const SparseRows& rows,
                              const SparseMemory& memory, const Tile& tile) {
  const std::int64_t stride = tile_stride(shape.depth), pairs = shape.depth / 2;
  const std::int64_t first = std::int64_t{blockIdx.x} * kSparseRows;
  for (int row = warp_index(); row < kSparseRows; row += kSparseWarps)
    for (std::int64_t pair = lane_index(); pair < pairs; pair += kWarp) {
      float z[2] = {};
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const std::int64_t j = 2 * pair + e;
        if (first + row < rows.rows && j < shape.n_features)
          z[e] = sparse_element(rows.data, rows.begin + first + row, j) - memory.pivot[j];
      }
      tile.squares[row * stride + pair] = packed<BFloat16>(z[0] * z[0], z[1] * z[1]);
      tile.linear[row * stride + pair] = packed<BFloat16>(z[0], z[1]);
    }
  for (int i = static_cast<int>(threadIdx.x); i < kSparseRows; i += kSparseThreads)
    tile.best[i] = -__builtin_huge_valf();
}

constexpr int kAlong = kSparseRows / 16, kAcross = 4;  // products of a warp's tile: (16, 8) each

using Sums = float[kAlong][kAcross][4];

ELBOKIT_DEVICE void multiply(const SparseShape& shape, const std::uint32_t* rows,
                             const std::uint32_t (&b)[kAcross][2], std::int64_t step, Sums& sums) {
  const std::int64_t stride = tile_stride(shape.depth);
  const std::uint32_t* const mine = rows + lane_index() / 4 * stride + step * 8 + lane_index() % 4;
#pragma unroll
  for (int i = 0; i < kAlong; ++i) {
    const std::uint32_t* const at = mine + i * 16 * stride;
    const std::uint32_t a[4] = {at[0], at[8 * stride], at[4], at[8 * stride + 4]};
#pragma unroll
    for (int j = 0; j < kAcross; ++j) add_product<BFloat16>(sums[i][j], a, b[j][0], b[j][1]);
  }
}

// The two products of the warp's rows and 32 components from `first` on.
ELBOKIT_DEVICE void products(const SparseShape& shape, const SparseMemory& memory, const Tile& tile,
                             std::int64_t first, Sums& squares, Sums& linear) {
  for (std::int64_t step = 0; step < shape.steps(); ++step) {
    std::uint32_t of_squares[kAcross][2], of_linear[kAcross][2];
#pragma unroll
    for (int j = 0; j < kAcross; ++j) {
      const auto b = *reinterpret_cast<const Pack<std::uint32_t, 4>*>(
          memory.coefficients +
          (((first / 8 + j) * shape.steps() + step) * kWarp + lane_index()) * 4);
      of_squares[j][0] = b.at[0];
      of_squares[j][1] = b.at[1];
      of_linear[j][0] = b.at[2];
      of_linear[j][1] = b.at[3];
    }
    multiply(shape, tile.squares, of_squares, step, squares);
    multiply(shape, tile.linear, of_linear, step, linear);
  }
}

// The larger of the two, NaN if one is.
ELBOKIT_DEVICE float max_or_nan(float a, float b) { return a > b || a != a ? a : b; }

// Over the four lanes that share a row.
ELBOKIT_DEVICE float row_max(float value) {
  value = max_or_nan(value, shuffle_xor(value, 1));
  return max_or_nan(value, shuffle_xor(value, 2));
}

// A block has kSparseRows rows and goes through all components, kSparseTile at a time.
__global__ void __launch_bounds__(kSparseThreads)
    filter_kernel(SparseShape shape, SparseRows rows, SparseMemory memory) {
  const Tile tile(shape, shared_memory<std::uint32_t>());
  load_rows(shape, rows, memory, tile);
  block_barrier();
  const std::int64_t words = shape.words();
  const int group = lane_index() / 4, t = lane_index() % 4;
  for (std::int64_t base = 0; base < shape.components; base += kSparseTile) {
    const std::int64_t first = base + warp_index() * 32;
    Sums squares = {}, linear = {};
    products(shape, memory, tile, first, squares, linear);
    // From here on: upper bounds less the logarithm of the share, in `squares`.
    float constant[kAcross][2], upper_const[kAcross][2], offset[kAcross][2];
#pragma unroll
    for (int j = 0; j < kAcross; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const std::int64_t k = first + j * 8 + t * 2 + e;
        constant[j][e] = memory.log_const[k];
        upper_const[j][e] = memory.upper_const[k];
        offset[j][e] = memory.offset[k];
      }
#pragma unroll
    for (int i = 0; i < kAlong; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float lower = -__builtin_huge_valf();
#pragma unroll
        for (int j = 0; j < kAcross; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float s = squares[i][j][2 * half + e], l = linear[i][j][2 * half + e];
            const float bound = kBound * (2 * s + offset[j][e]);
            const float distance = s - 2 * l + offset[j][e];
            lower = max_or_nan(lower, constant[j][e] - (distance + bound));
            squares[i][j][2 * half + e] = upper_const[j][e] - (distance - bound);
          }
        lower = row_max(lower);
        if (t == 0) tile.lower[(i * 16 + half * 8 + group) * kSparseWarps + warp_index()] = lower;
      }
    block_barrier();
    for (int row = static_cast<int>(threadIdx.x); row < kSparseRows; row += kSparseThreads) {
      float best = tile.best[row];
      for (int w = 0; w < kSparseWarps; ++w)
        best = max_or_nan(best, tile.lower[row * kSparseWarps + w]);
      tile.best[row] = best;
    }
    block_barrier();
#pragma unroll
    for (int i = 0; i < kAlong; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = i * 16 + half * 8 + group;
        const float threshold = tile.best[row] - kWindow;
        float upper = -__builtin_huge_valf();
        unsigned mask = 0;
#pragma unroll
        for (int j = 0; j < kAcross; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float u = squares[i][j][2 * half + e];
            upper = max_or_nan(upper, u);
            // Written so that NaN matters.
            mask |= static_cast<unsigned>(!(u < threshold)) << (j * 8 + t * 2 + e);
          }
        upper = row_max(upper);
        mask |= shuffle_xor(mask, 1);
        mask |= shuffle_xor(mask, 2);
        if (t == 0) {
          tile.masks[row * words + first / 32] = mask;
          tile.upper[row * words + first / 32] = upper;
        }
      }
  }
  block_barrier();
  // Components that mattered only until a better one was found do not any more.
  const std::int64_t begin = std::int64_t{blockIdx.x} * kSparseRows;
  for (int row = warp_index(); row < kSparseRows; row += kSparseWarps) {
    const float threshold = tile.best[row] - kWindow;
    for (std::int64_t word = lane_index(); word < words; word += kWarp) {
      const std::int64_t i = row * words + word, left = shape.n_components - word * 32;
      // NaN matters, but not in components that only fill the tile.
      const unsigned there = left >= 32 ? ~0u : left <= 0 ? 0u : (1u << left) - 1;
      memory.masks[begin * words + i] = tile.upper[i] < threshold ? 0 : tile.masks[i] & there;
    }
  }
}

}  // namespace

std::size_t sparse_filter_shared(const SparseShape& shape) {
  const std::int64_t words = 2 * kSparseRows * tile_stride(shape.depth) +
                             2 * kSparseRows * shape.words() + kSparseRows * kSparseWarps +
                             kSparseRows;
  return static_cast<std::size_t>(words) * 4;
}

void sparse_filter(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
                   const SparseMemory& memory) {
  launch(queue, {whole(rows.rows, kSparseRows) / kSparseRows}, kSparseThreads,
         sparse_filter_shared(shape), filter_kernel, shape, rows, memory);
}

}  // namespace elbokit::cuda
