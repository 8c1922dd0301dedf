// Outputs of the losses: one number, or one per row.
#pragma once

#include "bindings.h"
#include "common/loss.h"

namespace elbokit::cuda_bindings {

// A contiguous tensor of n numbers, or null for None.
template <class T>
T* numbers(const py::handle& given, const char* name, std::int64_t n) {
  const Vector<T> out = vector_of<T>(given, name, n);
  if (n > 1 && out && out.stride != 1)
    throw py::value_error("`" + std::string(name) + "` is not contiguous");
  return out.data;
}

// The address of one int64, which has no Element.
inline std::int64_t* counter(const py::object& given) {
  return given.is_none() ? nullptr : reinterpret_cast<std::int64_t*>(given.cast<std::uintptr_t>());
}

}  // namespace elbokit::cuda_bindings
