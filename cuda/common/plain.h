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

// Calls f(col, pack of a, pack of b, run) for one thread's share of two rows, and adds up
// run.total() in double: a new Run has the vectors in flight.
template <class Run, int kTeam, int kWidth, class A, class B, class F>
ELBOKIT_DEVICE double sum_packs(const A* a, const B* b, std::int64_t cols, F&& f) {
  static_assert(kUnroll * kWidth <= Run::kMost, "more terms than a run may have");
  double sum = 0;
  for (std::int64_t begin = team_lane<kTeam>() * kWidth; begin < cols;
       begin += kTeam * kWidth * kUnroll) {
    Pack<A, kWidth> of_a[kUnroll];
    Pack<B, kWidth> of_b[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t col = begin + u * kTeam * kWidth;
      if (col >= cols) break;
      of_a[u] = *reinterpret_cast<const Pack<A, kWidth>*>(a + col);
      of_b[u] = *reinterpret_cast<const Pack<B, kWidth>*>(b + col);
    }
    Run run;
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t col = begin + u * kTeam * kWidth;
      if (col >= cols) break;
      f(col, of_a[u], of_b[u], run);
    }
    sum += static_cast<double>(run.total());
  }
  return sum;
}

// Writes a vector of results as elements of type S.
template <class S, class T, int N>
ELBOKIT_DEVICE void write_pack(S* to, const Pack<T, N>& values) {
  Pack<S, N> narrow;
#pragma unroll
  for (int i = 0; i < N; ++i) narrow.at[i] = narrowed<S>(values.at[i]);
  *reinterpret_cast<Pack<S, N>*>(to) = narrow;
}

}  // namespace elbokit::cuda
