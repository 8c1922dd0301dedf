// Tensors of torch, read without a header of torch, so that one build serves every version of it:
// by the extension where it is loaded, through DLPack's table where torch has it (2.13 does), or
// through their attributes in Python. For small losses, which are computed in the time that Python
// code takes to look at their operands.
#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <optional>

#include "bindings/dlpack.h"
#include "elbokit/matrix.h"
#include "extension/torch_table.h"

namespace elbokit::bindings {

namespace py = pybind11;

// The extension's answers; null where it is not loaded.
const TorchTable* torch_table();

// What is asked for by name; found at the first use, when torch has long been imported.
struct TorchNames {
  py::object tensor, parameter, strided, float32, float64, int64, uint8, boolean, empty_like;
  py::object number32, number64;  // of shape (), to make others like them
  py::object gradient;            // of elbokit.torch, for so many elements and more:
  std::int64_t pooled;
  const dlpack::ExchangeTable* table;  // null where torch has none
  py::str is_cpu{"is_cpu"}, layout{"layout"}, dtype{"dtype"}, shape{"shape"}, data_ptr{"data_ptr"},
      stride{"stride"}, is_neg{"is_neg"}, requires_grad{"requires_grad"};

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
    uint8 = torch.attr("uint8");
    boolean = torch.attr("bool");
    empty_like = torch.attr("empty_like");
    const auto number = [&](const py::object& of) {
      return torch.attr("empty")(py::tuple(0), py::arg("dtype") = of, py::arg("device") = "cpu");
    };
    const auto operands = py::module_::import("elbokit.torch._cpu._operands");
    gradient = operands.attr("gradient");
    pooled = operands.attr("POOLED").cast<std::int64_t>();
    number32 = number(float32);
    number64 = number(float64);
    table = exchange_table();
  }

  const dlpack::ExchangeTable* exchange_table() const {
    const py::object found = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(found.ptr(), dlpack::kCapsule)) return nullptr;
    const auto* const newest = static_cast<const dlpack::ExchangeTable*>(
        PyCapsule_GetPointer(found.ptr(), dlpack::kCapsule));
    return newest->major == dlpack::kMajorVersion && newest->describe ? newest : nullptr;
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

// The memory of a tensor of one's own.
inline void* data_of(const py::handle& tensor) {
  const TorchNames& torch = TorchNames::get();
  TorchTensor found;
  if (const auto* const own = torch_table(); own && own->describe(tensor.ptr(), &found))
    return found.data;
  if (torch.table) {
    dlpack::Tensor made;
    if (torch.table->describe(tensor.ptr(), &made) != 0) throw py::error_already_set();
    return made.first_element();
  }
  return PyLong_AsVoidPtr(call(tensor, torch.data_ptr).ptr());
}

// What a tensor is, before anything is asked of it.
struct Described {
  static constexpr int kMostDimensions = 8;

  void* data;
  TorchKind kind;
  int dimensions;
  std::int64_t shape[kMostDimensions], strides[kMostDimensions];  // in elements

  // Tensor: TorchTensor or dlpack::Tensor.
  template <class Tensor>
  static std::optional<Described> of(const Tensor& tensor, void* data, TorchKind kind) {
    if (tensor.dimensions > kMostDimensions) return {};
    Described made;
    made.data = data;
    made.kind = kind;
    made.dimensions = static_cast<int>(tensor.dimensions);
    std::copy_n(tensor.shape, tensor.dimensions, made.shape);
    std::copy_n(tensor.strides, tensor.dimensions, made.strides);
    return made;
  }
};

inline std::optional<Described> described_by_torch(const TorchTable& torch,
                                                   const py::handle& given) {
  TorchTensor tensor;
  if (!torch.describe(given.ptr(), &tensor)) return {};
  return Described::of(tensor, tensor.data, tensor.kind);
}

// Nothing for a tensor that is not plainly in the CPU's memory.
inline std::optional<Described> described_by_table(const py::handle& given) {
  dlpack::Tensor tensor;
  if (TorchNames::get().table->describe(given.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return {};
  }
  if (tensor.device_type != dlpack::kCpu) return {};
  const auto is = [&](std::uint8_t code, std::uint8_t bits) {
    return tensor.code == code && tensor.bits == bits && tensor.lanes == 1;
  };
  const TorchKind kind = is(dlpack::kFloat, 32)                         ? TorchKind::kFloat32
                         : is(dlpack::kFloat, 64)                       ? TorchKind::kFloat64
                         : is(dlpack::kInt, 64)                         ? TorchKind::kInt64
                         : is(dlpack::kUint, 8) || is(dlpack::kBool, 8) ? TorchKind::kBytes
                                                                        : TorchKind::kOther;
  return Described::of(tensor, tensor.first_element(), kind);
}

// The same, in several times the time.
inline std::optional<Described> described_by_attributes(const py::handle& given) {
  const TorchNames& torch = TorchNames::get();
  if (!is_true(attribute(given, torch.is_cpu)) || !attribute(given, torch.layout).is(torch.strided))
    return {};
  const py::object shape = attribute(given, torch.shape), strides = call(given, torch.stride),
                   dtype = attribute(given, torch.dtype);
  if (PyTuple_GET_SIZE(shape.ptr()) > Described::kMostDimensions) return {};
  Described made;
  made.data = PyLong_AsVoidPtr(call(given, torch.data_ptr).ptr());
  made.kind = dtype.is(torch.float32)                            ? TorchKind::kFloat32
              : dtype.is(torch.float64)                          ? TorchKind::kFloat64
              : dtype.is(torch.int64)                            ? TorchKind::kInt64
              : dtype.is(torch.uint8) || dtype.is(torch.boolean) ? TorchKind::kBytes
                                                                 : TorchKind::kOther;
  made.dimensions = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
  for (int i = 0; i < made.dimensions; ++i) {
    made.shape[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), i));
    made.strides[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(strides.ptr(), i));
  }
  return made;
}

// A tensor in the CPU's memory, each row contiguous; a number is a row.
struct PlainTensor : Described {
  std::int64_t rows, size;
  std::ptrdiff_t row_stride;

  explicit PlainTensor(const Described& made) : Described(made), rows(1), size(1), row_stride(0) {
    for (int i = 0; i < dimensions; ++i) size *= shape[i];
    if (dimensions > 0) rows = shape[0];
  }

  bool is_floating() const { return kind == TorchKind::kFloat32 || kind == TorchKind::kFloat64; }
  Element element() const {
    return kind == TorchKind::kFloat64 ? Element::kFloat64
           : kind == TorchKind::kBytes ? Element::kUint8
                                       : Element::kFloat32;
  }
  std::int64_t cols() const { return size / rows; }
  template <class T>
  Matrix<const T> matrix() const {
    return {static_cast<const T*>(data), row_stride, 1};
  }
  Operand operand() const { return {data, element(), row_stride, 1}; }

  // Whether the dimensions from the first one on lie one behind the other.
  bool contiguous_from(int first) const {
    std::int64_t expected = 1;
    for (int i = dimensions; i-- > first; expected *= shape[i])
      if (shape[i] != 1 && strides[i] != expected) return false;
    return true;
  }
};

// Nothing for anything but a Tensor or Parameter whose memory may be read as it is.
inline std::optional<Described> described(const py::handle& given) {
  if (const auto* const own = torch_table()) return described_by_torch(*own, given);
  const TorchNames& torch = TorchNames::get();
  const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(given.ptr()));
  if (type != torch.tensor.ptr() && type != torch.parameter.ptr()) return {};
  const auto made = torch.table ? described_by_table(given) : described_by_attributes(given);
  return made && !is_true(call(given, torch.is_neg)) ? made : std::nullopt;
}

// Nothing for something else, or a tensor of any other kind. Rows have to lie one behind the other,
// or if `apart` may have something in between: as the halves have that `chunk` makes of an
// encoder's output.
inline std::optional<PlainTensor> plain_of_any_dtype(const py::handle& given, bool apart) {
  const auto made = described(given);
  if (!made || !made->data) return {};  // no elements, or no memory behind them
  PlainTensor plain(*made);
  if (plain.size == 0) return {};
  plain.row_stride = plain.cols();
  if (plain.contiguous_from(0)) return plain;
  if (!apart || plain.dimensions != 2 || !plain.contiguous_from(1) ||
      plain.strides[0] < plain.row_stride)
    return {};
  plain.row_stride = plain.strides[0];
  return plain;
}

// The same for float32 and float64 alone, with a batch dimension.
inline std::optional<PlainTensor> plain_tensor(const py::handle& given, bool apart = false) {
  auto plain = plain_of_any_dtype(given, apart);
  if (!plain || plain->dimensions == 0 || !plain->is_floating()) return {};
  return plain;
}

inline bool same_shape(const PlainTensor& a, const PlainTensor& b) {
  return std::equal(a.shape, a.shape + a.dimensions, b.shape, b.shape + b.dimensions);
}
inline bool same_kind(const PlainTensor& a, const PlainTensor& b) {
  return a.kind == b.kind && same_shape(a, b);
}

inline bool requires_grad(const py::handle& tensor) {
  if (const auto* const own = torch_table()) return own->requires_grad(tensor.ptr());
  return is_true(attribute(tensor, TorchNames::get().requires_grad));
}

// A tensor of one's own, and its memory.
struct NewTensor {
  py::object tensor;
  void* data;
};

inline NewTensor new_tensor(const TorchTable& torch, const std::int64_t* shape, int dimensions,
                            TorchKind kind) {
  NewTensor made;
  made.tensor = py::reinterpret_steal<py::object>(torch.empty(shape, dimensions, kind, &made.data));
  if (!made.tensor) throw py::error_already_set();
  return made;
}

inline NewTensor new_like(const py::handle& tensor) {
  PyObject* const arguments[] = {tensor.ptr()};
  PyObject* const made =
      PyObject_Vectorcall(TorchNames::get().empty_like.ptr(), arguments, 1, nullptr);
  if (!made) throw py::error_already_set();
  return {py::reinterpret_steal<py::object>(made), data_of(made)};
}

// A new one of that shape. `like` is of that dtype.
inline NewTensor new_shaped(const py::handle& like, TorchKind kind, const std::int64_t* shape,
                            int dimensions) {
  if (const auto* const own = torch_table()) return new_tensor(*own, shape, dimensions, kind);
  py::tuple sizes(dimensions);
  for (int i = 0; i < dimensions; ++i) sizes[i] = shape[i];
  const py::object made = like.attr("new_empty")(sizes);
  return {made, data_of(made)};
}

// A new one of the same shape and dtype for a gradient: large ones have memory of the pool.
inline NewTensor gradient_like(const py::handle& tensor, const PlainTensor& plain) {
  const TorchNames& names = TorchNames::get();
  if (plain.size >= names.pooled) {
    py::object made = names.gradient(tensor);
    void* const data = data_of(made);
    return {std::move(made), data};
  }
  if (const auto* const own = torch_table())
    return new_tensor(*own, plain.shape, plain.dimensions, plain.kind);
  return new_like(tensor);
}

// A new one of shape ().
inline NewTensor new_number(Element element) {
  const bool single = element == Element::kFloat32;
  if (const auto* const own = torch_table())
    return new_tensor(*own, nullptr, 0, single ? TorchKind::kFloat32 : TorchKind::kFloat64);
  const TorchNames& names = TorchNames::get();
  return new_like(single ? names.number32 : names.number64);
}

}  // namespace elbokit::bindings
