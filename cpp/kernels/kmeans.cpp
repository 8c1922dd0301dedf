// Passes over a chunk of rows: group by group the rows are packed with the vector lanes along
// them, and their distances to all centers are computed and used before the next group is read.
#include "elbokit/kmeans.h"

#include "kernels/kmeans_rows.h"
#include "kernels/rows.h"
#include "math/exact_sum.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// Rows whose bounds are looked through at once.
constexpr std::int64_t kBlockRows = 4096;

// Calls f(row, count) with a packed group of consecutive rows, for the whole chunk.
template <class T, class F>
void for_each_group(const KMeansChunk<T>& chunk, F&& f) {
  std::int32_t list[kGroup<T>];
  for (int i = 0; i < kGroup<T>; ++i) list[i] = i;
  for (std::int64_t row = chunk.begin; row < chunk.end; row += kGroup<T>) {
    const std::int64_t left = chunk.end - row;
    const int count = static_cast<int>(left < kGroup<T> ? left : kGroup<T>);
    pack_listed(chunk, row, list, count, chunk.workspace);
    const std::int64_t next = chunk.end - row - kGroup<T>;
    prefetch_listed(chunk.rows, row + kGroup<T>, list, next < kGroup<T> ? next : kGroup<T>);
    f(row, count);
  }
}

// Weights of `count` <= lanes rows; 0 past them.
template <class T>
ELBOKIT_INLINE Vec<T> weights_of(const KMeansRows<T>& rows, std::int64_t row, int count) {
  const Vector<const T>& weight = rows.sample_weight;
  if (!weight) return first_lanes<T>(broadcast<T>(1), count);
  if (weight.stride == 1) return load_partial(weight.data + row, count);
  T value[kLanes<T>] = {};
  for (int i = 0; i < count; ++i) value[i] = weight[row + i];
  return load(value);
}

// Rows of vector v within a group of `count` rows.
template <class T>
ELBOKIT_INLINE int rows_of_vector(int count, int v) {
  const int left = count - v * kLanes<T>;
  return left < 0 ? 0 : left < kLanes<T> ? left : kLanes<T>;
}

// The row, `factor` times, to the sums of a label.
template <class T>
void move_row(const KMeansChunk<T>& chunk, std::int64_t row, std::int32_t label, double factor,
              KMeansSums& sums) {
  const KMeansRows<T>& rows = chunk.rows;
  const std::int64_t d = rows.n_features;
  const double weight = rows.sample_weight ? rows.sample_weight[row] : T(1);
  if (weight == 0.0) return;
  double* __restrict const high = sums.high + label * (d + 1);
  double* __restrict const low = sums.low + label * (d + 1);
  const T* const x = rows.x.row(row);
  const T* const pivot = chunk.pivot;
  const double scale = factor * weight;
  const auto add = [&](std::int64_t j, T value) ELBOKIT_INLINE_LAMBDA {
    const double term = scale * (static_cast<double>(value) - static_cast<double>(pivot[j]));
    add_exactly(high[j], low[j], term);
  };
  if (rows.x.col_stride == 1) {
    for (std::int64_t j = 0; j < d; ++j) add(j, x[j]);
  } else {
    for (std::int64_t j = 0; j < d; ++j) add(j, x[j * rows.x.col_stride]);
  }
  add_exactly(high[d], low[d], scale);
  sums.rows[label] += factor > 0 ? 1 : -1;
}

// The nearest center of each row of a group, its distance, and that of the next one.
template <class T>
struct Nearest {
  T label[kGroup<T>], best[kGroup<T>], second[kGroup<T>];
};

template <class T>
ELBOKIT_INLINE void find_nearest(const T* x, std::int64_t d, const KMeansPass<T>& pass,
                                 Nearest<T>& out) {
  const Vec<T> infinite = broadcast<T>(static_cast<T>(__builtin_huge_val()));
  Vec<T> label[kRowVectors], best[kRowVectors], second[kRowVectors];
  for (int v = 0; v < kRowVectors; ++v) {
    label[v] = Vec<T>{};
    best[v] = second[v] = infinite;
  }
  for_each_distance(x, d, pass.centers, pass.n_clusters,
                    [&](std::int64_t c, const Vec<T>(&distance)[kRowVectors])
                        ELBOKIT_INLINE_LAMBDA {
                          const Vec<T> number = broadcast<T>(static_cast<T>(c));
                          for (int v = 0; v < kRowVectors; ++v) {
                            const auto nearer = distance[v] < best[v];
                            const Vec<T> other = nearer ? best[v] : distance[v];
                            second[v] = other < second[v] ? other : second[v];
                            best[v] = nearer ? distance[v] : best[v];
                            label[v] = nearer ? number : label[v];
                          }
                        });
  for (int v = 0; v < kRowVectors; ++v) {
    store(out.label + v * kLanes<T>, label[v]);
    store(out.best + v * kLanes<T>, best[v]);
    store(out.second + v * kLanes<T>, second[v]);
  }
}

// How much nearer another center may come before the label can change, certainly: rounding in the
// distances, now and later, is taken off three times over. Written over `second`.
template <class T>
ELBOKIT_INLINE void find_gaps(std::int64_t d, Nearest<T>& nearest) {
  const T epsilon = sizeof(T) == 4 ? T(0x1p-23) : T(0x1p-52);
  const T margin = 3 * static_cast<T>(d + 4) * epsilon;
  for (int v = 0; v < kGroup<T>; v += kLanes<T>) {
    const Vec<T> far = sqrt<T>(load(nearest.second + v)) * (1 - margin);
    store(nearest.second + v, far - sqrt<T>(load(nearest.best + v)) * (1 + margin));
  }
}

// Numbers, from `base`, of those of the rows [begin, begin + count) whose label may change.
template <class T>
std::int64_t list_rows(const KMeansPass<T>& pass, std::int64_t base, std::int64_t begin,
                       std::int64_t count, std::int32_t* list) {
  std::int64_t listed = 0;
  for (std::int64_t n = begin; n < begin + count; ++n) {
    list[listed] = static_cast<std::int32_t>(n - base);
    listed += pass.all || !(pass.drift[pass.labels[n]] < pass.bound[n]);
  }
  return listed;
}

template <class T>
void assign_group(const KMeansChunk<T>& chunk, const KMeansPass<T>& pass, const std::int32_t* list,
                  int count, KMeansSums& sums) {
  const T slack = sizeof(T) == 4 ? T(1 - 0x1p-22) : T(1 - 0x1p-51);
  Nearest<T> nearest;
  pack_listed(chunk, chunk.begin, list, count, chunk.workspace);
  find_nearest(chunk.workspace, chunk.rows.n_features, pass, nearest);
  find_gaps(chunk.rows.n_features, nearest);
  for (int i = 0; i < count; ++i) {
    const std::int64_t row = chunk.begin + list[i];
    const auto label = static_cast<std::int32_t>(nearest.label[i]);
    const std::int32_t before = pass.labels[row];
    pass.bound[row] = (pass.drift[label] + nearest.second[i]) * slack;
    if (label == before) continue;
    if (before >= 0) move_row(chunk, row, before, -1.0, sums);
    move_row(chunk, row, label, 1.0, sums);
    pass.labels[row] = label;
    ++sums.changed;
  }
}

}  // namespace

template <class T>
std::int64_t kmeans_workspace(std::int64_t n_features) {
  return n_features * kGroup<T>;
}

template <class T>
void kmeans_spread(const KMeansChunk<T>& chunk, bool weigh, double* first, double* squares) {
  const T* const x = chunk.workspace;
  for_each_group(chunk, [&](std::int64_t row, int count) {
    Vec<T> weight[kRowVectors];
    for (int v = 0; weigh && v < kRowVectors; ++v)
      weight[v] = weights_of(chunk.rows, row + v * kLanes<T>, rows_of_vector<T>(count, v));
    double group = 0;
    for (std::int64_t j = 0; j < chunk.rows.n_features; ++j) {
      Vec<T> sum{}, square{};
      for (int v = 0; v < kRowVectors; ++v) {
        const Vec<T> value =
            first_lanes<T>(load(x + j * kGroup<T> + v * kLanes<T>), rows_of_vector<T>(count, v));
        const Vec<T> weighted = weigh ? weight[v] * value : value;
        sum += weighted;
        square += weighted * value;
      }
      first[j] += reduce_add<T>(sum);
      group += reduce_add<T>(square);
    }
    *squares += group;
  });
}

template <class T>
void kmeans_seed(const KMeansChunk<T>& chunk, const KMeansSeeding<T>& seeding) {
  for_each_group(chunk, [&](std::int64_t row, int count) {
    double* const potentials = seeding.potentials + row / kSeedRun * seeding.n_centers;
    if (row % kSeedRun == 0)
      for (std::int64_t c = 0; c < seeding.n_centers; ++c) potentials[c] = 0;
    Vec<T> weight[kRowVectors], closest[kRowVectors];
    for (int v = 0; v < kRowVectors; ++v) {
      const int height = rows_of_vector<T>(count, v);
      weight[v] = weights_of(chunk.rows, row + v * kLanes<T>, height);
      closest[v] = load_partial(seeding.closest + row + v * kLanes<T>, height);
    }
    for_each_distance(
        chunk.workspace, chunk.rows.n_features, seeding.centers, seeding.n_centers,
        [&](std::int64_t c, const Vec<T>(&distance)[kRowVectors]) ELBOKIT_INLINE_LAMBDA {
          Vec<T> sum{};
          for (int v = 0; v < kRowVectors; ++v) {
            const Vec<T> least = distance[v] < closest[v] ? distance[v] : closest[v];
            if (c == 0) {
              closest[v] = least;
              write<T>(seeding.closest + row + v * kLanes<T>, least, rows_of_vector<T>(count, v));
            }
            sum += weight[v] * least;
          }
          potentials[c] += reduce_add<T>(sum);
        });
  });
}

template <class T>
void kmeans_pass(const KMeansChunk<T>& chunk, const KMeansPass<T>& pass, KMeansSums& sums) {
  // Numbers count from the chunk's first row. What fills no group waits for the next block.
  std::int32_t list[kBlockRows + kGroup<T>];
  std::int64_t listed = 0;
  const auto prefetch = [&](std::int64_t from) ELBOKIT_INLINE_LAMBDA {
    const std::int64_t left = listed - from;
    prefetch_listed(chunk.rows, chunk.begin, list + from, left < kGroup<T> ? left : kGroup<T>);
  };
  for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += kBlockRows) {
    const std::int64_t left = chunk.end - begin;
    const bool last = left <= kBlockRows;
    const std::int64_t found =
        list_rows(pass, chunk.begin, begin, last ? left : kBlockRows, list + listed);
    listed += found;
    sums.computed += found;
    prefetch(0);
    std::int64_t done = 0;
    for (; listed - done >= (last ? 1 : kGroup<T>); done += kGroup<T>) {
      const std::int64_t count = listed - done < kGroup<T> ? listed - done : kGroup<T>;
      prefetch(done + kGroup<T>);
      assign_group(chunk, pass, list + done, static_cast<int>(count), sums);
    }
    for (std::int64_t i = done; i < listed; ++i) list[i - done] = list[i];
    listed -= done;
  }
}

template <class T>
double kmeans_own_distances(const KMeansChunk<T>& chunk, const KMeansPass<T>& pass, T* distances) {
  const KMeansRows<T>& rows = chunk.rows;
  double inertia = 0;
  for (std::int64_t n = chunk.begin; n < chunk.end; ++n) {
    const T* const center = pass.centers + pass.labels[n] * rows.n_features;
    const T* const x = rows.x.row(n);
    const auto square = [&](std::int64_t j, T value) ELBOKIT_INLINE_LAMBDA {
      const T shifted = value - chunk.pivot[j];
      const double difference = static_cast<double>(shifted) - static_cast<double>(center[j]);
      return difference * difference;
    };
    double distance = 0;
    std::int64_t j = 0;
    if (rows.x.col_stride == 1) {
      constexpr int lanes = kLanes<double>;
      Vec<double> sum{};
      for (; j + lanes <= rows.n_features; j += lanes)
        for (int i = 0; i < lanes; ++i) sum[i] += square(j + i, x[j + i]);
      distance = reduce_add<double>(sum);
    }
    for (; j < rows.n_features; ++j) distance += square(j, x[j * rows.x.col_stride]);
    if (distances) distances[n] = static_cast<T>(distance);
    inertia += rows.sample_weight ? rows.sample_weight[n] * distance : distance;
  }
  return inertia;
}

#define ELBOKIT_INSTANTIATE(T)                                                           \
  template double kmeans_own_distances(const KMeansChunk<T>&, const KMeansPass<T>&, T*); \
  template std::int64_t kmeans_workspace<T>(std::int64_t);                               \
  template void kmeans_spread(const KMeansChunk<T>&, bool, double*, double*);            \
  template void kmeans_seed(const KMeansChunk<T>&, const KMeansSeeding<T>&);             \
  template void kmeans_pass(const KMeansChunk<T>&, const KMeansPass<T>&, KMeansSums&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::ELBOKIT_LEVEL
