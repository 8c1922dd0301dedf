// A mixture as the sparse kernels read it, and the memory of one chunk of rows.
#pragma once

#include "common/tensor_core.h"
#include "kernels/gmm_diagonal.h"
#include "kernels/gmm_sparse.h"

namespace elbokit::cuda {

inline constexpr int kSparseThreads = 256;
inline constexpr int kSparseWarps = kSparseThreads / kWarp;

// The filter's tile: kSparseRows rows by 32 components for each warp.
inline constexpr int kSparseRows = 64;
inline constexpr int kSparseTile = kSparseWarps * 32;

// A row's list. Of a row to which more components matter it says so, and then where its
// responsibilities for all components are.
inline constexpr int kMostActive = kWarp;
inline constexpr std::uint16_t kLong = 65535;
// One of so many rows of a chunk may have one, while they take no more bytes.
inline constexpr std::int64_t kRowsPerLong = 32, kLongBytes = std::int64_t{16} << 20;

// Rows of a chunk, and how many blocks share a component's rows of it.
inline constexpr std::int64_t kSparseChunk = 65536;
inline constexpr int kSparseSplits = 4;

struct SparseShape {
  std::int64_t n_features, n_components;
  std::int64_t depth;       // features, in whole steps of the matrix units
  std::int64_t components;  // in whole tiles
  std::int64_t chunk;       // rows

  ELBOKIT_INLINE std::int64_t words() const { return components / 32; }
  ELBOKIT_INLINE std::int64_t steps() const { return depth / 16; }
  ELBOKIT_INLINE std::int64_t blocks() const { return chunk / kSparseRows; }
  ELBOKIT_INLINE std::int64_t sums() const { return 1 + 2 * n_features; }
  ELBOKIT_INLINE std::int64_t long_rows() const {
    const std::int64_t held = kLongBytes / (n_components * std::int64_t{sizeof(float)});
    return held < chunk / kRowsPerLong ? held : chunk / kRowsPerLong;
  }
};

SparseShape sparse_shape(const GmmData& data, const GmmMixtures& mixtures);

struct SparseMemory {
  // The model. All is in log2 units, as in elbokit/gmm.h.
  float* pivot;        // the mean of the mixture, rounded
  float* exact;        // (n_components, 3, n_features): center, precision, bias
  float* log_const;    // (components), the largest is 0; extra ones have -inf
  float* upper_const;  // (components): log_const - offset + what share of the weights allows
  float* offset;       // (components): sum of (precision (mean - pivot))^2
  std::uint32_t* coefficients;  // (components / 8, steps, 32 lanes, 4): see pack_coefficients
  double* constants;            // log_base, sum of the weights
  // A chunk.
  unsigned* masks;              // (chunk, words): bit k of a row: component k may matter
  std::uint16_t* listed;        // (chunk, kMostActive)
  float* responsibilities;      // (chunk, kMostActive), times the sample weight
  unsigned* long_used;          // one number: of long_rows
  float* long_rows;             // (long_rows, n_components): responsibilities likewise
  std::uint64_t* put_off;       // (blocks): bit i: row i of the block has a long list
  std::uint64_t* column_masks;  // (n_components, blocks): bit i: row i of the block has it
  // Sums over all chunks.
  double* partial;   // (kSparseSplits, n_components, sums)
  double* row_sums;  // (2, blocks): log-likelihood, sample weights

  SparseMemory(const SparseShape& shape, Workspace workspace);
  std::size_t bytes;
};

// Writes the model.
void pack_sparse_model(const Queue& queue, const SparseShape& shape, const GmmMixtures& mixtures,
                       const SparseMemory& memory);

// Rows [begin, begin + rows) of the data: which components may matter.
struct SparseRows {
  GmmData data;
  std::int64_t begin, rows;
};
std::size_t sparse_filter_shared(const SparseShape& shape);
void sparse_filter(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
                   const SparseMemory& memory);

// Responsibilities of the rows that were put off; those without a place are counted.
void add_long_rows(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
                   const SparseMemory& memory, unsigned long long* failures);

// Adds the rows' statistics to the sums over all chunks.
void add_sparse_sums(const Queue& queue, const SparseShape& shape, const SparseRows& rows,
                     const SparseMemory& memory);

// What the sums over n_samples rows come to; `failures` counts components without enough of them.
void merge_sparse_sums(const Queue& queue, const SparseShape& shape, std::int64_t n_samples,
                       const GmmMixtures& mixtures, const SparseMemory& memory,
                       const GmmStatistics& statistics, unsigned long long* failures);

// One element of the data.
ELBOKIT_DEVICE float sparse_element(const GmmData& data, std::int64_t row, std::int64_t feature) {
  const std::int64_t i = row * data.row_stride + feature;
  switch (data.element) {
    case Element::kBfloat16:
      return widened<float>(static_cast<const BFloat16*>(data.x)[i]);
    case Element::kFloat16:
      return widened<float>(static_cast<const Float16*>(data.x)[i]);
    default:
      return static_cast<const float*>(data.x)[i];
  }
}

}  // namespace elbokit::cuda
