// Rows in tiles of shared memory, and their squared distances to centers.
#pragma once

#include <algorithm>

#include "common/elements.h"
#include "common/slices.h"
#include "kernels/kmeans.h"

namespace elbokit::cuda {

inline constexpr int kKMeansThreads = 256;
inline constexpr int kThreadRows = 2;  // rows of a tile that a thread has, kKMeansThreads apart
inline constexpr int kTileRows = kKMeansThreads * kThreadRows;
inline constexpr int kTileCenters = 8;  // centers whose distances a thread keeps in registers

template <class S>
using Computed = std::conditional_t<std::is_same_v<S, double>, double, float>;

// The rows as kernels read them. A pivot near the data keeps the rounding of far-off centers out of
// the distances.
template <class S>
struct TypedRows {
  using T = Computed<S>;
  std::int64_t n_samples;
  int n_features;
  std::ptrdiff_t row_stride;
  const S* x;
  const T* weight;  // optional
  const T* pivot;   // (n_features)
  bool packs;       // rows can be read in 16 bytes

  ELBOKIT_DEVICE T at(std::int64_t row, int feature) const {
    return widened<T>(x[row * row_stride + feature]);
  }
  ELBOKIT_DEVICE T weight_of(std::int64_t row) const { return weight ? weight[row] : T(1); }
};

// Calls f(S{}) with the type of the rows.
template <class F>
void with_rows(Element element, F&& f) {
  with_element(element, [&](auto value) {
    if constexpr (!std::is_same_v<decltype(value), std::uint8_t>) f(value);
  });
}

template <class S>
TypedRows<S> typed_rows(const KMeansData& data, const Computed<S>* pivot) {
  constexpr int pack = 16 / sizeof(S);
  const bool packs = reinterpret_cast<std::uintptr_t>(data.x) % 16 == 0 &&
                     data.row_stride % pack == 0 && data.n_features % pack == 0;
  return {data.n_samples,
          static_cast<int>(data.n_features),
          data.row_stride,
          static_cast<const S*>(data.x),
          static_cast<const Computed<S>*>(data.sample_weight),
          pivot,
          packs};
}

// Rows in chunks of whole tiles, so many at most that one block adds up what each has.
struct RowChunks {
  std::int64_t rows, count;
};
inline RowChunks row_chunks(std::int64_t n_samples) {
  constexpr std::int64_t most = 4096;
  const std::int64_t tiles = (n_samples + kTileRows - 1) / kTileRows;
  const std::int64_t each = (tiles + most - 1) / most;
  return {each * kTileRows, (tiles + each - 1) / each};
}

// Some features of the rows of a tile, of the pivot and of a few centers, in shared memory.
struct TileShape {
  int features;  // at once
  int stride;    // of a row: odd, so that rows lie in different banks

  template <class T>
  ELBOKIT_INLINE std::size_t bytes() const {
    const std::size_t all = sizeof(T) * (kTileRows * stride + features * (kTileCenters + 1));
    return (all + 15) / 16 * 16;
  }
};

// Blocks of a multiprocessor that registers allow.
template <class T>
inline constexpr int kBlocksEach = sizeof(T) == 8 ? 2 : 3;

// As many features as leave room for so many blocks, beside `scratch` bytes.
template <class T>
TileShape tile_shape(const Device& device, std::int64_t n_features, std::size_t scratch) {
  constexpr std::size_t share = 222 * 1024 / kBlocksEach<T>;
  constexpr int multiple = 8;  // whole packs
  const std::size_t room = std::min(device.shared_bytes, share) - scratch - 16;
  const int most = static_cast<int>(room / (sizeof(T) * (kTileRows + kTileCenters + 1))) - 1;
  const int features =
      n_features <= most ? static_cast<int>(n_features) : most / multiple * multiple;
  return {features, features | 1};
}

template <class T>
struct Tile {
  TileShape shape;
  T *x, *center, *pivot;  // (kTileRows, stride), (features, kTileCenters), (features)

  ELBOKIT_DEVICE Tile(TileShape given, void* memory)
      : shape(given),
        x(static_cast<T*>(memory)),
        center(x + kTileRows * shape.stride),
        pivot(center + shape.features * kTileCenters) {}
};

// Features [first, first + width) of the rows [row, row + count), as they are. Divides the work by
// V elements that are read at once.
template <int V, class S>
ELBOKIT_DEVICE void stage_packs(const TypedRows<S>& rows, std::int64_t row, int count, int first,
                                int width, const Tile<Computed<S>>& tile) {
  constexpr int flight = std::is_same_v<S, float> ? 8 : 4;  // reads under way at once
  const int across = width / V;
  const int row_step = kKMeansThreads / across, col_step = kKMeansThreads % across;
  int r = static_cast<int>(threadIdx.x) / across, c = static_cast<int>(threadIdx.x) % across;
  const S* const from = rows.x + row * rows.row_stride + first;
  while (r < count) {
    Pack<S, V> pack[flight];
    int to[flight];
    for (int i = 0; i < flight; ++i) {
      to[i] = r < count ? r * tile.shape.stride + c * V : -1;
      const std::int64_t at = r < count ? r * rows.row_stride + c * V : 0;
      pack[i] = *reinterpret_cast<const Pack<S, V>*>(from + at);
      r += row_step;
      c += col_step;
      if (c >= across) {
        c -= across;
        ++r;
      }
    }
    for (int i = 0; i < flight; ++i)
      if (to[i] >= 0)
        for (int v = 0; v < V; ++v) tile.x[to[i] + v] = widened<Computed<S>>(pack[i].at[v]);
  }
}

// f(center, sum) with the squared distances sum[i][c] from the thread's row i to the center
// center + c, for kTileCenters at a time; past n_centers, and past `count` rows, they mean nothing.
// Centers are less the pivot. Every thread of the block takes part.
template <class S, class F>
ELBOKIT_DEVICE void for_each_distance(const TypedRows<S>& rows, const Tile<Computed<S>>& tile,
                                      std::int64_t row, int count, const Computed<S>* centers,
                                      std::int64_t n_centers, F&& f) {
  using T = Computed<S>;
  const int thread = static_cast<int>(threadIdx.x), d = rows.n_features;
  const bool whole = tile.shape.features >= d;
  for (std::int64_t center = 0; center < n_centers; center += kTileCenters) {
    T sum[kThreadRows][kTileCenters] = {};
    for (int first = 0; first < d; first += tile.shape.features) {
      const int width = d - first < tile.shape.features ? d - first : tile.shape.features;
      block_barrier();  // nobody reads what is there any more
      if (!whole || center == 0) {
        if (rows.packs)
          stage_packs<16 / sizeof(S)>(rows, row, count, first, width, tile);
        else
          stage_packs<1>(rows, row, count, first, width, tile);
        for (int j = thread; j < width; j += kKMeansThreads) tile.pivot[j] = rows.pivot[first + j];
      }
      for (int i = thread; i < width * kTileCenters; i += kKMeansThreads) {
        const std::int64_t c = center + i % kTileCenters;
        tile.center[i] = c < n_centers ? centers[c * d + first + i / kTileCenters] : T(0);
      }
      block_barrier();
      const T* const own = tile.x + thread * tile.shape.stride;
#pragma unroll 2
      for (int j = 0; j < width; ++j) {
        const auto at =
            *reinterpret_cast<const Pack<T, kTileCenters>*>(tile.center + j * kTileCenters);
        const T pivot = tile.pivot[j];
        for (int i = 0; i < kThreadRows; ++i) {
          const T value = own[i * kKMeansThreads * tile.shape.stride + j] - pivot;
          for (int c = 0; c < kTileCenters; ++c) {
            const T difference = value - at.at[c];
            sum[i][c] += difference * difference;
          }
        }
      }
    }
    f(center, sum);
  }
}

// What a run keeps in its workspace.
template <class T>
struct KMeansMemory {
  T *pivot, *rounded;          // (d); (k, d): centers less the pivot
  T* closest;                  // (n_samples) distances: to the closest seed, to the own center
  T* candidates[2];            // (n_trials + 1, d) less the pivot: the last seed, then candidates
  std::int64_t* chosen[2];     // (n_trials + 1) their rows
  double* variance;            // of a feature, averaged over the features
  double* potentials;          // (n_trials + 1, chunks); of own distances the sum of each chunk
  T* farthest;                 // (chunks) the largest own distance, and the first row that has it
  std::int64_t* farthest_row;  // (chunks)
  std::int64_t n_slices;
  double *slices, *totals;  // of sums
  std::size_t used;

  KMeansMemory(Workspace workspace, const KMeansData& data, const KMeansOptions& options,
               const Device& device);
};

// A variance that is no finite number tells of the rows.
ELBOKIT_DEVICE KMeansStatus status_of(double variance, double changed, double shift, bool stop) {
  return {variance - variance == 0.0 ? 1.0 : 0.0, changed, shift, stop ? 1.0 : 0.0};
}

// Sums of a label: of each feature less the pivot, of the weights, of the rows of positive weight.
inline constexpr int kExtraSums = 2;

inline std::int64_t kmeans_sums(const KMeansData& data, const KMeansOptions& options) {
  return options.n_clusters * (data.n_features + kExtraSums) + 1;  // and the changed labels
}

}  // namespace elbokit::cuda
