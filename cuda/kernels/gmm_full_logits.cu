// Logits of full and tied covariances on the matrix units.
#include "kernels/gmm_full.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTiles = 2;  // of 16 coordinates, at once
static_assert(kTiles * kUnitParts * kWarp == kThreads);

constexpr int kLeastTiles = 4;  // of 8 features

// Eights of rows that a warp may have.
constexpr int kMostColumns = 4;

struct PlaceArgs {
  GmmPlan plan;
  GmmTables<float> tables;
};

// A block has a step of a factor, a thread what a lane has of a part.
__global__ void __launch_bounds__(kThreads) place_kernel(PlaceArgs args) {
  const GmmPlan& plan = args.plan;
  const std::int64_t steps = full_steps(plan), at = blockIdx.x % steps;
  const std::int64_t which = std::int64_t{blockIdx.z} * plan.factors() + blockIdx.x / steps;
  std::int64_t pair = 0, before = 0;  // steps of earlier pairs
  while (before + 2 * (pair + 1) <= at) before += 2 * ++pair;
  const std::int64_t from = at - before;
  const int tile = static_cast<int>(threadIdx.x) / (kUnitParts * kWarp);
  const int part = static_cast<int>(threadIdx.x) / kWarp % kUnitParts;
  const int g = lane_index() / 4, t = lane_index() % 4;
  const float* const factor = args.tables.factor + which * plan.factor_size();
  Fragment out;
  for (int i = 0; i < 4; ++i) {
    const std::int64_t j = from * kUnitFeatures + 4 * t + part / 2 * 2 + i / 2;
    const std::int64_t c = (kTiles * pair + tile) * 16 + i % 2 * 8 + g;
    const bool there = j <= c && c < plan.d;
    const Parts both = split_tf32(there ? factor[packed_index(j, c)] : 0);
    out.at[i] = part % 2 == 0 ? both.high : both.low;
  }
  args.tables.fragments[(which * steps + at) * kThreads + threadIdx.x] = out;
}

struct LogitArgs {
  GmmPlan plan;
  GmmTables<float> tables;
  GmmChunkRows<float> rows;
  float* logits;
};

// A lane's part of one pair of sixteens of coordinates: g and g + 8 of each, of rows 2 t, 2 t + 1
// of each column.
template <int kColumns>
using Coordinates = float[kTiles][kColumns][4];

// Adds 16 features' part of the coordinates of the tiles kFirst .. kLast. x: of each column,
// features 4 t .. 4 t + 3 of row g.
template <int kFirst, int kLast, int kColumns>
ELBOKIT_DEVICE void add_step(const Fragment* staged, const Pack<float, 4>* x,
                             const Pack<float, 4>& center, Coordinates<kColumns>& y) {
  Fragment factor[kTiles][kUnitParts];
#pragma unroll
  for (int i = kFirst; i <= kLast; ++i)
#pragma unroll
    for (int part = 0; part < kUnitParts; ++part)
      factor[i][part] = staged[(i * kUnitParts + part) * kWarp];
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
    const Pack<float, 4> row = x[column * kWarp];
    Parts u[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) u[e] = split_tf32(row.at[e] - center.at[e]);
    // In an order in which the sums grow; they start from zero, and are added up outside.
    float sum[kTiles][4] = {};
    const auto multiply = [&](std::uint32_t Parts::* of_row, int of_factor) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = kFirst; i <= kLast; ++i)
          add_product(sum[i], factor[i][2 * half + of_factor], u[2 * half].*of_row,
                      u[2 * half + 1].*of_row);
    };
    multiply(&Parts::high, 1);
    multiply(&Parts::low, 0);
    multiply(&Parts::high, 0);
#pragma unroll
    for (int i = kFirst; i <= kLast; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) y[i][column][e] += sum[i][e];
  }
}

// Adds up over the lanes of one t, and leaves each of them some of the sums; returns which ones.
template <int kCount>
ELBOKIT_DEVICE int scatter_sums(float (&sums)[kCount]) {
  int first = 0, count = kCount;
#pragma unroll
  for (int mask = 16; mask >= 4; mask /= 2) {
    const bool upper = lane_index() & mask;
    if (count == 1) {
      sums[0] += shuffle_xor(sums[0], mask);
      continue;
    }
    count /= 2;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      if (i >= count) break;
      const float sent = upper ? sums[i] : sums[i + count];
      sums[i] = (upper ? sums[i + count] : sums[i]) + shuffle_xor(sent, mask);
    }
    if (upper) first += count;
  }
  return first;
}

// The next step's part of a factor and of a center on their way from memory, of a component, then
// of the next one.
class Factors {
 public:
  ELBOKIT_DEVICE Factors(const LogitArgs& args, std::int64_t k)
      : args_(args), steps_(full_steps(args.plan)) {
    begin(k);
  }

  Fragment factor;
  Pack<float, 4> center;

  // Loads the first step of component k, if there is one.
  ELBOKIT_DEVICE void begin(std::int64_t k) {
    const GmmPlan& plan = args_.plan;
    if (k >= plan.k) return;
    const std::int64_t m = blockIdx.z;
    const std::int64_t which = m * plan.factors() + (plan.factors() == 1 ? 0 : k);
    at_ = args_.tables.fragments + which * steps_ * kThreads + threadIdx.x;
    centers_ = args_.tables.center + (m * plan.k + k) * plan.padded;
    factor = *at_;
    load_center(0);
  }
  // Loads the next step, which begins at this sixteen of the features.
  ELBOKIT_DEVICE void advance(int sixteen) {
    at_ += kThreads;
    factor = *at_;
    load_center(sixteen);
  }

 private:
  ELBOKIT_DEVICE void load_center(int sixteen) {
    const int j = sixteen * kUnitFeatures + lane_index() % 4 * 4;
    center = {};
    if (j < args_.plan.padded) center = *reinterpret_cast<const Pack<float, 4>*>(centers_ + j);
  }

  const LogitArgs& args_;
  std::int64_t steps_;
  const Fragment* at_ = nullptr;
  const float* centers_ = nullptr;
};

// A block keeps its rows, each warp its own, and goes through the components.
template <int kColumns>
__global__ void __launch_bounds__(kThreads, 2) full_logits(LogitArgs args) {
  const GmmPlan& plan = args.plan;
  const int sixteens = full_sixteens(plan);
  const std::int64_t m = blockIdx.z;
  const std::int64_t row0 = (std::int64_t{blockIdx.x} * kWarps + warp_index()) * kColumns * 8;
  const int g = lane_index() / 4, t = lane_index() % 4;
  auto* const staged = shared_memory<Fragment>();  // (2, kThreads)
  // (sixteens, columns, lanes), of each warp: a lane reads what it wrote.
  auto* const x = reinterpret_cast<Pack<float, 4>*>(staged + 2 * kThreads) +
                  warp_index() * sixteens * kColumns * kWarp + lane_index();
  for (int column = 0; column < kColumns; ++column) {
    const std::int64_t row = row0 + column * 8 + g;
    const float* const from =
        args.rows.x + m * args.rows.mixture_stride + row * args.rows.row_stride;
    for (int step = 0; step < sixteens; ++step) {
      Pack<float, 4> values{};
      for (int e = 0; e < 4; ++e) {
        const int j = step * kUnitFeatures + 4 * t + e;
        if (row < args.rows.count && j < plan.d) values.at[e] = tf32_range(from[j]);
      }
      x[(step * kColumns + column) * kWarp] = values;
    }
  }

  Factors next(args, blockIdx.y);
  int turn = 0;
  for (std::int64_t k = blockIdx.y; k < plan.k; k += gridDim.y) {
    const float* const biases = args.tables.bias + (m * plan.k + k) * plan.padded;
    float sums[2 * kColumns] = {};
    for (int first = 0; first < sixteens; first += kTiles) {
      const int last = first + 1 < sixteens ? first + 1 : first;
      Coordinates<kColumns> y;
      float expected = 0;  // of this lane's coordinates
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int c = (first + i) * 16 + half * 8 + g;
          const float bias = c < plan.padded ? biases[c] : 0;
          if (c < plan.d) expected += static_cast<float>(kExpectedSquare);
#pragma unroll
          for (int s = 0; s < 2 * kColumns; ++s) y[i][s / 2][2 * half + s % 2] = -bias;
        }
#pragma unroll 1
      for (int step = 0; step <= last; ++step, turn ^= 1) {
        staged[turn * kThreads + threadIdx.x] = next.factor;
        const Pack<float, 4> center = next.center;
        block_barrier();
        if (step < last)
          next.advance(step + 1);
        else if (last + 1 < sixteens)
          next.advance(0);
        else
          next.begin(k + gridDim.y);
        const Fragment* const here = staged + turn * kThreads + lane_index();
        const auto* const rows = x + step * kColumns * kWarp;
        if (step > first)
          add_step<1, 1, kColumns>(here, rows, center, y);
        else if (last > first)
          add_step<0, 1, kColumns>(here, rows, center, y);
        else
          add_step<0, 0, kColumns>(here, rows, center, y);
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int s = 0; s < 2 * kColumns; ++s) {
            const float value = y[i][s / 2][2 * half + s % 2];
            sums[s] += value * value;
          }
#pragma unroll
      for (float& sum : sums) sum -= expected;
    }
    const int mine = scatter_sums(sums);
    const std::int64_t row = row0 + mine / 2 * 8 + 2 * t + mine % 2;
    // Of fewer sums than lanes several have the same one.
    if (g % (4 / kColumns) == 0 && row < args.rows.count)
      args.logits[(m * plan.k + k) * plan.ld + row] =
          args.tables.log_const[m * plan.k + k] - sums[0];
  }
}

std::size_t shared_bytes(const GmmPlan& plan, int columns) {
  const auto sixteens = static_cast<std::size_t>(full_sixteens(plan));
  return 2 * kThreads * sizeof(Fragment) +
         sixteens * static_cast<std::size_t>(kWarps * columns * kWarp) * sizeof(Pack<float, 4>);
}

// So many that two blocks share a multiprocessor. But with one column shared memory, where the
// factors come from, is slower than the units; then rather one block. 0: not even that.
int columns_of(const GmmPlan& plan, const Device& device) {
  const auto fit = [&](std::size_t blocks, int columns) {
    return blocks * shared_bytes(plan, columns) <= device.shared_bytes;
  };
  for (const std::size_t blocks : {2, 1})
    for (int columns = kMostColumns; columns >= 2; columns /= 2)
      if (fit(blocks, columns)) return columns;
  return fit(1, 1) ? 1 : 0;
}

template <int kColumns>
void launch_logits(const Queue& queue, const LogitArgs& args) {
  const GmmPlan& plan = args.plan;
  constexpr std::int64_t rows = kWarps * kColumns * 8;
  const std::int64_t blocks = (args.rows.count + rows - 1) / rows;
  launch(queue,
         {blocks, component_blocks(queue, blocks * plan.mixtures, plan.k),
          static_cast<int>(plan.mixtures)},
         kThreads, shared_bytes(plan, kColumns), full_logits<kColumns>, args);
}

}  // namespace

bool full_suits_units(const GmmPlan& plan, bool wide, const Device& device) {
  // Of fewer features the units would multiply zeros, mostly.
  return plan.triangular && !wide && plan.tiles >= kLeastTiles &&
         device.compiled >= kTensorCoreCapability && columns_of(plan, device) > 0;
}

void place_fragments(const Queue& queue, const GmmPlan& plan, const GmmTables<float>& tables) {
  launch(queue, {plan.factors() * full_steps(plan), 1, static_cast<int>(plan.mixtures)}, kThreads,
         0, place_kernel, {plan, tables});
}

void make_full_logits(const Queue& queue, const GmmPlan& plan, const GmmTables<float>& tables,
                      const GmmChunkRows<float>& rows, float* logits) {
  const LogitArgs args{plan, tables, rows, logits};
  switch (columns_of(plan, device_of(queue))) {
    case 4:
      return launch_logits<4>(queue, args);
    case 2:
      return launch_logits<2>(queue, args);
    default:
      return launch_logits<1>(queue, args);
  }
}

}  // namespace elbokit::cuda
