#include "elbokit/logsumexp.h"

#include "kernels/rows.h"
#include "math/logsumexp.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// 0, 1, 2, ...
template <class T>
struct Lanes {
  T index[kLanes<T>];
  constexpr Lanes() : index() {
    for (int i = 0; i < kLanes<T>; ++i) index[i] = static_cast<T>(i);
  }
};

// Reads `count` lanes that lie `stride` apart.
template <class T>
ELBOKIT_INLINE Vec<T> gather(const T* from, std::ptrdiff_t stride, int count, T rest) {
  if (stride == 1 && count == kLanes<T>) return load(from);
  if (stride == 1) {
    static constexpr Lanes<T> lanes{};
    const auto there = load(lanes.index) < broadcast<T>(static_cast<T>(count));
    return select(there, load_partial(from, count), broadcast<T>(rest));
  }
  T lane[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i < count ? from[i * stride] : rest;
  return load(lane);
}

// e^(a - shift) of values that the shift's largest is one of. Where that is +inf the shift is 0,
// and what lies above it counts as 1: the sum will not matter unless it is NaN.
template <class T>
ELBOKIT_INLINE Vec<T> shifted_exp(Vec<T> a, Vec<T> shift) {
  const Vec<T> x = a - shift;
  return exp_nonpositive(select(x > Vec<T>{}, Vec<T>{}, x));
}

template <class T>
ELBOKIT_INLINE Vec<T> close(Vec<T> largest, Vec<T> shift, Vec<T> sum) {
  const Vec<T> infinity = broadcast<T>(static_cast<T>(__builtin_huge_val()));
  return select(largest == infinity, sum + infinity, logsumexp_close(shift, sum));
}

// Rows of at most kRun vectors that lie along the reduced axis, `count` <= lanes of them at once:
// their maxima, sums and logarithms are found together. What stands in for missing ones is the
// first.
template <class T>
void reduce_rows(const T* a, std::ptrdiff_t row_stride, int count, std::int64_t n, T* out) {
  constexpr int lanes = kLanes<T>;
  const T lowest = -static_cast<T>(__builtin_huge_val());
  Vec<T> largest[lanes], sum[lanes];
  const auto row = [&](int r)
                       ELBOKIT_INLINE_LAMBDA { return a + (r < count ? r : 0) * row_stride; };
  for (int r = 0; r < lanes; ++r) {
    const T* const from = row(r);
    Vec<T> most = broadcast<T>(lowest);
    for_each_vector<T>(n, [&](std::int64_t i, int width) ELBOKIT_INLINE_LAMBDA {
      most = max(most, gather<T>(from + i, 1, width, lowest));
    });
    largest[r] = most;
  }
  transpose<T>(largest);
  for (int i = 1; i < lanes; ++i) largest[0] = max(largest[0], largest[i]);
  const Vec<T> shift = logsumexp_shift(largest[0]);
  for (int r = 0; r < lanes; ++r) {
    const T* const from = row(r);
    const Vec<T> shift_of_row = broadcast<T>(shift[r]);
    Vec<T> total{};
    for_each_vector<T>(n, [&](std::int64_t i, int width) ELBOKIT_INLINE_LAMBDA {
      total += shifted_exp<T>(gather<T>(from + i, 1, width, lowest), shift_of_row);
    });
    sum[r] = total;
  }
  T totals[lanes];
  reduce_add_all(sum, totals);
  write<T>(out, close<T>(largest[0], shift, load(totals)), count);
}

// The lanes run along the reduced axis: for a single column (inner == 1).
template <class T>
T reduce_axis(const T* a, std::int64_t n, std::ptrdiff_t stride) {
  const T lowest = -static_cast<T>(__builtin_huge_val());
  Vec<T> largest = broadcast<T>(lowest);
  for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    largest = max(largest, gather(a + i * stride, stride, count, lowest));
  });
  largest = broadcast<T>(reduce_max<T>(largest));
  const Vec<T> shift = logsumexp_shift(largest);
  Sum<T> sum;
  for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    sum.add(shifted_exp<T>(gather(a + i * stride, stride, count, lowest), shift));
  });
  return close<T>(largest, shift, broadcast<T>(static_cast<T>(sum.total())))[0];
}

// The lanes run across `count` neighbouring columns.
template <class T>
Vec<T> reduce_columns(const LogsumexpArgs<T>& args, const T* a, int count) {
  const T lowest = -static_cast<T>(__builtin_huge_val());
  Vec<T> largest = broadcast<T>(lowest);
  for (std::int64_t i = 0; i < args.n; ++i)
    largest = max(largest, gather(a + i * args.axis_stride, args.inner_stride, count, lowest));
  const Vec<T> shift = logsumexp_shift(largest);
  LaneSums<T> sums;
  for (std::int64_t i = 0; i < args.n; ++i)
    sums.add(
        shifted_exp<T>(gather(a + i * args.axis_stride, args.inner_stride, count, lowest), shift));
  return close<T>(largest, shift, sums.totals());
}

}  // namespace

template <class T>
void logsumexp(const LogsumexpArgs<T>& args, std::int64_t begin, std::int64_t end) {
  if (args.inner == 1 && args.axis_stride == 1 && args.n <= kRun * kLanes<T>) {
    for_each_vector<T>(end - begin, [&](std::int64_t o, int count) {
      reduce_rows(args.a + (begin + o) * args.outer_stride, args.outer_stride, count, args.n,
                  args.out + begin + o);
    });
    return;
  }
  for (std::int64_t o = begin; o < end; ++o) {
    const T* const a = args.a + o * args.outer_stride;
    T* const out = args.out + o * args.inner;
    if (args.inner == 1) {
      *out = reduce_axis(a, args.n, args.axis_stride);
      continue;
    }
    for_each_vector<T>(args.inner, [&](std::int64_t j, int count) ELBOKIT_INLINE_LAMBDA {
      write<T>(out + j, reduce_columns(args, a + j * args.inner_stride, count), count);
    });
  }
}

template <class T>
void logsumexp_backward(const LogsumexpBackwardArgs<T>& args, std::int64_t begin,
                        std::int64_t end) {
  const Vec<T> lowest = broadcast<T>(-static_cast<T>(__builtin_huge_val()));
  const auto softmax = [&](Vec<T> a, Vec<T> lse, Vec<T> grad) ELBOKIT_INLINE_LAMBDA {
    // No value is above the logarithm but by rounding, which exp_nonpositive bears.
    return select(lse == lowest, Vec<T>{}, grad * exp_nonpositive(a - lse));
  };
  for (std::int64_t o = begin; o < end; ++o) {
    const T* const lse = args.lse + o * args.inner;
    const T* const grad = args.grad + o * args.inner;
    if (args.inner == 1 && args.axis_stride == 1) {
      const T* const a = args.a + o * args.outer_stride;
      T* const out = args.out + o * args.n;
      const Vec<T> of_row = broadcast<T>(*lse), factor = broadcast<T>(*grad);
      const bool past = args.stream && reinterpret_cast<std::uintptr_t>(out) % kVectorBytes == 0;
      for_each_vector<T>(args.n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
        const Vec<T> value = softmax(read(a + i, count), of_row, factor);
        if (past && count == kLanes<T>)
          stream(out + i, value);
        else
          write<T>(out + i, value, count);
      });
      continue;
    }
    for (std::int64_t i = 0; i < args.n; ++i) {
      const T* const a = args.a + o * args.outer_stride + i * args.axis_stride;
      T* const out = args.out + (o * args.n + i) * args.inner;
      if (args.inner != 1) {
        for_each_vector<T>(args.inner, [&](std::int64_t j, int count) ELBOKIT_INLINE_LAMBDA {
          write<T>(out + j,
                   softmax(gather(a + j * args.inner_stride, args.inner_stride, count, T(0)),
                           load_partial(lse + j, count), load_partial(grad + j, count)),
                   count);
        });
        continue;
      }
      const int count = static_cast<int>(args.n - i < kLanes<T> ? args.n - i : kLanes<T>);
      write<T>(out,
               softmax(gather(a, args.axis_stride, count, T(0)), broadcast<T>(*lse),
                       broadcast<T>(*grad)),
               count);
      i += count - 1;
    }
  }
  if (args.stream) stream_fence();
}

#define ELBOKIT_INSTANTIATE(T)                                                  \
  template void logsumexp(const LogsumexpArgs<T>&, std::int64_t, std::int64_t); \
  template void logsumexp_backward(const LogsumexpBackwardArgs<T>&, std::int64_t, std::int64_t);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::ELBOKIT_LEVEL
