#include "elbokit/logsumexp.h"

#include "kernels/rows.h"
#include "math/logsumexp.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// Reads `count` lanes that lie `stride` apart.
template <class T>
ELBOKIT_INLINE Vec<T> gather(const T* from, std::ptrdiff_t stride, int count, T rest) {
  if (stride == 1 && count == kLanes<T>) return load(from);
  T lane[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i < count ? from[i * stride] : rest;
  return load(lane);
}

// The lanes run along the reduced axis: for a single column (inner == 1).
template <class T>
T reduce_axis(const T* a, std::int64_t n, std::ptrdiff_t stride) {
  const T lowest = -static_cast<T>(__builtin_huge_val());
  Vec<T> largest = broadcast<T>(lowest);
  for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    largest = max(largest, gather(a + i * stride, stride, count, lowest));
  });
  const Vec<T> shift = logsumexp_shift(broadcast<T>(reduce_max<T>(largest)));
  Sum<T> sum;
  for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    sum.add(exp(gather(a + i * stride, stride, count, lowest) - shift));
  });
  return logsumexp_close(shift, broadcast<T>(static_cast<T>(sum.total())))[0];
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
    sums.add(exp(gather(a + i * args.axis_stride, args.inner_stride, count, lowest) - shift));
  return logsumexp_close(shift, sums.totals());
}

}  // namespace

template <class T>
void logsumexp(const LogsumexpArgs<T>& args, std::int64_t begin, std::int64_t end) {
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
    return select(lse == lowest, Vec<T>{}, grad * exp(a - lse));
  };
  for (std::int64_t o = begin; o < end; ++o) {
    const T* const lse = args.lse + o * args.inner;
    const T* const grad = args.grad + o * args.inner;
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
}

#define ELBOKIT_INSTANTIATE(T)                                                  \
  template void logsumexp(const LogsumexpArgs<T>&, std::int64_t, std::int64_t); \
  template void logsumexp_backward(const LogsumexpBackwardArgs<T>&, std::int64_t, std::int64_t);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::ELBOKIT_LEVEL
