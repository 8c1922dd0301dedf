#include "elbokit/elementary.h"

#include <pybind11/stl.h>

#include <map>

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace elbokit::bindings {

namespace {

void elementary(const std::string& function, const py::array& x, const py::array& out) {
  static const std::map<std::string, Elementary> functions{
      {"exp", Elementary::exp},
      {"expm1", Elementary::expm1},
      {"exp2_nonpositive", Elementary::exp2_nonpositive},
      {"log", Elementary::log},
      {"log1p_unit", Elementary::log1p_unit}};
  const auto found = functions.find(function);
  if (found == functions.end())
    throw py::value_error("`function` is '" + function + "', which is not an elementary function");
  with_value_type(x, "x", [&](auto value) {
    using T = decltype(value);
    const T* const from = contiguous<const T>(x, "x", {x.size()});
    T* const to = contiguous<T>(out, "out", {x.size()});
    cpu::elementary(found->second, x.size(), from, to);
  });
}

}  // namespace

void register_elementary(py::module_& m) {
  using namespace py::literals;
  m.def("elementary", &elementary, "function"_a, "x"_a, "out"_a);
}

}  // namespace elbokit::bindings
