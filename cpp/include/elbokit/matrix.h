// A strided two-dimensional view: what crosses the border between Python and the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace elbokit {

template <class T>
struct Matrix {
  T* data = nullptr;
  std::ptrdiff_t row_stride = 0;  // in elements, as col_stride; may be negative or 0
  std::ptrdiff_t col_stride = 0;

  T* row(std::int64_t i) const { return data + i * row_stride; }
  explicit operator bool() const { return data != nullptr; }
};

template <class T>
struct Vector {
  T* data = nullptr;
  std::ptrdiff_t stride = 0;

  T& operator[](std::int64_t i) const { return data[i * stride]; }
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace elbokit
