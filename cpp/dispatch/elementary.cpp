#include "elbokit/elementary.h"

#include "dispatch/cpu_level.h"

namespace elbokit::cpu {

template <class T>
void elementary(Elementary function, std::int64_t n, const T* x, T* out) {
  ELBOKIT_KERNEL(elementary<T>)(function, n, x, out);
}

template void elementary(Elementary, std::int64_t, const float*, float*);
template void elementary(Elementary, std::int64_t, const double*, double*);

}  // namespace elbokit::cpu
