// The C++ extension of elbokit.torch, built against the torch that is there (torch/_extension.py):
// what small losses ask of torch, and their node of autograd, without Python in between.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/object_ptr.h>

#include "torch_table.h"

namespace elbokit {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

TorchKind kind_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return TorchKind::kFloat32;
    case at::kDouble:
      return TorchKind::kFloat64;
    case at::kLong:
      return TorchKind::kInt64;
    case at::kByte:
    case at::kBool:
      return TorchKind::kBytes;
    default:
      return TorchKind::kOther;
  }
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.is_cpu() && tensor.layout() == at::kStrided && !tensor.is_neg() &&
         !at::isTensorSubclassLike(tensor);
}

bool describe(PyObject* object, TorchTensor* made) noexcept {
  try {
    if (!THPVariable_CheckExact(object)) return false;
    const at::Tensor& tensor = THPVariable_Unpack(object);
    if (!is_plain(tensor) || !tensor.has_storage()) return false;
    *made = {const_cast<void*>(tensor.const_data_ptr()), kind_of(tensor.scalar_type()),
             tensor.dim(), tensor.sizes().data(), tensor.strides().data()};
    return true;
  } catch (const std::exception&) {
    return false;  // the caller goes the long way, which has the errors
  }
}

PyObject* empty(const std::int64_t* shape, std::int64_t dimensions, TorchKind kind,
                void** data) noexcept {
  try {
    // Past the dispatcher, which has several times its work: nothing watches (`undisturbed`).
    at::Tensor tensor = at::detail::empty_cpu(
        at::IntArrayRef(shape, dimensions), kind == TorchKind::kFloat32 ? at::kFloat : at::kDouble);
    *data = tensor.mutable_data_ptr();
    return THPVariable_Wrap(std::move(tensor));
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

bool requires_grad(PyObject* tensor) noexcept { return THPVariable_Unpack(tensor).requires_grad(); }

const TorchTable kTable = {describe, requires_grad, empty};

THPObjectPtr checked(PyObject* made) {
  if (made) return THPObjectPtr(made);
  python_error error;
  error.persist();  // it has to live through the engine
  throw error;
}

template <class Item>
THPObjectPtr tuple_of(std::size_t count, Item&& item) {
  THPObjectPtr tuple = checked(PyTuple_New(static_cast<Py_ssize_t>(count)));
  for (std::size_t i = 0; i < count; ++i)
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), checked(item(i)).release());
  return tuple;
}

THPObjectPtr wrapped(const variable_list& tensors) {
  return tuple_of(tensors.size(), [&](std::size_t i) {
    return tensors[i].defined() ? THPVariable_Wrap(tensors[i]) : Py_NewRef(Py_None);
  });
}

at::Tensor tensor_or_none(PyObject* object) {
  return object == Py_None ? at::Tensor() : THPVariable_Unpack(object);
}

at::IValue value_of(PyObject* option) {
  if (PyUnicode_Check(option)) return std::string(PyUnicode_AsUTF8(option));
  return PyFloat_AsDouble(option);
}

PyObject* option_of(const at::IValue& value) {
  if (value.isDouble()) return PyFloat_FromDouble(value.toDouble());
  return PyUnicode_FromString(value.toStringRef().c_str());
}

// What a plain loss leaves for its backward beside tensors: in numbers and strings, which compiled
// autograd can look at.
class Left {
 public:
  explicit Left(const at::IValue& made) : all_(made.toTupleRef().elements()) {}

  static at::IValue make(std::int64_t loss, std::int64_t count, std::int64_t given,
                         PyObject* options) {
    std::vector<at::IValue> all{loss, count, given};
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(options); ++i)
      all.push_back(value_of(PyTuple_GET_ITEM(options, i)));
    return c10::ivalue::Tuple::create(std::move(all));
  }

  std::int64_t loss() const { return all_[0].toInt(); }
  std::size_t operands() const { return all_[1].toInt(); }
  bool given(std::size_t i) const { return all_[2].toInt() >> i & 1; }  // it is not None
  THPObjectPtr options() const {
    return tuple_of(all_.size() - kFirst,
                    [&](std::size_t i) { return option_of(all_[kFirst + i]); });
  }

 private:
  static constexpr std::size_t kFirst = 3;
  const c10::ivalue::TupleElements& all_;
};

// One of the losses: its `by_hand`, and what its last call left, which is the next one's if they
// are alike. Guarded by the GIL; a program has few, and they stay.
struct Loss {
  PyObject *by_hand, *options;
  std::int64_t count, given;
  at::IValue left;

  bool is_alike(PyObject* new_options, std::int64_t new_count, std::int64_t new_given) const {
    if (PyTuple_GET_SIZE(options) != PyTuple_GET_SIZE(new_options)) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(options); ++i)
      if (PyTuple_GET_ITEM(options, i) != PyTuple_GET_ITEM(new_options, i)) return false;
    return count == new_count && given == new_given;
  }
};
std::vector<Loss> losses;

std::size_t index_of(PyObject* by_hand) {
  const auto is_it = [&](const Loss& each) { return each.by_hand == by_hand; };
  const auto found = std::find_if(losses.begin(), losses.end(), is_it);
  const std::size_t index = found - losses.begin();
  if (found == losses.end()) losses.push_back({Py_NewRef(by_hand), PyTuple_New(0), 0, 0, {}});
  return index;
}

at::IValue left_of(PyObject* by_hand, PyObject* options, PyObject* const* operands,
                   Py_ssize_t count) {
  std::int64_t given = 0;
  for (Py_ssize_t i = 0; i < count; ++i) given |= std::int64_t{operands[i] != Py_None} << i;
  const std::size_t index = index_of(by_hand);
  Loss& loss = losses[index];
  if (loss.is_alike(options, count, given)) return loss.left;
  at::IValue left = Left::make(static_cast<std::int64_t>(index), count, given, options);
  Py_SETREF(loss.options, Py_NewRef(options));
  loss.count = count;
  loss.given = given;
  return loss.left = std::move(left);
}

// What the core made: outputs, and the gradients for an upstream one of 1.
struct Made {
  variable_list outputs, gradients;
  at::IValue left;
};

// Whether what was saved dies in the running backward, which is not recorded, and `grad` is a
// number that can be looked at.
bool is_last(const at::Tensor& grad) {
  return !at::GradMode::is_enabled() && !torch::autograd::get_current_graph_task_keep_graph() &&
         !c10::impl::tls_is_dispatch_key_included(
             c10::DispatchKey::FuncTorchDynamicLayerFrontMode) &&
         is_plain(grad) && grad.dim() == 0 && !grad._fw_grad(0).defined();
}

bool is_one(const at::Tensor& number) {
  if (number.scalar_type() == at::kFloat) return *number.const_data_ptr<float>() == 1;
  return number.scalar_type() == at::kDouble && *number.const_data_ptr<double>() == 1;
}

struct PlainLoss : torch::autograd::Function<PlainLoss> {
  // `operands` are those that are not None.
  static variable_list forward(AutogradContext* ctx, at::TensorList operands, Made* made) {
    variable_list saved;
    saved.reserve(operands.size() + made->gradients.size());
    saved.insert(saved.end(), operands.begin(), operands.end());
    saved.insert(saved.end(), std::make_move_iterator(made->gradients.begin()),
                 std::make_move_iterator(made->gradients.end()));
    ctx->save_for_backward(std::move(saved));
    ctx->set_materialize_grads(false);
    ctx->saved_data["left"] = std::move(made->left);
    return std::move(made->outputs);
  }

  // One gradient for each of the operands, and one for what was made.
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    // In any case: it raises where an operand was changed, or the graph is gone.
    variable_list saved = ctx->get_saved_variables();
    const Left left(ctx->saved_data["left"]);
    variable_list operands(left.operands());
    auto next = std::make_move_iterator(saved.begin());
    for (std::size_t i = 0; i < left.operands(); ++i)
      if (left.given(i)) operands[i] = *next++;
    variable_list gradients(next, std::make_move_iterator(saved.end()));
    saved.clear();
    const auto undefined = [](const at::Tensor& grad) { return !grad.defined(); };
    const bool alone = std::all_of(grads.begin() + 1, grads.end(), undefined);
    if (alone && grads[0].defined() && is_last(grads[0])) {
      if (!is_one(grads[0]))
        for (at::Tensor& gradient : gradients)
          if (gradient.defined()) gradient.mul_(grads[0]);
    } else {
      gradients = by_hand(*ctx, left, grads, operands, gradients);
    }
    gradients.resize(left.operands());
    variable_list result;
    result.reserve(left.operands() + 1);
    for (std::size_t i = 0; i < left.operands(); ++i)
      if (left.given(i)) result.push_back(std::move(gradients[i]));
    result.emplace_back();
    return result;
  }

 private:
  // Whatever else may be asked: by `by_hand(grads, operands, gradients, options, needs)` in Python.
  static variable_list by_hand(const AutogradContext& ctx, const Left& left,
                               const variable_list& grads, const variable_list& operands,
                               const variable_list& gradients) {
    const pybind11::gil_scoped_acquire gil;
    std::size_t place = 0;
    THPObjectPtr needs = tuple_of(left.operands(), [&](std::size_t i) {
      return Py_NewRef(left.given(i) && ctx.needs_input_grad(place++) ? Py_True : Py_False);
    });
    THPObjectPtr called = checked(PyObject_CallFunctionObjArgs(
        losses[left.loss()].by_hand, wrapped(grads).get(), wrapped(operands).get(),
        wrapped(gradients).get(), left.options().get(), needs.get(), nullptr));
    THPObjectPtr found = checked(PySequence_Tuple(called.get()));
    variable_list result;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(found.get()); ++i)
      result.push_back(tensor_or_none(PyTuple_GET_ITEM(found.get(), i)));
    return result;
  }
};

// attach(found, by_hand, options, *operands): the outputs, with a node of
// autograd; or None where hooks want to see what is saved.
PyObject* attach(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  if (at::SavedTensorDefaultHooks::get_hooks()) Py_RETURN_NONE;
  PyObject* const* const operands = given + 3;
  count -= 3;
  PyObject* const found = given[0];
  const Py_ssize_t outputs = PyTuple_GET_SIZE(found) - 1;
  PyObject* const gradients = PyTuple_GET_ITEM(found, outputs);
  Made made;
  made.left = left_of(given[1], given[2], operands, count);
  made.outputs.reserve(outputs);
  for (Py_ssize_t i = 0; i < outputs; ++i)
    made.outputs.push_back(THPVariable_Unpack(PyTuple_GET_ITEM(found, i)));
  made.gradients.reserve(PyTuple_GET_SIZE(gradients));
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(gradients); ++i)
    made.gradients.push_back(tensor_or_none(PyTuple_GET_ITEM(gradients, i)));
  variable_list tensors;
  tensors.reserve(count);
  for (Py_ssize_t i = 0; i < count; ++i)
    if (operands[i] != Py_None) tensors.push_back(THPVariable_Unpack(operands[i]));
  const variable_list tracked = PlainLoss::apply(at::TensorList(tensors), &made);
  return outputs == 1 ? THPVariable_Wrap(tracked[0]) : wrapped(tracked).release();
  END_HANDLE_TH_ERRORS
}

PyMethodDef methods[] = {{"attach", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(attach)),
                          METH_FASTCALL, nullptr},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "extension", nullptr, -1, methods};

}  // namespace

}  // namespace elbokit

#define ELBOKIT_NAME(prefix, name) ELBOKIT_JOIN(prefix, name)
#define ELBOKIT_JOIN(prefix, name) prefix##name

PyMODINIT_FUNC ELBOKIT_NAME(PyInit_, TORCH_EXTENSION_NAME)() {
  PyObject* const made = PyModule_Create(&elbokit::module);
  void* const table = const_cast<elbokit::TorchTable*>(&elbokit::kTable);
  PyObject* const capsule = made ? PyCapsule_New(table, elbokit::kTorchTable, nullptr) : nullptr;
  if (capsule && PyModule_AddObject(made, "table", capsule) == 0) return made;
  Py_XDECREF(capsule);
  Py_XDECREF(made);
  return nullptr;
}
