#include "kernels/elementary.h"

#include "bindings.h"
#include "bindings/elementary_names.h"
#include "bindings/loss_args.h"
#include "loss_outputs.h"

namespace elbokit::cuda_bindings {

namespace {

void elementary(const py::tuple& queue, const std::string& function, const py::object& x,
                const py::object& out) {
  const Elementary which = elementary_of(function);
  const View view = view_of(x, "x", false);
  with_computed_type(view, [&](auto value) {
    using T = decltype(value);
    cuda::elementary(queue_of(queue), which, view.rows, numbers<const T>(x, "x", view.rows),
                     numbers<T>(out, "out", view.rows));
  });
}

}  // namespace

void register_elementary(py::module_& m) {
  using namespace py::literals;
  m.def("elementary", &elementary, "queue"_a, "function"_a, "x"_a, "out"_a);
}

}  // namespace elbokit::cuda_bindings
