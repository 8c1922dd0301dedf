#include "bindings/plain_tensors.h"

#include "bindings/bindings.h"

namespace elbokit::bindings {

namespace {

const TorchTable* table = nullptr;  // guarded by the GIL

void set_torch_table(const py::object& capsule) {
  table = nullptr;
  if (capsule.is_none()) return;
  void* const found = PyCapsule_GetPointer(capsule.ptr(), kTorchTable);
  if (!found) throw py::error_already_set();
  table = static_cast<const TorchTable*>(found);
}

// Whether `given` is a plain tensor of shape () in the CPU's memory, and exactly 1.
bool is_one_tensor(const py::handle& given) {
  try {
    const auto plain = plain_of_any_dtype(given, false);
    if (!plain || plain->dimensions > 0 || !plain->is_floating()) return false;
    return plain->element() == Element::kFloat32 ? *static_cast<const float*>(plain->data) == 1
                                                 : *static_cast<const double*>(plain->data) == 1;
  } catch (const py::error_already_set&) {
    return false;  // it has no memory: a batched tensor's attributes tell so by an error
  }
}

}  // namespace

const TorchTable* torch_table() { return table; }

void register_plain_tensors(py::module_& m) {
  using namespace py::literals;
  m.def("is_one_tensor", &is_one_tensor, "tensor"_a);
  m.def("set_torch_table", &set_torch_table, "table"_a);
}

}  // namespace elbokit::bindings
