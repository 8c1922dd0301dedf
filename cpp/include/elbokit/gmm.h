// Mixture of Gaussians: the E-step, and the sufficient statistics of one E- and M-step, in one
// pass over the rows.
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

enum class Covariance { full, tied, diag, spherical };

// Entries of one mixture's covariances, precisions_cholesky or second moments.
inline std::int64_t covariance_size(Covariance covariance, std::int64_t n_components,
                                    std::int64_t n_features) {
  switch (covariance) {
    case Covariance::full:
      return n_components * n_features * n_features;
    case Covariance::tied:
      return n_features * n_features;
    case Covariance::diag:
      return n_components * n_features;
    default:
      return n_components;
  }
}

// One mixture, in double. Shapes of precisions_cholesky are scikit-learn's: full (K, D, D) and
// tied (D, D) upper triangular with y = (x - mean) P; diag (K, D); spherical (K).
struct GmmParameters {
  Covariance covariance;
  std::int64_t n_components, n_features;
  const double *weights, *means, *precisions_cholesky;
};

template <class T>
struct GmmRows {
  std::int64_t n_samples;
  Matrix<const T> x;              // (n_samples, n_features), any strides
  Vector<const T> sample_weight;  // optional
  // Where set, T is double and these are the rows, in place of x: widened as they are read.
  Matrix<const float> narrow{};
};

// Each optional. log_prob[n] = log p(x_n); responsibilities (n_samples, n_components),
// col_stride 1; labels[n]: the component of the largest responsibility, of equal ones the first;
// grad_x (n_samples, n_features), col_stride 1: grad[n] times the gradient of log p in x_n,
// 0 where log p(x_n) = -inf.
template <class T>
struct GmmPosterior {
  Vector<T> log_prob;
  Matrix<T> responsibilities;
  Vector<std::int64_t> labels{};
  Vector<const T> grad{};
  Matrix<T> grad_x{};
};

// With r the responsibilities and w the sample weights, about the means of the parameters:
//   counts[k]         sum_n w_n r_nk
//   first[k, i]       sum_n w_n r_nk (x - mean_k)_i
//   second            sum_n w_n r_nk (x - mean_k)_i (x - mean_k)_j:
//                     full (K, D, D), tied (D, D) summed over k, diag (K, D) with i = j,
//                     spherical (K) summed over i = j
//   log_likelihood    sum_n w_n log p(x_n)
struct GmmStatistics {
  double *counts, *first, *second, *log_likelihood;
};

// ---- Between dispatch and kernels ------------------------------------------------------------

// Spherical covariance is diagonal with one precision for all features. Tied is full with one
// factor for all components, or, where it costs less and loses nothing, a family of its own.
enum class Family { full, diag, tied };

// Rows of components, and of a triangular factor's columns, are handled in fours.
inline constexpr int kTile = 4;

// Up to so many features a full factor is not cut into tiles.
inline constexpr std::int64_t kSmallFeatures = 4;

// The M-step leaves out what the rounding of its sums would swallow. Of component k those rows are
// dropped whose responsibility, times the sample weight over the mean sample weight, is at most
// kDropped<T> times the component's share of the weights. Of a component that keeps kKept of the
// count that its weight promised, at most 2^-34 (double 2^-64) of the count is lost, and of the
// second moments, to which rows beyond kFar log2 units are always added, at most the rounding of T.
// A pass in which a component kept less is repeated without dropping anything.
template <class T>
inline constexpr double kDropped = sizeof(T) == 4 ? 0x1p-40 : 0x1p-70;
inline constexpr double kKept = 0x1p-6;
inline constexpr double kFar = 512;

// A mixture as the kernels read it, in the data's type and in log2 units: the logit of component k
// at row x is log_const[k] - |P_k (x - center_k) - bias_k|^2, with P scaled by sqrt(log2(e) / 2).
// center_k is mean_k rounded to T, and bias_k = P_k (mean_k - center_k) is what rounding left. The
// difference of two T is rounded relative to itself, so means far from the origin lose nothing.
// Diagonal components whose means lie near each other share one center, and save each its own
// difference: the bias is then P_k (mean_k - center). In the tied family it serves first moments.
template <class T>
struct GmmModel {
  Family family;
  bool one_center;
  std::int64_t n_features, n_components;  // as given
  std::int64_t padded_features;           // rows of a packed block: whole tiles for family full
  std::int64_t padded_components;         // whole tiles; the extra ones have log_const -inf
  const T* center;                        // (padded_components, padded_features)
  const T* log_const;                     // (padded_components), largest is 0
  double log_base;                        // natural log; to be added to log p
  const T* drop_below;                    // (n_components), see kDropped
  // full: per component and per tile of columns of P (one column where features are few), the rows
  // down to the diagonal: (i, tile).
  // diag: per four components and per feature, center, precision and bias: (3, 4).
  // tied: as diag, for the whitened coordinates, with precision 1.
  const T* factor;
  std::ptrdiff_t factor_stride;  // between components (full; 0 if one serves all) or tiles (diag)
  const T* bias;                 // full: (n_components, padded_features); tied: zeros
  // tied: the whitened coordinates are P (x - pivot), P packed as for full; offset is
  // mean - pivot, (n_components, padded_features).
  const T *pivot, *whitener, *offset;
};

// Sums of one chunk of rows, about center_k. second: full (K, D, D) lower triangles, diag (K, D);
// tied: (D, D) about the posterior means, then (K, K) of G, lower triangles (kernels/gmm_tied.h).
struct GmmSums {
  double *counts, *first, *second;
  double log_likelihood;
};

template <class T>
struct GmmChunk {
  GmmRows<T> rows;
  std::int64_t begin, end;  // rows of this chunk
  GmmPosterior<T> posterior;
  GmmSums* sums;  // null: E-step alone
  T* workspace;   // GmmShape::workspace elements, aligned to 64 bytes
  T drop_scale;   // the mean sample weight; 0: nothing may be dropped
};

struct GmmShape {
  std::int64_t block_rows;
  std::int64_t workspace;  // elements
};

#define ELBOKIT_DECLARE(level)                            \
  namespace level {                                       \
  template <class T>                                      \
  GmmShape gmm_shape(const GmmModel<T>&);                 \
  template <class T>                                      \
  void gmm_chunk(const GmmModel<T>&, const GmmChunk<T>&); \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {

// log p(x_n) and the responsibilities of n_mixtures independent mixtures.
template <class T>
void gmm_estep(std::int64_t n_mixtures, const GmmRows<T>* rows, const GmmParameters* parameters,
               const GmmPosterior<T>* posteriors);

// The statistics of n_mixtures independent mixtures. The same bits for any number of threads.
template <class T>
void gmm_statistics(std::int64_t n_mixtures, const GmmRows<T>* rows,
                    const GmmParameters* parameters, const GmmStatistics* statistics);

}  // namespace cpu

}  // namespace elbokit
