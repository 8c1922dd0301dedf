// Tensors of torch, read through their attributes in Python: without a header of torch, so that one
// build serves every version of it. For small losses, which are computed in the time that Python
// code takes to look at their operands.
#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

#include <optional>

#include "elbokit/matrix.h"

namespace elbokit::bindings {

namespace py = pybind11;

// What is asked for by name; found at the first use, when torch has long been imported.
struct TorchNames {
  py::object tensor, parameter, strided, float32, float64, int64, empty_like;
  py::object number32, number64;  // of shape (), to make others like them
  py::object gradient;            // of elbokit.torch, for so many elements and more:
  std::int64_t pooled;
  py::str is_cpu{"is_cpu"}, layout{"layout"}, dtype{"dtype"}, shape{"shape"}, data_ptr{"data_ptr"},
      is_contiguous{"is_contiguous"}, stride{"stride"}, is_neg{"is_neg"},
      requires_grad{"requires_grad"};

  static const TorchNames& get() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<TorchNames> names;
    return names.call_once_and_store_result([] { return TorchNames(); }).get_stored();
  }

 private:
  TorchNames() {
    const auto torch = py::module_::import("torch");
    tensor = torch.attr("Tensor");
    parameter = torch.attr("nn").attr("Parameter");
    strided = torch.attr("strided");
    float32 = torch.attr("float32");
    float64 = torch.attr("float64");
    int64 = torch.attr("int64");
    empty_like = torch.attr("empty_like");
    const auto number = [&](const py::object& of) {
      return torch.attr("empty")(py::tuple(0), py::arg("dtype") = of, py::arg("device") = "cpu");
    };
    const auto operands = py::module_::import("elbokit.torch._cpu._operands");
    gradient = operands.attr("gradient");
    pooled = operands.attr("POOLED").cast<std::int64_t>();
    number32 = number(float32);
    number64 = number(float64);
  }
};

inline py::object attribute(const py::handle& object, const py::str& name) {
  PyObject* const found = PyObject_GetAttr(object.ptr(), name.ptr());
  if (!found) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
}

inline py::object call(const py::handle& object, const py::str& method) {
  PyObject* const found = PyObject_CallMethodNoArgs(object.ptr(), method.ptr());
  if (!found) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
}

inline bool is_true(const py::object& value) { return value.ptr() == Py_True; }

inline void* data_of(const py::handle& tensor) {
  return PyLong_AsVoidPtr(call(tensor, TorchNames::get().data_ptr).ptr());
}

// A tensor in the CPU's memory, each row contiguous; a number is a row.
struct PlainTensor {
  void* data;
  py::object dtype;
  Element element;  // of float32 and float64
  py::object shape;
  std::int64_t rows, size;
  std::ptrdiff_t row_stride;

  std::int64_t dimensions() const { return PyTuple_GET_SIZE(shape.ptr()); }
  std::int64_t length(std::int64_t dimension) const {
    return PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), dimension));
  }
  std::int64_t cols() const { return size / rows; }
  template <class T>
  Matrix<const T> matrix() const {
    return {static_cast<const T*>(data), row_stride, 1};
  }
  Operand operand() const { return {data, element, row_stride, 1}; }
};

// Elements from row to row, which have to lie one behind the other, or if `apart` may have
// something in between: as the halves have that `chunk` makes of an encoder's output. Else nothing.
inline std::optional<std::ptrdiff_t> row_stride_of(const py::handle& given,
                                                   const PlainTensor& plain, bool apart) {
  const std::int64_t cols = plain.rows > 0 ? plain.cols() : 0;
  const TorchNames& torch = TorchNames::get();
  if (is_true(call(given, torch.is_contiguous))) return cols;
  if (!apart || plain.dimensions() != 2) return {};
  const py::object strides = call(given, torch.stride);  // a tuple
  const auto stride = [&](int i) { return PyLong_AsSsize_t(PyTuple_GET_ITEM(strides.ptr(), i)); };
  if (stride(1) != 1 || stride(0) < cols) return {};
  return stride(0);
}

// Nothing for something else, or a tensor of any other kind. `apart`: rows may lie apart.
inline std::optional<PlainTensor> plain_of_any_dtype(const py::handle& given, bool apart) {
  const TorchNames& torch = TorchNames::get();
  const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(given.ptr()));
  if (type != torch.tensor.ptr() && type != torch.parameter.ptr()) return {};
  if (!is_true(attribute(given, torch.is_cpu)) ||
      !attribute(given, torch.layout).is(torch.strided) || is_true(call(given, torch.is_neg)))
    return {};
  PlainTensor plain{};
  plain.dtype = attribute(given, torch.dtype);
  plain.element = plain.dtype.is(torch.float64) ? Element::kFloat64 : Element::kFloat32;
  plain.shape = attribute(given, torch.shape);  // a tuple
  plain.size = 1;
  for (std::int64_t i = 0; i < plain.dimensions(); ++i) plain.size *= plain.length(i);
  plain.rows = plain.dimensions() > 0 ? plain.length(0) : 1;
  const auto row_stride = row_stride_of(given, plain, apart);
  if (!row_stride) return {};
  plain.row_stride = *row_stride;
  plain.data = data_of(given);
  if (!plain.data) return {};  // nothing in it, or no memory behind it
  return plain;
}

inline bool is_floating(const PlainTensor& plain) {
  const TorchNames& torch = TorchNames::get();
  return plain.dtype.is(torch.float32) || plain.dtype.is(torch.float64);
}

// The same for float32 and float64 alone, with a batch dimension.
inline std::optional<PlainTensor> plain_tensor(const py::handle& given, bool apart = false) {
  auto plain = plain_of_any_dtype(given, apart);
  if (!plain || plain->dimensions() == 0 || !is_floating(*plain)) return {};
  return plain;
}

inline bool same_kind(const PlainTensor& a, const PlainTensor& b) {
  return a.dtype.is(b.dtype) && a.size == b.size &&
         PyObject_RichCompareBool(a.shape.ptr(), b.shape.ptr(), Py_EQ) == 1;
}

inline bool requires_grad(const py::handle& tensor) {
  return is_true(attribute(tensor, TorchNames::get().requires_grad));
}

// A new one of the same shape and dtype.
inline py::object empty_like(const py::handle& tensor) {
  PyObject* const arguments[] = {tensor.ptr()};
  PyObject* const made =
      PyObject_Vectorcall(TorchNames::get().empty_like.ptr(), arguments, 1, nullptr);
  if (!made) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

// The same for a gradient: large ones have memory of the pool.
inline py::object gradient_like(const py::handle& tensor, std::int64_t size) {
  const TorchNames& torch = TorchNames::get();
  return size < torch.pooled ? empty_like(tensor) : torch.gradient(tensor);
}

// A new one of shape ().
inline py::object empty_number(Element element) {
  const TorchNames& torch = TorchNames::get();
  return empty_like(element == Element::kFloat32 ? torch.number32 : torch.number64);
}

}  // namespace elbokit::bindings
