// Moments of labelled rows, in double. A block looks through a chunk of the rows for those of one
// label, and sums them up for some of the features, or for a square of the second moment.
#include "kernels/kmeans_rows.h"

namespace elbokit::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kListRows = 1024;  // rows whose labels are read at once
constexpr int kColumns = 256;    // features of a block, of first moments and diagonals
constexpr int kSquare = 32;      // sides of a square of a full second moment
constexpr int kBatch = 32;       // rows that are in shared memory at once
constexpr int kPadded = kSquare + 1;
constexpr std::int64_t kChunkRows = 4096, kMostChunks = 1024;
constexpr std::size_t kSlicesBytes = std::size_t{256} << 20;

struct RowList {
  int rows[kListRows];  // counted from the first
  int warps[kThreads / kWarp];
};

// Lists, in order, the rows [begin, begin + count) with that label. Returns how many.
ELBOKIT_DEVICE int list_rows(const std::int32_t* labels, std::int64_t begin, int count,
                             std::int64_t label, RowList& list) {
  constexpr int each = kListRows / kThreads;
  const int first = static_cast<int>(threadIdx.x) * each;
  int own = 0;
  bool mine[each];
  for (int i = 0; i < each; ++i) {
    mine[i] = first + i < count && (labels ? labels[begin + first + i] : 0) == label;
    own += mine[i];
  }
  const int through = warp_running_sum(own);
  if (lane_index() == kWarp - 1) list.warps[warp_index()] = through;
  block_barrier();
  int at = through - own, total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w < warp_index()) at += list.warps[w];
    total += list.warps[w];
  }
  for (int i = 0; i < each; ++i)
    if (mine[i]) list.rows[at++] = first + i;
  block_barrier();
  return total;
}

// Calls f(rows of the list, how many, the row they count from) for the chunk's rows of that label.
template <class S, class F>
ELBOKIT_DEVICE void for_each_list(const TypedRows<S>& rows, const std::int32_t* labels,
                                  std::int64_t chunk, std::int64_t n_chunks, std::int64_t label,
                                  RowList& list, F&& f) {
  const std::int64_t end = rows.n_samples * (chunk + 1) / n_chunks;
  for (std::int64_t begin = rows.n_samples * chunk / n_chunks; begin < end; begin += kListRows) {
    const int count = static_cast<int>(end - begin < kListRows ? end - begin : kListRows);
    f(list.rows, list_rows(labels, begin, count, label, list), begin);
    block_barrier();
  }
}

struct Plan {
  std::int64_t n_clusters, d, columns, squares, first, second, chunks, second_chunks;

  Plan(const KMeansData& data, const LabelMomentsArgs& args)
      : n_clusters(args.n_clusters), d(data.n_features) {
    const std::int64_t across = (d + kSquare - 1) / kSquare;
    columns = (d + kColumns - 1) / kColumns;
    squares = args.full ? across * (across + 1) / 2 : 0;
    first = n_clusters * (1 + 2 * d);  // counts, first moments, diagonals
    second = n_clusters * squares * kSquare * kSquare;
    chunks = chunks_of(data.n_samples, first);
    second_chunks = second > 0 ? chunks_of(data.n_samples, second) : 0;
  }
  static std::int64_t chunks_of(std::int64_t n_samples, std::int64_t sums) {
    const auto most = static_cast<std::int64_t>(kSlicesBytes / sizeof(double)) / sums;
    return std::max<std::int64_t>(
        1, std::min({(n_samples + kChunkRows - 1) / kChunkRows, most, kMostChunks}));
  }
};

struct Slices {
  double *first, *second, *first_total, *second_total;
  std::size_t used;

  Slices(Workspace workspace, const Plan& plan)
      : first(workspace.take<double>(plan.chunks * plan.first)),
        second(workspace.take<double>(plan.second_chunks * plan.second)),
        first_total(workspace.take<double>(plan.first)),
        second_total(workspace.take<double>(plan.second)),
        used(workspace.used()) {}
};

// blockIdx.x: chunk, label and columns. A slice: counts (k), first (k, d), diagonals (k, d).
template <class S>
__global__ void __launch_bounds__(kThreads)
    first_kernel(TypedRows<S> rows, LabelMomentsArgs args, Plan plan, double* slices) {
  auto* const memory = shared_memory<unsigned char>();
  auto* const sums = reinterpret_cast<double*>(memory);
  auto& list = *reinterpret_cast<RowList*>(sums + kThreads);
  const std::int64_t label = blockIdx.x / plan.columns % plan.n_clusters;
  const std::int64_t chunk = blockIdx.x / plan.columns / plan.n_clusters;
  const int first = static_cast<int>(blockIdx.x % plan.columns) * kColumns;
  const int thread = static_cast<int>(threadIdx.x), d = rows.n_features;
  const int across = d - first < kColumns ? d - first : kColumns, down = kThreads / across;
  const int part = thread / across, feature = first + thread % across;
  const double center = args.centers[label * d + feature];
  double count = 0, one = 0, two = 0;
  for_each_list(rows, args.labels, chunk, plan.chunks, label, list,
                [&](const int* listed, int n, std::int64_t begin) {
                  if (part >= down) return;
#pragma unroll 4
                  for (int i = part; i < n; i += down) {
                    const std::int64_t row = begin + listed[i];
                    const auto weight = static_cast<double>(rows.weight_of(row));
                    const double value = static_cast<double>(rows.at(row, feature)) - center;
                    count += weight;
                    one += weight * value;
                    two += weight * value * value;
                  }
                });
  double* const out = slices + chunk * plan.first;
  const auto store = [&](double value, double* to, bool writes) {
    sums[thread] = value;
    block_barrier();
    if (part == 0 && writes) {
      for (int p = 1; p < down; ++p) value += sums[p * across + thread];
      *to = value;
    }
    block_barrier();
  };
  store(count, out + label, feature == 0);
  store(one, out + plan.n_clusters + label * d + feature, true);
  store(two, out + plan.n_clusters * (1 + d) + label * d + feature, true);
}

// blockIdx.x: chunk, label and square, those of the lower triangle one row behind the other. A
// thread has two times two of its sums.
template <class S>
__global__ void __launch_bounds__(kThreads)
    second_kernel(TypedRows<S> rows, LabelMomentsArgs args, Plan plan, double* slices) {
  auto* const memory = shared_memory<unsigned char>();
  auto* const weighted = reinterpret_cast<double*>(memory);
  auto* const plain = weighted + kBatch * kPadded;
  auto& list = *reinterpret_cast<RowList*>(plain + kBatch * kPadded);
  const std::int64_t square = blockIdx.x % plan.squares;
  const std::int64_t label = blockIdx.x / plan.squares % plan.n_clusters;
  const std::int64_t chunk = blockIdx.x / plan.squares / plan.n_clusters;
  int down = 0, right = static_cast<int>(square);
  while (right > down) right -= ++down;
  const int thread = static_cast<int>(threadIdx.x), d = rows.n_features;
  constexpr int half = kSquare / 2;
  const int i = thread / half, j = thread % half;
  double sum[2][2] = {};
  // Features from `first` on of row i of the batch, less the center; nothing past the end.
  const auto stage = [&](const int* listed, int count, std::int64_t begin, int first, bool weigh,
                         double* to) {
    for (int at = thread; at < count * kSquare; at += kThreads) {
      const int feature = first + at % kSquare;
      const std::int64_t row = begin + listed[at / kSquare];
      double value = 0;
      if (feature < d)
        value = static_cast<double>(rows.at(row, feature)) - args.centers[label * d + feature];
      to[at / kSquare * kPadded + at % kSquare] =
          weigh ? static_cast<double>(rows.weight_of(row)) * value : value;
    }
  };
  for_each_list(rows, args.labels, chunk, plan.second_chunks, label, list,
                [&](const int* listed, int n, std::int64_t begin) {
                  for (int done = 0; done < n; done += kBatch) {
                    const int count = n - done < kBatch ? n - done : kBatch;
                    stage(listed + done, count, begin, down * kSquare, true, weighted);
                    stage(listed + done, count, begin, right * kSquare, false, plain);
                    block_barrier();
#pragma unroll 4
                    for (int r = 0; r < count; ++r)
                      for (int a = 0; a < 2; ++a)
                        for (int b = 0; b < 2; ++b)
                          sum[a][b] += weighted[r * kPadded + i + a * half] *
                                       plain[r * kPadded + j + b * half];
                    block_barrier();
                  }
                });
  double* const out =
      slices + chunk * plan.second + (label * plan.squares + square) * kSquare * kSquare;
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) out[(i + a * half) * kSquare + j + b * half] = sum[a][b];
}

// From the centers to the means.
ELBOKIT_DEVICE double moved(double second, const double* first, double count, std::int64_t i,
                            std::int64_t j) {
  return second - first[i] / (count > 0 ? count : 1.0) * first[j];
}

__global__ void __launch_bounds__(kThreads)
    finish_second(LabelMomentsArgs args, Plan plan, const double* first_total,
                  const double* second_total) {
  const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, d = plan.d;
  if (at >= plan.n_clusters * d * d) return;
  const std::int64_t label = at / (d * d), i = at / d % d, j = at % d;
  if (j > i) return;
  const double* const first = first_total + plan.n_clusters + label * d;
  const std::int64_t down = i / kSquare, square = down * (down + 1) / 2 + j / kSquare;
  const double second =
      second_total[((label * plan.squares + square) * kSquare + i % kSquare) * kSquare +
                   j % kSquare];
  const double value = moved(second, first, first_total[label], i, j);
  args.second[(label * d + i) * d + j] = args.second[(label * d + j) * d + i] = value;
}

__global__ void __launch_bounds__(kThreads)
    finish_first(LabelMomentsArgs args, Plan plan, const double* total) {
  const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x, d = plan.d;
  if (at >= plan.n_clusters * d) return;
  const std::int64_t label = at / d, j = at % d;
  const double count = total[label];
  const double* const first = total + plan.n_clusters + label * d;
  if (!args.full) {
    const double value = moved(total[plan.n_clusters * (1 + d) + at], first, count, j, j);
    args.second[at] = value < 0 ? 0 : value;
  }
  args.centers[at] += first[j] / (count > 0 ? count : 1.0);
  if (j == 0) args.counts[label] = count;
}

std::int64_t blocks_of(std::int64_t threads) { return (threads + kThreads - 1) / kThreads; }

}  // namespace

std::size_t label_moments_workspace(const KMeansData& data, const LabelMomentsArgs& args) {
  return Slices(Workspace(), Plan(data, args)).used;
}

void label_moments(const Queue& queue, const KMeansData& data, const LabelMomentsArgs& args) {
  expect_workspace(queue, label_moments_workspace(data, args));
  const DeviceGuard guard(queue);
  const Plan plan(data, args);
  const Slices slices(Workspace(queue), plan);
  with_rows(data.element, [&](auto element) {
    using S = decltype(element);
    const TypedRows<S> rows = typed_rows<S>(data, nullptr);
    launch(queue, {plan.chunks * plan.n_clusters * plan.columns}, kThreads,
           sizeof(double) * kThreads + sizeof(RowList), first_kernel<S>, rows, args, plan,
           slices.first);
    if (args.full)
      launch(queue, {plan.second_chunks * plan.n_clusters * plan.squares}, kThreads,
             sizeof(double) * 2 * kBatch * kPadded + sizeof(RowList), second_kernel<S>, rows, args,
             plan, slices.second);
  });
  add_slices(queue, slices.first, plan.chunks, plan.first, slices.first_total);
  if (args.full) {
    add_slices(queue, slices.second, plan.second_chunks, plan.second, slices.second_total);
    launch(queue, {blocks_of(plan.n_clusters * plan.d * plan.d)}, kThreads, 0, finish_second, args,
           plan, slices.first_total, slices.second_total);
  }
  launch(queue, {blocks_of(plan.n_clusters * plan.d)}, kThreads, 0, finish_first, args, plan,
         slices.first_total);
}

}  // namespace elbokit::cuda
