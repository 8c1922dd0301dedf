// Greedy k-means++: two launches for each center, and nothing of it is read back. Distances to the
// seed that was taken last are computed beside those to the next candidates, as on the CPU.
#include "kernels/kmeans_spread.h"

namespace elbokit::cuda {

namespace {

constexpr std::size_t kSearchBytes = sizeof(FindScratch) + sizeof(double) * kTileRows;

// Of each chunk the sum of its rows' weights.
template <class S>
__global__ void __launch_bounds__(kKMeansThreads)
    weights_kernel(TypedRows<S> rows, std::int64_t chunk_rows, double* sums) {
  const std::int64_t begin = blockIdx.x * chunk_rows;
  const std::int64_t end =
      begin + chunk_rows < rows.n_samples ? begin + chunk_rows : rows.n_samples;
  double sum = 0;
  for (std::int64_t row = begin + threadIdx.x; row < end; row += kKMeansThreads)
    sum += static_cast<double>(rows.weight[row]);
  sum = block_sum<kKMeansThreads>(sum, shared_memory<double>());
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
struct Candidates {
  int count;
  const T* centers;          // (count, d)
  const std::int64_t* rows;  // (count)
  const double* potentials;  // (count, chunks)
};

// Candidate 0 has been taken: closest[n] = min(closest[n], distance to it). potentials: what the
// sum of w_n closest[n] is with each candidate, of each chunk of rows.
template <class S>
__global__ void __launch_bounds__(kKMeansThreads, std::is_same_v<S, float> ? 3 : 2)
    potentials_kernel(TypedRows<S> rows, TileShape shape, std::int64_t chunk_rows, int n_candidates,
                      const Computed<S>* centers, bool first, Computed<S>* closest,
                      double* potentials) {
  using T = Computed<S>;
  auto* const memory = shared_memory<unsigned char>();
  const Tile<T> tile(shape, memory + sizeof(double) * kKMeansThreads / kWarp);
  const std::int64_t begin = blockIdx.x * chunk_rows;
  const std::int64_t end =
      begin + chunk_rows < rows.n_samples ? begin + chunk_rows : rows.n_samples;
  for (int group = 0; group < n_candidates; group += kTileCenters) {
    const int size = n_candidates - group < kTileCenters ? n_candidates - group : kTileCenters;
    double total[kTileCenters] = {};
    for (std::int64_t row = begin; row < end; row += kTileRows) {
      const int count = static_cast<int>(end - row < kTileRows ? end - row : kTileRows);
      for_each_distance(rows, tile, row, count, centers + std::int64_t{group} * rows.n_features,
                        size, [&](std::int64_t, const T(&distance)[kThreadRows][kTileCenters]) {
                          for (int i = 0; i < kThreadRows; ++i) {
                            const int at = static_cast<int>(threadIdx.x) + i * kKMeansThreads;
                            if (at >= count) continue;
                            const std::int64_t n = row + at;
                            T least = first ? static_cast<T>(__builtin_huge_val()) : closest[n];
                            if (group == 0) {
                              least = distance[i][0] < least ? distance[i][0] : least;
                              closest[n] = least;
                            }
                            const T weight = rows.weight_of(n);
                            for (int c = 0; c < kTileCenters; ++c)
                              total[c] += static_cast<double>(
                                  weight * (distance[i][c] < least ? distance[i][c] : least));
                          }
                        });
    }
    for (int c = 0; c < kTileCenters; ++c)
      if (c < size) {
        const double sum = block_sum<kKMeansThreads>(total[c], reinterpret_cast<double*>(memory));
        if (threadIdx.x == 0) potentials[(group + c) * std::int64_t{gridDim.x} + blockIdx.x] = sum;
      }
  }
}

struct SearchArgs {
  TileShape shape;
  RowChunks chunks;
  std::int64_t seed;       // number of the seed that is decided by now
  bool first;              // the first seed itself is to be found
  bool last;               // no candidates for another one
  const double* uniforms;  // one for each block
  std::int64_t* seeds;
};

// The first row at which the sum of w_n closest[n] reaches `target`, in the chunk where it does.
// The seed that was taken last has yet to reach these rows. For the first seed all are alike.
template <class S>
ELBOKIT_DEVICE std::int64_t find_row(const TypedRows<S>& rows, const SearchArgs& args,
                                     const Tile<Computed<S>>& tile, const Found& chunk,
                                     double target, const Computed<S>* center,
                                     const Computed<S>* closest, FindScratch* scratch,
                                     double* mass) {
  using T = Computed<S>;
  const std::int64_t begin = chunk.at * args.chunks.rows;
  const std::int64_t end =
      begin + args.chunks.rows < rows.n_samples ? begin + args.chunks.rows : rows.n_samples;
  double before = chunk.before;
  for (std::int64_t row = begin; row < end; row += kTileRows) {
    const int count = static_cast<int>(end - row < kTileRows ? end - row : kTileRows);
    const auto weigh = [&](int i, T distance) {
      const int at = static_cast<int>(threadIdx.x) + i * kKMeansThreads;
      if (at >= count) return;
      if (!args.first && closest[row + at] < distance) distance = closest[row + at];
      mass[at] = static_cast<double>(rows.weight_of(row + at) * distance);
    };
    if (args.first) {
      for (int i = 0; i < kThreadRows; ++i) weigh(i, T(1));
    } else {
      for_each_distance(rows, tile, row, count, center, 1,
                        [&](std::int64_t, const T(&distance)[kThreadRows][kTileCenters]) {
                          for (int i = 0; i < kThreadRows; ++i) weigh(i, distance[i][0]);
                        });
    }
    block_barrier();
    const Found found = find_in_block<kKMeansThreads>([&](std::int64_t i) { return mass[i]; },
                                                      count, before, target, args.first, scratch);
    if (found.at >= 0) return row + found.at;
    before = found.before;
  }
  return end - 1;
}

// Decides which candidate leaves least, the first of equals; block t then finds candidate t for the
// next seed by its uniform.
template <class S>
__global__ void __launch_bounds__(kKMeansThreads)
    search_kernel(TypedRows<S> rows, SearchArgs args, Candidates<Computed<S>> given,
                  const Computed<S>* closest, Computed<S>* centers, std::int64_t* chosen) {
  using T = Computed<S>;
  auto* const memory = shared_memory<unsigned char>();
  auto* const scratch = reinterpret_cast<FindScratch*>(memory);
  auto* const mass = reinterpret_cast<double*>(scratch + 1);
  const Tile<T> tile(args.shape, mass + kTileRows);
  const int thread = static_cast<int>(threadIdx.x), d = rows.n_features;
  const std::int64_t n = args.chunks.count;
  int best = 0;
  double least = 0;
  const bool counted = !args.first || rows.weight;
  for (int c = given.count > 1; counted && c < given.count; ++c) {
    double sum = 0;
    for (std::int64_t i = thread; i < n; i += kKMeansThreads) sum += given.potentials[c * n + i];
    sum = block_sum<kKMeansThreads>(sum, scratch->warps);
    if (best == 0 || sum < least) best = c, least = sum;
  }
  const T* const taken = given.centers + std::int64_t{best} * d;
  if (!args.first && blockIdx.x == 0) {
    if (thread == 0) args.seeds[args.seed] = given.rows[best];
    if (!args.last)
      for (int j = thread; j < d; j += kKMeansThreads) centers[j] = taken[j];
  }
  if (args.last) return;
  const double uniform = args.uniforms[blockIdx.x];
  std::int64_t row = rows.n_samples - 1;
  if (args.first && !rows.weight) {
    const auto at = static_cast<std::int64_t>(uniform * static_cast<double>(rows.n_samples));
    row = at < row ? at : row;
  } else {
    const double target = uniform * least;
    const double* const sums = given.potentials + best * n;
    Found chunk = find_in_block<kKMeansThreads>([&](std::int64_t i) { return sums[i]; }, n, 0.0,
                                                target, args.first, scratch);
    if (chunk.at < 0) chunk = {n - 1, -__builtin_huge_val()};  // rounding: the last row
    row = find_row(rows, args, tile, chunk, target, taken, closest, scratch, mass);
  }
  const std::int64_t place = args.first ? 0 : 1 + std::int64_t{blockIdx.x};
  for (int j = thread; j < d; j += kKMeansThreads)
    centers[place * d + j] = rows.at(row, j) - rows.pivot[j];
  if (thread != 0) return;
  chosen[place] = row;
  if (args.first) args.seeds[0] = row;
}

template <class S>
class Seeder {
  using T = Computed<S>;

 public:
  Seeder(const Queue& queue, const KMeansData& data, const KMeansRun& run)
      : queue_(queue),
        data_(data),
        run_(run),
        memory_(Workspace(queue), data, run.options, device_of(queue)),
        rows_(typed_rows<S>(data, memory_.pivot)),
        chunks_(row_chunks(data.n_samples)),
        trials_(static_cast<int>(run.options.n_trials)) {}

  void choose(const double* uniforms) {
    if (data_.sample_weight)
      launch(queue_, {chunks_.count}, kKMeansThreads, sizeof(double) * kKMeansThreads / kWarp,
             weights_kernel<S>, rows_, chunks_.rows, memory_.potentials);
    const std::int64_t k = run_.options.n_clusters;
    search(0, true, false, uniforms++, 1);
    if (k == 1) return;
    evaluate(1, true);
    for (std::int64_t seed = 1; seed < k; ++seed, uniforms += trials_) {
      search(seed - 1, false, false, uniforms, seed == 1 ? 1 : trials_ + 1);
      evaluate(trials_ + 1, false);
    }
    search(k - 1, false, true, nullptr, trials_ + 1);
  }

 private:
  // The candidates are in buffer `now_`; new ones go to the other, which is then the one.
  void search(std::int64_t seed, bool first, bool last, const double* uniforms, int given) {
    const TileShape shape = tile_shape<T>(device_of(queue_), data_.n_features, kSearchBytes);
    const SearchArgs args{shape, chunks_, seed, first, last, uniforms, run_.seeds};
    launch(queue_, {first || last ? 1 : trials_}, kKMeansThreads, kSearchBytes + shape.bytes<T>(),
           search_kernel<S>, rows_, args,
           Candidates<T>{given, memory_.candidates[now_], memory_.chosen[now_], memory_.potentials},
           memory_.closest, memory_.candidates[1 - now_], memory_.chosen[1 - now_]);
    now_ = 1 - now_;
  }

  void evaluate(int candidates, bool first) {
    constexpr std::size_t scratch = sizeof(double) * kKMeansThreads / kWarp;
    const TileShape shape = tile_shape<T>(device_of(queue_), data_.n_features, scratch);
    launch(queue_, {chunks_.count}, kKMeansThreads, scratch + shape.bytes<T>(),
           potentials_kernel<S>, rows_, shape, chunks_.rows, candidates, memory_.candidates[now_],
           first, memory_.closest, memory_.potentials);
  }

  const Queue& queue_;
  const KMeansData& data_;
  const KMeansRun& run_;
  KMeansMemory<T> memory_;
  TypedRows<S> rows_;
  RowChunks chunks_;
  int trials_, now_ = 0;
};

}  // namespace

void kmeans_seed(const Queue& queue, const KMeansData& data, const KMeansRun& run,
                 const double* uniforms) {
  expect_workspace(queue, kmeans_workspace(data, run.options, device_of(queue)));
  const DeviceGuard guard(queue);
  with_rows(data.element, [&](auto element) {
    kmeans_spread<decltype(element)>(queue, data, run);
    Seeder<decltype(element)> seeder(queue, data, run);
    seeder.choose(uniforms);
  });
}

}  // namespace elbokit::cuda
