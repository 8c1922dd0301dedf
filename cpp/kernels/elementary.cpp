#include "elbokit/elementary.h"

#include "kernels/elementary_functions.h"
#include "kernels/rows.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
void elementary(Elementary function, std::int64_t n, const T* x, T* out) {
  for_each_vector<T>(n, [&](std::int64_t i, int count) {
    write<T>(out + i, evaluate(function, load_partial(x + i, count)), count);
  });
}

template void elementary(Elementary, std::int64_t, const float*, float*);
template void elementary(Elementary, std::int64_t, const double*, double*);

}  // namespace elbokit::ELBOKIT_LEVEL
