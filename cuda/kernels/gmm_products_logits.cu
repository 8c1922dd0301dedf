#include "kernels/gmm_products_model.h"

namespace elbokit::cuda {

namespace {

// A block's warps share the components by fours, and its rows by twos.
constexpr int kDown = 4, kBeside = kProductWarps / kDown;
constexpr int kTiles = 2;                             // of 16 components, of a warp
constexpr int kColumns = kProductRows / kBeside / 8;  // tiles of 8 rows, of a warp
constexpr float kUnscaled = 1 / kCoefficientScale;

struct LogitArgs {
  ProductShape shape;
  ProductMemory memory;
  GmmChunkRows<float> rows;
  const double* sample_weight;
  std::int64_t ld;
  unsigned long long* failures;
};

// The rows as b fragments in shared memory: (tiles of 8 rows, steps, 2, 32 lanes), of u^2, of u;
// high parts of both registers, then their low parts.
ELBOKIT_DEVICE std::int64_t place(const ProductShape& shape, std::int64_t tile, std::int64_t step) {
  return (tile * shape.steps() + step) * 2 * kWarp + lane_index();
}

// Counts threads, not rows, but 0 is 0.
ELBOKIT_DEVICE void stage(const LogitArgs& args, std::int64_t row0, Fragment* to) {
  const ProductShape& shape = args.shape;
  const int g = lane_index() / 4, t = lane_index() % 4;
  bool fits = true;
  for (std::int64_t i = warp_index(); i < kProductRows / 8 * shape.steps(); i += kProductWarps) {
    const std::int64_t tile = i / shape.steps(), step = i % shape.steps();
    const std::int64_t row = row0 + tile * 8 + g;
    float u[4] = {};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const std::int64_t j = step * 16 + 2 * t + e % 2 + e / 2 * 8;
      if (row >= args.rows.count || j >= shape.n_features) continue;
      u[e] = (args.rows.x[row * args.rows.row_stride + j] - args.memory.pivot[j]) *
             args.memory.unit[j];
      fits &= u[e] >= -kLargestCoordinate && u[e] <= kLargestCoordinate;
    }
    Fragment* const out = to + place(shape, tile, step);
    out[0] = split(u[0] * u[0], u[1] * u[1], u[2] * u[2], u[3] * u[3]);
    out[kWarp] = split(u[0], u[1], u[2], u[3]);
  }
  if (args.sample_weight && threadIdx.x < kProductRows && row0 + threadIdx.x < args.rows.count) {
    const double weight = args.sample_weight[row0 + threadIdx.x];
    fits &= weight >= 0 && weight <= kLargestWeight;
  }
  if (!fits) atomic_add(args.failures, 1);
}

// The four parts of the coefficients of 16 components in one step.
struct Coefficients {
  Fragment square_high, square_low, linear_high, linear_low;

  ELBOKIT_DEVICE static Coefficients load(const LogitArgs& args, std::int64_t tile,
                                          std::int64_t step) {
    const auto* const from = reinterpret_cast<const Fragment*>(args.memory.coefficients) +
                             (tile * args.shape.steps() + step) * 4 * kWarp + lane_index();
    return {from[0], from[kWarp], from[2 * kWarp], from[3 * kWarp]};
  }
};

// One step's part of the products, in an order in which the sum grows.
ELBOKIT_DEVICE void multiply(const Coefficients& a, const Fragment& square, const Fragment& linear,
                             float (&sum)[4]) {
  add_product<Float16>(sum, a.square_low.at, square.at[0], square.at[1]);
  add_product<Float16>(sum, a.linear_low.at, linear.at[0], linear.at[1]);
  add_product<Float16>(sum, a.square_high.at, square.at[2], square.at[3]);
  add_product<Float16>(sum, a.linear_high.at, linear.at[2], linear.at[3]);
  add_product<Float16>(sum, a.linear_high.at, linear.at[0], linear.at[1]);
  add_product<Float16>(sum, a.square_high.at, square.at[0], square.at[1]);
}

// A block keeps its rows and goes through a part of the components. Sums over 16 features start
// from zero and are added up outside of the units, which only cut off.
__global__ void __launch_bounds__(kProductThreads, 1)
    product_logits(LogitArgs args, const float* log_const, float* logits) {
  const ProductShape& shape = args.shape;
  auto* const staged = shared_memory<Fragment>();
  const std::int64_t row0 = std::int64_t{blockIdx.x} * kProductRows;
  stage(args, row0, staged);
  block_barrier();
  const int down = warp_index() / kBeside, beside = warp_index() % kBeside;
  const int g = lane_index() / 4, t = lane_index() % 4;
  const std::int64_t tiles = shape.components / kProductTile;
  const std::int64_t begin = tiles * blockIdx.y / gridDim.y;
  const std::int64_t end = tiles * (blockIdx.y + 1) / gridDim.y;
  for (std::int64_t tile = begin; tile < end; ++tile) {
    const std::int64_t k0 = tile * kProductTile + down * kTiles * 16;
    if (k0 >= shape.n_components) break;
    float sum[kTiles][kColumns][4] = {};
    Coefficients next[kTiles];
    for (int i = 0; i < kTiles; ++i) next[i] = Coefficients::load(args, k0 / 16 + i, 0);
#pragma unroll 1
    for (std::int64_t step = 0; step < shape.steps(); ++step) {
      Coefficients now[kTiles];
      float offset[kTiles][2];
      for (int i = 0; i < kTiles; ++i) {
        now[i] = next[i];
        if (step + 1 < shape.steps()) next[i] = Coefficients::load(args, k0 / 16 + i, step + 1);
        for (int half = 0; half < 2; ++half)
          offset[i][half] =
              args.memory.offset[step * shape.components + k0 + i * 16 + half * 8 + g];
      }
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        const Fragment* const at = staged + place(shape, beside * kColumns + column, step);
        const Fragment square = at[0], linear = at[kWarp];
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          float part[4] = {};
          multiply(now[i], square, linear, part);
          for (int e = 0; e < 4; ++e) sum[i][column][e] += part[e] * kUnscaled + offset[i][e / 2];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const std::int64_t k = k0 + i * 16 + half * 8 + g;
        if (k >= shape.n_components) continue;
        float* const out = logits + k * args.ld + row0 + beside * kColumns * 8 + 2 * t;
        const float constant = log_const[k];
#pragma unroll
        for (int column = 0; column < kColumns; ++column)
          *reinterpret_cast<Pack<float, 2>*>(out + column * 8) = {
              {constant - sum[i][column][2 * half], constant - sum[i][column][2 * half + 1]}};
      }
  }
}

}  // namespace

std::size_t product_logits_shared(const ProductShape& shape) {
  return static_cast<std::size_t>(kProductRows / 8 * shape.steps() * 2 * kWarp) * sizeof(Fragment);
}

void make_product_logits(const Queue& queue, const GmmPlan& plan, const ProductShape& shape,
                         const GmmChunkRows<float>& rows, const double* sample_weight,
                         const ProductMemory& memory, unsigned long long* failures) {
  const LogitArgs args{shape, memory, rows, sample_weight, plan.ld, failures};
  const std::int64_t blocks = whole(rows.count, kProductRows) / kProductRows;
  const std::int64_t tiles = shape.components / kProductTile;
  // Blocks beyond one for each multiprocessor would wait for a second turn.
  const std::int64_t room = device_of(queue).multiprocessors / blocks;
  const std::int64_t splits = room < 1 ? 1 : room < tiles ? room : tiles;
  launch(queue, {blocks, static_cast<int>(splits)}, kProductThreads, product_logits_shared(shape),
         product_logits, args, static_cast<const float*>(memory.space.tables.log_const),
         memory.space.logits);
}

}  // namespace elbokit::cuda
