// The one place where NumPy arrays are checked and become views. Nothing is converted or copied
// here: that is the Python layer's business.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <initializer_list>
#include <optional>
#include <string>

#include "elbokit/matrix.h"

namespace elbokit::bindings {

namespace py = pybind11;

using OptionalArray = std::optional<py::array>;

inline std::string shape_text(const py::ssize_t* shape, std::size_t n) {
  std::string text = "(";
  for (std::size_t i = 0; i < n; ++i)
    text += std::to_string(shape[i]) + (n == 1 ? "," : i + 1 < n ? ", " : "");
  return text + ")";
}

inline std::string dtype_text(const py::array& a) { return py::str(a.dtype()); }

// Calls f(T{}) with the array's value type.
template <class F>
auto with_value_type(const py::array& a, const char* name, F&& f) {
  if (py::isinstance<py::array_t<float>>(a)) return f(float{});
  if (py::isinstance<py::array_t<double>>(a)) return f(double{});
  throw py::type_error("`" + std::string(name) + "` has dtype " + dtype_text(a) +
                       ", expected float32 or float64");
}

template <class T>
void expect(const py::array& a, const char* name, std::initializer_list<py::ssize_t> shape) {
  if (!py::isinstance<py::array_t<T>>(a))
    throw py::type_error("`" + std::string(name) + "` has dtype " + dtype_text(a) + ", expected " +
                         std::string(py::str(py::dtype::of<T>())));
  const bool same = static_cast<std::size_t>(a.ndim()) == shape.size() &&
                    std::equal(shape.begin(), shape.end(), a.shape());
  if (!same)
    throw py::value_error("`" + std::string(name) + "` has shape " +
                          shape_text(a.shape(), a.ndim()) + ", expected " +
                          shape_text(shape.begin(), shape.size()));
  bool whole = reinterpret_cast<std::uintptr_t>(a.data()) % alignof(T) == 0;
  for (py::ssize_t i = 0; i < a.ndim(); ++i)
    whole = whole && a.strides(i) % static_cast<py::ssize_t>(sizeof(T)) == 0;
  if (!whole) throw py::value_error("`" + std::string(name) + "` is not aligned to its items");
}

template <class T>
std::ptrdiff_t stride(const py::array& a, int axis) {
  return a.strides(axis) / static_cast<py::ssize_t>(sizeof(T));
}

template <class T>
T* pointer(const py::array& a, const char* name) {
  if constexpr (std::is_const_v<T>) {
    return static_cast<T*>(a.data());
  } else {
    if (!a.writeable()) throw py::value_error("`" + std::string(name) + "` is read-only");
    return static_cast<T*>(const_cast<py::array&>(a).mutable_data());
  }
}

// A (rows, cols) view whose columns are contiguous or repeated. T is const for inputs.
template <class T>
Matrix<T> matrix(const py::array& a, const char* name, py::ssize_t rows, py::ssize_t cols) {
  using Value = std::remove_const_t<T>;
  expect<Value>(a, name, {rows, cols});
  Matrix<T> m{pointer<T>(a, name), stride<Value>(a, 0), stride<Value>(a, 1)};
  if (rows == 0 || cols <= 1) m.col_stride = 1;  // NumPy's strides mean nothing there
  if (rows <= 1) m.row_stride = cols * m.col_stride;
  const bool repeated = std::is_const_v<T> && m.col_stride == 0;
  if (m.col_stride != 1 && !repeated)
    throw py::value_error("`" + std::string(name) + "` has a column stride of " +
                          std::to_string(m.col_stride) + " items, expected 1" +
                          (std::is_const_v<T> ? " or 0" : ""));
  return m;
}

template <class T>
Matrix<T> matrix(const OptionalArray& a, const char* name, py::ssize_t rows, py::ssize_t cols) {
  return a ? matrix<T>(*a, name, rows, cols) : Matrix<T>{};
}

template <class T>
Vector<T> vector(const py::array& a, const char* name, py::ssize_t n) {
  using Value = std::remove_const_t<T>;
  expect<Value>(a, name, {n});
  return {pointer<T>(a, name), stride<Value>(a, 0)};
}

template <class T>
Vector<T> vector(const OptionalArray& a, const char* name, py::ssize_t n) {
  return a ? vector<T>(*a, name, n) : Vector<T>{};
}

// A C-contiguous array of the given shape.
template <class T>
T* contiguous(const py::array& a, const char* name, std::initializer_list<py::ssize_t> shape) {
  expect<std::remove_const_t<T>>(a, name, shape);
  if (!(a.flags() & py::array::c_style))
    throw py::value_error("`" + std::string(name) + "` is not C-contiguous");
  return pointer<T>(a, name);
}

inline void expect_dimensions(const py::array& a, const char* name, py::ssize_t ndim) {
  if (a.ndim() != ndim)
    throw py::value_error("`" + std::string(name) + "` has " + std::to_string(a.ndim()) +
                          " dimensions, expected " + std::to_string(ndim));
}

}  // namespace elbokit::bindings
