// Plain operands: those that are read in whole vectors, by the loops that have to keep up with the
// memory.
#pragma once

#include "common/loss.h"

namespace elbokit::cuda {

// Vectors of an operand that a thread has in flight.
inline constexpr int kUnroll = 4;

inline bool contiguous(const Operand& m, std::int64_t rows, std::int64_t cols) {
  return m.col_stride == 1 && (rows == 1 || m.row_stride == cols);
}

// So is a result that is not asked for.
inline bool contiguous(const Result& m, std::int64_t rows, std::int64_t cols) {
  return !m || rows == 1 || m.row_stride == cols;
}

// Whether each row begins at a whole vector of `width` elements.
inline bool aligned(const void* data, Element element, std::ptrdiff_t row_stride, int width,
                    std::int64_t rows) {
  const std::ptrdiff_t bytes = size_of(element) * width;
  const std::ptrdiff_t access = bytes < 16 ? bytes : 16;
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(access) == 0 &&
         (rows <= 1 || row_stride * size_of(element) % access == 0);
}

inline bool aligned(const Operand& m, int width, std::int64_t rows) {
  return m.col_stride == 1 && aligned(m.data, m.element, m.row_stride, width, rows);
}

inline bool aligned(const Result& m, int width, std::int64_t rows) {
  return aligned(m.data, m.element, m.row_stride, width, rows);
}

// n elements in rows of what a block has in flight: neither short rows nor a single long one leave
// threads idle. The last row may be shorter.
struct Stretches {
  std::int64_t rows, cols, last;

  Stretches(std::int64_t n, int width)
      : rows(0), cols(std::int64_t{kLossThreads} * kUnroll * width), last(0) {
    rows = (n + cols - 1) / cols;
    last = n - (rows - 1) * cols;
  }
};

}  // namespace elbokit::cuda
