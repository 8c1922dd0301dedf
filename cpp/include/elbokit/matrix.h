// Strided two-dimensional views: what crosses the border between Python and the kernels.
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

// How elements lie in memory. bool is kUint8.
enum class Element : std::uint8_t { kFloat32, kFloat64, kBfloat16, kFloat16, kUint8 };

constexpr std::ptrdiff_t size_of(Element element) {
  // Not a table: GCC builds it on the stack in every call.
  return element == Element::kFloat32   ? 4
         : element == Element::kFloat64 ? 8
         : element == Element::kUint8   ? 1
                                        : 2;
}

template <class T>
inline constexpr Element kElement = sizeof(T) == 4 ? Element::kFloat32 : Element::kFloat64;

// An input whose elements may be narrower than the type that is computed in. col_stride is 0 or 1.
struct Operand {
  const void* data = nullptr;
  Element element = Element::kFloat32;
  std::ptrdiff_t row_stride = 0;  // in elements, as col_stride
  std::ptrdiff_t col_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  const void* at(std::int64_t row, std::int64_t col) const {
    return static_cast<const char*>(data) +
           (row * row_stride + col * col_stride) * size_of(element);
  }
};

// An output that may be narrower, with contiguous columns.
struct Result {
  void* data = nullptr;
  Element element = Element::kFloat32;
  std::ptrdiff_t row_stride = 0;  // in elements

  explicit operator bool() const { return data != nullptr; }
  void* at(std::int64_t row, std::int64_t col) const {
    return static_cast<char*>(data) + (row * row_stride + col) * size_of(element);
  }
};

// Whether rows of `cols` elements lie one behind the other, so that they may be read as one long
// row. An array that is absent, or one number throughout, is no hindrance.
template <class T>
bool rows_join(const Matrix<T>& m, std::int64_t cols) {
  return !m || (m.col_stride == 1 && m.row_stride == cols) || (!m.col_stride && !m.row_stride);
}
inline bool rows_join(const Operand& m, std::int64_t cols) {
  return !m || (m.col_stride == 1 && m.row_stride == cols) || (!m.col_stride && !m.row_stride);
}
inline bool rows_join(const Result& m, std::int64_t cols) { return !m || m.row_stride == cols; }

template <class First, class... More>
bool rows_join(std::int64_t cols, const First& first, const More&... more) {
  return rows_join(first, cols) && (rows_join(more, cols) && ...);
}

}  // namespace elbokit
