#include "elbokit/elementary.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/elementary_names.h"

namespace elbokit::bindings {

namespace {

void elementary(const std::string& function, const py::array& x, const py::array& out) {
  const Elementary which = elementary_of(function);
  with_value_type(x, "x", [&](auto value) {
    using T = decltype(value);
    const T* const from = contiguous<const T>(x, "x", {x.size()});
    T* const to = contiguous<T>(out, "out", {x.size()});
    cpu::elementary(which, x.size(), from, to);
  });
}

}  // namespace

void register_elementary(py::module_& m) {
  using namespace py::literals;
  m.def("elementary", &elementary, "function"_a, "x"_a, "out"_a);
}

}  // namespace elbokit::bindings
