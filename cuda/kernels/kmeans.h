// k-means on the GPU, and the moments of labelled rows. What is computed, and the names, are those
// of elbokit/kmeans.h; here all pointers are the device's.
#pragma once

#include "common/queue.h"
#include "elbokit/kmeans.h"

namespace elbokit::cuda {

// One problem. Sums of differences are in T: double for rows of float64, float for the others.
struct KMeansData {
  std::int64_t n_samples, n_features;  // at least 1
  const void* x;                       // columns contiguous
  Element element;
  std::ptrdiff_t row_stride;  // in elements
  const void* sample_weight;  // optional: contiguous, of T
};

// What the caller reads back.
struct KMeansStatus {
  double finite;   // 0: distances overflow T, or a value is no number; the rest is then void
  double changed;  // labels that the last pass changed
  double shift;    // squared, of the centers, in all
  double stop;     // not 0: no label changed, or the centers hardly moved
};

// `options.max_iter` is the caller's business. All functions of one run get the same queue, whose
// workspace carries state from one to the next.
struct KMeansRun {
  KMeansOptions options;
  std::int64_t* seeds;   // (n_clusters)
  std::int32_t* labels;  // (n_samples), -1 at first
  double* centers;       // (n_clusters, n_features)
  KMeansStatus* status;
};

// At most 256 MiB, or what one block's sums take, and a few numbers per row.
std::size_t kmeans_workspace(const KMeansData& data, const KMeansOptions& options,
                             const Device& device);

// Greedy k-means++ with kmeans_draws() uniforms.
void kmeans_seed(const Queue& queue, const KMeansData& data, const KMeansRun& run,
                 const double* uniforms);
// Centers at the seeds.
void kmeans_start(const Queue& queue, const KMeansData& data, const KMeansRun& run);
// Labels of the nearest centers; unless `last`, and if any changed, centers are moved.
void kmeans_step(const Queue& queue, const KMeansData& data, const KMeansRun& run, bool last);
// Until now centers were less the pivot. `inertia` is optional.
void kmeans_finish(const Queue& queue, const KMeansData& data, const KMeansRun& run,
                   double* inertia);

// As cpu::label_moments for one problem; rows of a label that is not in [0, n_clusters) are left
// out.
struct LabelMomentsArgs {
  std::int64_t n_clusters;
  const std::int32_t* labels;  // optional
  bool full;
  double *centers, *counts, *second;
};
std::size_t label_moments_workspace(const KMeansData& data, const LabelMomentsArgs& args);
void label_moments(const Queue& queue, const KMeansData& data, const LabelMomentsArgs& args);

}  // namespace elbokit::cuda
