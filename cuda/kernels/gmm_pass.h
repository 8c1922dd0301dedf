// What the kernels of one pass over the rows of mixtures share. The rows go through in chunks whose
// log-probabilities, components times rows, stay in the second-level cache: logits, then
// responsibilities in their place, then sums over the rows.
#pragma once

#include "common/reduce.h"
#include "common/tensor_core.h"
#include "kernels/gmm.h"
#include "kernels/gmm_units.h"
#include "math/gaussian.h"

namespace elbokit::cuda {

// Features of full covariances, and columns of their factors, are handled in eights.
inline constexpr int kTileFeatures = 8;

// A squared whitened coordinate is half log2(e) on average near a component. So much less is summed
// up for each, exactly: sums over many features then stay small, and their rounding with them.
inline constexpr double kExpectedSquare = 0.75;

// Rows and components of one thread where the distances to components are made.
template <class T>
inline constexpr int kMostThreadRows = sizeof(T) == 4 ? 8 : 4;
inline constexpr int kThreadComponents = 4;

// Components and features of one block where moments are summed up: fours to a thread.
inline constexpr int kMomentTile = 64;
// Sums that one thread of it has: of the weights, their first and their second moments.
inline constexpr int kMomentRows = 9;

// Tiles of a triangle that a block of sums of second moments may have: 8 x 8 for a thread, or on
// the matrix units 32 x 32 for a warp.
inline constexpr int kMostTiles = 128, kMostUnitTiles = 12, kUnitTile = 32;

// How the work is cut. It depends on the shapes and the device alone, as do the results.
struct GmmPlan {
  Covariance covariance;
  std::int64_t n, k, d;
  bool triangular;        // full or tied
  std::int64_t tiles;     // of features, and with them padded:
  std::int64_t padded;    // whole tiles
  std::int64_t mixtures;  // at once
  std::int64_t chunk;     // rows at once
  std::int64_t ld;        // of the logits: component k's are at logits + k * ld
  bool widens;            // rows become T in the workspace first
  bool units;             // logits of full or tied covariances are products on the matrix units
  // Parts of a chunk's rows, each with sums of its own.
  std::int64_t moment_ranges, scatter_ranges;
  std::int64_t row_blocks;  // blocks of a chunk that sum up the log-likelihood

  ELBOKIT_INLINE std::int64_t factors() const { return covariance == Covariance::tied ? 1 : k; }
  ELBOKIT_INLINE std::int64_t factor_size() const {
    return tiles * (tiles + 1) / 2 * kTileFeatures * kTileFeatures;
  }
  ELBOKIT_INLINE std::int64_t component_tiles() const {
    return (k + kMomentTile - 1) / kMomentTile;
  }
  ELBOKIT_INLINE std::int64_t feature_tiles() const { return (d + kMomentTile - 1) / kMomentTile; }
  // Fours of the components, or features, of one tile of theirs.
  ELBOKIT_INLINE std::int64_t fours(std::int64_t all) const {
    return ((all < kMomentTile ? all : kMomentTile) + 3) / 4;
  }
  ELBOKIT_INLINE std::int64_t moment_tiles() const {
    return fours(k) * fours(d);
  }  // of one block, 4 x 4
  // Elements of the sums of one range.
  ELBOKIT_INLINE std::int64_t moments_size() const {
    return component_tiles() * feature_tiles() * moment_tiles() * kMomentRows * 4;
  }
  ELBOKIT_INLINE std::int64_t scatter_size() const { return triangular ? k * factor_size() : 0; }
  // Tiles of the triangle, and blocks that share them.
  ELBOKIT_INLINE std::int64_t scatter_tiles() const {
    const std::int64_t side = units ? (d + kUnitTile - 1) / kUnitTile : tiles;
    return side * (side + 1) / 2;
  }
  ELBOKIT_INLINE std::int64_t scatter_splits() const {
    const std::int64_t most = units ? kMostUnitTiles : kMostTiles;
    return (scatter_tiles() + most - 1) / most;
  }
};

// The parameters in the type and the units of the kernels, as described for GmmModel in
// elbokit/gmm.h; made on the device. Where there are several mixtures, each array has them in
// front.
template <class T>
struct GmmTables {
  T* center;  // (k, padded)
  T* factor;  // triangular: (factors), 8 x 8 tiles of P by columns, those down to the diagonal
  T* bias;    // triangular: (k, padded)
  Fragment* fragments;  // of units: see gmm_full.h
  T* table;             // else: (d, 3, k), center, precision and bias
  T* log_const;         // (k), largest is 0
  double* log_base;     // one number, less what kExpectedSquare adds
  double* exact;        // (k): logarithms of the constants
};

// The rows of one chunk.
template <class T>
struct GmmChunkRows {
  const T* x;
  std::ptrdiff_t mixture_stride, row_stride;
  std::int64_t count;
};

// Sums of all chunks so far, by range; those of several mixtures one behind the other.
struct GmmPartials {
  double *moments, *scatter, *log_likelihood;
};

inline constexpr std::int64_t kMostMixtures = 65535;  // of one launch: a grid's z

// The parameters of mixture m and those after it.
GmmMixtures mixtures_from(const GmmMixtures& all, std::int64_t n_features, std::int64_t m);

// Everything in the workspace.
template <class T>
struct GmmSpace {
  GmmTables<T> tables;
  T *logits, *wide, *scratch;
  GmmPartials partials;
  double* first;  // (k, d): about the centers
};

GmmPlan gmm_plan(const GmmData& data, const GmmMixtures& mixtures, bool wide, const Device& device,
                 bool sums);
template <class T>
GmmSpace<T> gmm_space(const GmmPlan& plan, const Device& device, Workspace& workspace, bool sums);

// Bytes of a chunk's logits. For tests: it is 24 MiB.
std::size_t& gmm_chunk_bytes();

// Entry (j, i) of a packed triangle, j / 8 <= i / 8.
ELBOKIT_DEVICE std::int64_t packed_index(std::int64_t j, std::int64_t i) {
  const std::int64_t t = i / kTileFeatures, b = j / kTileFeatures;
  return ((t * (t + 1) / 2 + b) * kTileFeatures + j % kTileFeatures) * kTileFeatures +
         i % kTileFeatures;
}

// What rounding left out of a mean's center.
template <class T>
ELBOKIT_DEVICE double residual(double mean) {
  return mean - static_cast<double>(static_cast<T>(mean));
}

// ---- The steps, for plan.mixtures mixtures at a time
// ---------------------------------------------

template <class T>
void make_tables(const Queue& queue, const GmmPlan& plan, const GmmMixtures& mixtures,
                 const GmmTables<T>& tables);

// Elements of scratch for the rows of many features, which shared memory does not hold.
template <class T>
std::int64_t logits_scratch(const GmmPlan& plan, const Device& device);
template <class T>
void make_logits(const Queue& queue, const GmmPlan& plan, const GmmTables<T>& tables,
                 const GmmChunkRows<T>& rows, T* scratch, T* logits);

// As many blocks over the components, `most` of them, as the device has room for beside those over
// the rows.
int component_blocks(const Queue& queue, std::int64_t blocks, std::int64_t most);

// Where a chunk's results go; all optional. The strides are between mixtures.
template <class T>
struct GmmChunkOutputs {
  const double* sample_weight;
  T *log_prob, *responsibilities;
  std::int64_t* labels;
  double* log_likelihood;  // added to, one number for each block
  std::ptrdiff_t stride;   // in rows
  bool keep;               // responsibilities, times the sample weights, replace the logits
};
template <class T>
void make_responsibilities(const Queue& queue, const GmmPlan& plan, const GmmTables<T>& tables,
                           std::int64_t count, T* logits, const GmmChunkOutputs<T>& outputs);

template <class T>
void add_moments(const Queue& queue, const GmmPlan& plan, const GmmTables<T>& tables,
                 const GmmChunkRows<T>& rows, const T* responsibilities, double* sums);
template <class T>
void add_scatter(const Queue& queue, const GmmPlan& plan, const GmmTables<T>& tables,
                 const GmmChunkRows<T>& rows, const T* responsibilities, double* sums);

template <class T>
void merge_sums(const Queue& queue, const GmmPlan& plan, const double* means,
                const GmmPartials& partials, double* first, const GmmStatistics& statistics);

}  // namespace elbokit::cuda
