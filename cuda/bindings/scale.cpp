#include "kernels/scale.h"

#include "bindings.h"

namespace elbokit::cuda_bindings {

namespace {

// items: (in, out, factor) of each tensor, as rows of one.
void scale(const py::tuple& queue, const py::object& grad, const py::list& items) {
  const View upstream = view_of(grad, "grad", false);
  if (upstream.element != Element::kFloat32 && upstream.element != Element::kFloat64)
    throw py::type_error("`grad` is neither float32 nor float64");
  if (items.size() > cuda::kMostScaled)
    throw py::value_error("`items` has " + std::to_string(items.size()) + " tensors, expected " +
                          std::to_string(cuda::kMostScaled) + " at most");
  cuda::ScaleArgs args;
  args.grad = reinterpret_cast<const void*>(upstream.address);
  args.grad_is_double = upstream.element == Element::kFloat64;
  cuda::Scaled* next = args.at;
  for (const py::handle& given : items) {
    const auto item = given.cast<py::tuple>();
    const View in = view_of(item[0], "in", false), out = view_of(item[1], "out", true);
    if (in.element != out.element || in.element == Element::kUint8 || in.cols != out.cols)
      throw py::value_error("`in` and `out` are not alike");
    *next++ = {reinterpret_cast<const void*>(in.address), reinterpret_cast<void*>(out.address),
               in.element, in.cols, item[2].cast<double>()};
  }
  cuda::scale(queue_of(queue), args);
}

}  // namespace

void register_scale(py::module_& m) {
  using namespace py::literals;
  m.attr("most_scaled") = cuda::kMostScaled;
  m.def("scale", &scale, "queue"_a, "grad"_a, "items"_a);
}

}  // namespace elbokit::cuda_bindings
