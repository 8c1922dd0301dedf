// Walks a row in vectors: operands whose columns are contiguous or repeated, and a masked tail.
#pragma once

#include "elbokit/matrix.h"
#include "simd/vec.h"

namespace elbokit::ELBOKIT_LEVEL {

// The first `count` lanes; nothing past them is read.
template <class T>
ELBOKIT_INLINE Vec<T> read(const T* from, int count) {
  return count == kLanes<T> ? load(from) : load_partial(from, count);
}

// One row of an operand with col_stride 0 or 1.
template <class T>
struct RowReader {
  const T* data;
  bool repeated;

  RowReader(const Matrix<const T>& m, std::int64_t row)
      : data(m.data ? m.row(row) : nullptr), repeated(m.col_stride == 0) {}
  // Of elements of T.
  RowReader(const Operand& m, std::int64_t row)
      : RowReader(Matrix<const T>{static_cast<const T*>(m.data), m.row_stride, m.col_stride}, row) {
  }

  ELBOKIT_INLINE Vec<T> operator()(std::int64_t col, int count) const {
    if (repeated) return broadcast<T>(*data);
    return read(data + col, count);
  }
};

template <class T>
ELBOKIT_INLINE void write(T* to, Vec<T> v, int count) {
  if (count == kLanes<T>)
    store(to, v);
  else
    store_partial(to, v, count);
}

// The lanes past `count` are cleared, so that a sum may take the whole vector.
template <class T>
ELBOKIT_INLINE Vec<T> first_lanes(Vec<T> v, int count) {
  if (count == kLanes<T>) return v;
  Vec<T> number;
  for (int i = 0; i < kLanes<T>; ++i) number[i] = T(i);
  return select(number < broadcast<T>(T(count)), v, Vec<T>{});
}

// So many values are summed in their own type before the sum goes to a wider one.
inline constexpr int kRun = 64;

// Sums vectors in the value type over a run of them, and the runs in double.
template <class T>
class Sum {
 public:
  ELBOKIT_INLINE void add(Vec<T> v) {
    run_ += v;
    if (++length_ == kRun) flush();
  }
  ELBOKIT_INLINE double total() {
    flush();
    return total_;
  }

 private:
  ELBOKIT_INLINE void flush() {
    total_ += reduce_add<T>(run_);
    run_ = Vec<T>{};
    length_ = 0;
  }
  Vec<T> run_{};
  double total_ = 0;
  int length_ = 0;
};

// The same lane by lane: long sums down the columns.
template <class T>
class LaneSums {
 public:
  ELBOKIT_INLINE void add(Vec<T> v) {
    run_ += v;
    if (++length_ == kRun) flush();
  }
  ELBOKIT_INLINE Vec<T> totals() {
    flush();
    Vec<T> v;
    for (int i = 0; i < kLanes<T>; ++i) v[i] = static_cast<T>(totals_[i]);
    return v;
  }

 private:
  ELBOKIT_INLINE void flush() {
    for (int i = 0; i < kLanes<T>; ++i) totals_[i] += run_[i];
    run_ = Vec<T>{};
    length_ = 0;
  }
  Vec<T> run_{};
  double totals_[kLanes<T>] = {};
  int length_ = 0;
};

// Calls f(col, count) for each vector of the row; count < lanes only for the last.
template <class T, class F>
ELBOKIT_INLINE void for_each_vector(std::int64_t cols, F&& f) {
  std::int64_t col = 0;
  for (; col + kLanes<T> <= cols; col += kLanes<T>) f(col, kLanes<T>);
  if (col < cols) f(col, static_cast<int>(cols - col));
}

// So many vectors take the first part of a long chain of operations before the first of them takes
// the second: a core looks ahead over one such chain, not over several. AVX-512 has registers for
// eight.
inline constexpr int kAhead = kVectorBytes == 64 ? 8 : 4;

// Calls first(v, col, count) for kAhead vectors of the row, v = 0, 1, ..., and then second(v, col,
// count) for the same ones, and so on; those that are left go one by one.
template <class T, class First, class Second>
ELBOKIT_INLINE void for_each_ahead(std::int64_t cols, First&& first, Second&& second) {
  std::int64_t col = 0;
  for (; col + kAhead * kLanes<T> <= cols; col += kAhead * kLanes<T>) {
    unrolled<kAhead>([&](auto v)
                         ELBOKIT_INLINE_LAMBDA { first(v, col + v * kLanes<T>, kLanes<T>); });
    unrolled<kAhead>([&](auto v)
                         ELBOKIT_INLINE_LAMBDA { second(v, col + v * kLanes<T>, kLanes<T>); });
  }
  for (; col < cols; col += kLanes<T>) {
    const int count = static_cast<int>(cols - col < kLanes<T> ? cols - col : kLanes<T>);
    first(0, col, count);
    second(0, col, count);
  }
}

}  // namespace elbokit::ELBOKIT_LEVEL
