// log sum exp over one axis of a strided array seen as (outer, n, inner).
#pragma once

#include "elbokit/level.h"
#include "elbokit/matrix.h"

namespace elbokit {

template <class T>
struct LogsumexpArgs {
  std::int64_t outer, n, inner;
  const T* a;  // (outer, n, inner)
  std::ptrdiff_t outer_stride, axis_stride, inner_stride;
  T* out;  // (outer, inner), contiguous: log sum_i exp(a[:, i, :])
};

// Gradient: out[o, i, j] = grad[o, j] exp(a[o, i, j] - lse[o, j]), 0 where lse is -inf.
template <class T>
struct LogsumexpBackwardArgs {
  std::int64_t outer, n, inner;
  const T* a;  // (outer, n, inner)
  std::ptrdiff_t outer_stride, axis_stride, inner_stride;
  const T* lse;         // (outer, inner), contiguous
  const T* grad;        // (outer, inner), contiguous
  T* out;               // (outer, n, inner), contiguous
  bool stream = false;  // whether rows along the axis are written past the caches
};

#define ELBOKIT_DECLARE(level)                                                                    \
  namespace level {                                                                               \
  template <class T>                                                                              \
  void logsumexp(const LogsumexpArgs<T>&, std::int64_t begin, std::int64_t end);                  \
  template <class T>                                                                              \
  void logsumexp_backward(const LogsumexpBackwardArgs<T>&, std::int64_t begin, std::int64_t end); \
  }
ELBOKIT_FOR_EACH_LEVEL(ELBOKIT_DECLARE)
#undef ELBOKIT_DECLARE

namespace cpu {
template <class T>
void logsumexp(const LogsumexpArgs<T>& args);
template <class T>
void logsumexp_backward(const LogsumexpBackwardArgs<T>& args);
}  // namespace cpu

}  // namespace elbokit
