#include "elbokit/elementary.h"

#include "kernels/rows.h"
#include "math/elementary.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
void elementary(Elementary function, std::int64_t n, const T* x, T* out) {
  for_each_vector<T>(n, [&](std::int64_t i, int count) {
    const Vec<T> v = load_partial(x + i, count);
    switch (function) {
      case Elementary::exp:
        return write<T>(out + i, exp(v), count);
      case Elementary::expm1:
        return write<T>(out + i, expm1(v), count);
      case Elementary::exp2_nonpositive:
        return write<T>(out + i, exp2_nonpositive(v), count);
      case Elementary::log:
        return write<T>(out + i, log(v), count);
      case Elementary::log1p_unit:
        return write<T>(out + i, log1p_unit(v), count);
    }
  });
}

template void elementary(Elementary, std::int64_t, const float*, float*);
template void elementary(Elementary, std::int64_t, const double*, double*);

}  // namespace elbokit::ELBOKIT_LEVEL
