// k-means: greedy k-means++ seeds, Lloyd's iterations, and the moments of labelled rows.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

template <class T>
struct KMeansRows {
  std::int64_t n_samples, n_features;
  Matrix<const T> x;              // (n_samples, n_features), any strides
  Vector<const T> sample_weight;  // optional; not negative
};

struct KMeansOptions {
  std::int64_t n_clusters;
  std::int64_t n_trials;  // candidates for each center but the first
  std::int64_t max_iter;  // 0: the seeds alone
  double tol;             // on the squared shift of the centers, times the mean variance
  bool weigh_tol;         // whether weights count in that variance
};

// Number of uniforms that one problem reads.
inline std::int64_t kmeans_draws(const KMeansOptions& o) {
  return 1 + (o.n_clusters - 1) * o.n_trials;
}

template <class T>
struct KMeansResult {
  std::int64_t* seeds;   // (n_clusters) rows that k-means++ chose
  std::int32_t* labels;  // (n_samples); null if max_iter is 0
  double* centers;       // (n_clusters, n_features); null if max_iter is 0
  double* inertia;       // optional: it costs a pass
  std::int64_t* n_iter;
  bool* finite;  // false: distances overflow T, or a value is no number; the rest is then void
};

// Called between the passes by the thread that asked for them; may throw to end the run.
using KMeansCheck = void (*)();

// Sums of the rows of each label about its center: counts (k) sum_n w_n, first (k, d)
// sum_n w_n (x - center), second sum_n w_n (x - center)(x - center)^T: (k, d, d) or, diagonal
// alone, (k, d).
struct LabelMoments {
  double *counts, *first, *second;
};

// ---- Between dispatch and kernels ------------------------------------------------------------

// Seeding keeps its sums for runs of so many rows, whole groups at every CPU level.
inline constexpr std::int64_t kSeedRun = 64;

// Rows are read as x - pivot. A pivot near the data keeps the rounding of far-off centers out of
// the distances.
template <class T>
struct KMeansChunk {
  KMeansRows<T> rows;
  std::int64_t begin, end;
  const T* pivot;  // (n_features)
  T* workspace;    // kmeans_workspace() elements, aligned to 64 bytes
};

// Centers, here and below, are less the pivot and rounded to T. The first has been chosen:
// closest[n] = min(closest[n], |x_n - center_0|^2) is written. Of the candidate c behind it
// potentials[run * stride + c] = sum over the run's rows of w_n min(closest[n], |x_n -
// center_c|^2); c = 0 gives the sum as it is.
template <class T>
struct KMeansSeeding {
  std::int64_t n_centers;
  const T* centers;  // (n_centers, n_features)
  T* closest;        // (n_samples)
  double* potentials;
};

// A sum of many terms of which some are taken back: kept in twice the precision, so that a huge
// row leaves nothing behind when it goes.
struct KMeansSums {
  double *high, *low;     // (n_clusters, n_features + 1): sum of w (x - pivot), then of w
  std::int64_t* rows;     // (n_clusters) rows of positive weight, more or less
  std::int64_t changed;   // rows whose label is another
  std::int64_t computed;  // rows whose distances were computed
};

// One pass: labels of the nearest centers (the first of equals), and what the changes add to the
// sums. A row keeps its label unseen while drift[label] < bound[n]: drift is how much nearer any
// other center may have come since the start, and bound[n] that drift at which the row's nearest
// center might be another.
template <class T>
struct KMeansPass {
  std::int64_t n_clusters;
  const T* centers;      // (n_clusters, n_features)
  const T* drift;        // (n_clusters)
  bool all;              // compute every row, whatever its bound
  std::int32_t* labels;  // (n_samples), -1 at first
  T* bound;              // (n_samples)
};

// kmeans_spread adds the rows, and the sum of all their squares, times the weights or plain.
// kmeans_own_distances: squared distance of each row to its label's center, to distances[n] unless
// that is null; returns the sum of w_n times it.
#define ELBOKIT_DECLARE(level)                                                                   \
  namespace level {                                                                              \
  template <class T>                                                                             \
  std::int64_t kmeans_workspace(std::int64_t n_features);                                        \
  template <class T>                                                                             \
  void kmeans_spread(const KMeansChunk<T>&, bool weigh, double* first, double* squares);         \
  template <class T>                                                                             \
  void kmeans_seed(const KMeansChunk<T>&, const KMeansSeeding<T>&);                              \
  template <class T>                                                                             \
  void kmeans_pass(const KMeansChunk<T>&, const KMeansPass<T>&, KMeansSums&);                    \
  template <class T>                                                                             \
  double kmeans_own_distances(const KMeansChunk<T>&, const KMeansPass<T>&, T* distances);        \
  std::int64_t label_moments_workspace(std::int64_t n_clusters, std::int64_t n_features);        \
  template <class T>                                                                             \
  void label_moments_chunk(const KMeansRows<T>&, std::int64_t begin, std::int64_t end,           \
                           const std::int32_t* labels, std::int64_t n_clusters,                  \
                           const double* centers, bool full, const LabelMoments&, double* work); \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {

// n_problems independent problems of one kind, each with its uniforms in [0, 1) in the order in
// which scikit-learn draws them: one for the first center, n_trials for each other. The same bits
// for any number of threads.
template <class T>
void kmeans(std::int64_t n_problems, const KMeansRows<T>* rows, const KMeansOptions& options,
            const double* uniforms, const KMeansResult<T>* results, KMeansCheck check);

// Counts and second moments about the means of the labels; first is not written. centers are any
// points near the means, and become them; a label without rows keeps its center. Rows with a label
// below 0 are left out; labels null means 0 for every row.
template <class T>
void label_moments(std::int64_t n_problems, const KMeansRows<T>* rows,
                   const std::int32_t* const* labels, std::int64_t n_clusters, bool full,
                   double* const* centers, const LabelMoments* moments);

}  // namespace cpu

}  // namespace elbokit
