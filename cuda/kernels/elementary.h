// The elementary functions over an array: for tests of their accuracy.
#pragma once

#include "common/queue.h"
#include "elbokit/elementary.h"

namespace elbokit::cuda {

template <class T>
void elementary(const Queue& queue, Elementary function, std::int64_t n, const T* x, T* out);

}  // namespace elbokit::cuda
