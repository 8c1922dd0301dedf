// The one place where NumPy arrays are checked and become views. Nothing is converted or copied
// here: that is the Python layer's business. Tensors come as tuples (address, element, rows, cols,
// row stride, col stride, owner), which the torch layer has checked: making arrays of them takes
// longer than a small loss.
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

inline void expect_dimensions(const py::array& a, const char* name, py::ssize_t ndim) {
  if (a.ndim() != ndim)
    throw py::value_error("`" + std::string(name) + "` has " + std::to_string(a.ndim()) +
                          " dimensions, expected " + std::to_string(ndim));
}

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

// What a loss takes as an operand: a NumPy array, a tuple that describes a tensor, or None.
struct View {
  std::uintptr_t address = 0;
  Element element = Element::kFloat32;
  std::int64_t rows = 0, cols = 0;
  std::ptrdiff_t row_stride = 0, col_stride = 0;
};

inline Element element_of(const py::array& a, const char* name) {
  const char kind = a.dtype().kind();
  const auto size = a.itemsize();
  if (kind == 'f' && size == 4) return Element::kFloat32;
  if (kind == 'f' && size == 8) return Element::kFloat64;
  if (kind == 'f' && size == 2) return Element::kFloat16;
  if ((kind == 'u' || kind == 'b') && size == 1) return Element::kUint8;
  throw py::type_error("`" + std::string(name) + "` has dtype " + dtype_text(a) +
                       ", expected float16, float32, float64, bool or uint8");
}

// One dimension counts as one column.
inline View view_of(const py::handle& given, const char* name, bool writes) {
  if (py::isinstance<py::tuple>(given)) {
    const auto item = [&](int i) { return PyLong_AsLongLong(PyTuple_GET_ITEM(given.ptr(), i)); };
    if (PyTuple_GET_SIZE(given.ptr()) != 7)
      throw py::value_error("`" + std::string(name) + "` is not a description of a tensor");
    return {
        static_cast<std::uintptr_t>(item(0)), static_cast<Element>(item(1)),       item(2), item(3),
        static_cast<std::ptrdiff_t>(item(4)), static_cast<std::ptrdiff_t>(item(5))};
  }
  const auto a = py::cast<py::array>(given);
  if (a.ndim() != 1) expect_dimensions(a, name, 2);
  if (writes && !a.writeable()) throw py::value_error("`" + std::string(name) + "` is read-only");
  View view;
  view.element = element_of(a, name);
  const auto size = size_of(view.element);
  view.address = reinterpret_cast<std::uintptr_t>(a.data());
  view.rows = a.shape(0);
  view.cols = a.ndim() == 1 ? 1 : a.shape(1);
  view.row_stride = a.strides(0) / size;
  view.col_stride = a.ndim() == 1 ? 1 : a.strides(1) / size;
  if (view.address % size || a.strides(0) % size || (a.ndim() == 2 && a.strides(1) % size))
    throw py::value_error("`" + std::string(name) + "` is not aligned to its items");
  return view;
}

// The view of a (rows, cols) operand whose columns are contiguous, or repeated if it is an input.
inline View view_of(const py::handle& given, const char* name, std::int64_t rows, std::int64_t cols,
                    bool writes) {
  View view = view_of(given, name, writes);
  if (view.rows != rows || view.cols != cols) {
    const py::ssize_t came[] = {view.rows, view.cols}, expected[] = {rows, cols};
    throw py::value_error("`" + std::string(name) + "` has shape " + shape_text(came, 2) +
                          ", expected " + shape_text(expected, 2));
  }
  if (rows == 0 || cols <= 1) view.col_stride = 1;  // strides mean nothing there
  if (rows <= 1) view.row_stride = cols * view.col_stride;
  if (view.col_stride != 1 && (writes || view.col_stride != 0))
    throw py::value_error("`" + std::string(name) + "` has a column stride of " +
                          std::to_string(view.col_stride) + " items, expected 1" +
                          (writes ? "" : " or 0"));
  return view;
}

// T: the type that is computed in, which may be wider than the operand's, not narrower.
template <class T>
Operand operand(const py::handle& given, const char* name, std::int64_t rows, std::int64_t cols) {
  if (given.is_none()) return {};
  const View view = view_of(given, name, rows, cols, false);
  if (sizeof(T) == 4 && view.element == Element::kFloat64)
    throw py::type_error("`" + std::string(name) +
                         "` has dtype float64, expected float32 or a narrower one");
  return {reinterpret_cast<const void*>(view.address), view.element, view.row_stride,
          view.col_stride};
}

inline Result result(const py::handle& given, const char* name, std::int64_t rows,
                     std::int64_t cols) {
  if (given.is_none()) return {};
  const View view = view_of(given, name, rows, cols, true);
  return {reinterpret_cast<void*>(view.address), view.element, view.row_stride};
}

template <class T>
void expect_element(const View& view, const char* name) {
  if (view.element != kElement<std::remove_const_t<T>>)
    throw py::type_error("`" + std::string(name) + "` has another dtype, expected " +
                         std::string(py::str(py::dtype::of<std::remove_const_t<T>>())));
}

// As the functions of the same names for arrays, for either kind of argument. T is const for
// inputs.
template <class T>
Matrix<T> matrix_of(const py::handle& given, const char* name, std::int64_t rows,
                    std::int64_t cols) {
  if (given.is_none()) return {};
  const View view = view_of(given, name, rows, cols, !std::is_const_v<T>);
  expect_element<T>(view, name);
  return {reinterpret_cast<T*>(view.address), view.row_stride, view.col_stride};
}

template <class T>
Vector<T> vector_of(const py::handle& given, const char* name, std::int64_t n) {
  if (given.is_none()) return {};
  const View view = view_of(given, name, n, 1, !std::is_const_v<T>);
  expect_element<T>(view, name);
  return {reinterpret_cast<T*>(view.address), view.row_stride};
}

// A C-contiguous array of the given shape.
template <class T>
T* contiguous(const py::array& a, const char* name, std::initializer_list<py::ssize_t> shape) {
  expect<std::remove_const_t<T>>(a, name, shape);
  if (!(a.flags() & py::array::c_style))
    throw py::value_error("`" + std::string(name) + "` is not C-contiguous");
  return pointer<T>(a, name);
}

}  // namespace elbokit::bindings
