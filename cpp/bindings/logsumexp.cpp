#include "elbokit/logsumexp.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace elbokit::bindings {

namespace {

// The input that both directions share.
template <class T, class Args>
Args input_args(const py::array& a) {
  expect_dimensions(a, "a", 3);
  expect<T>(a, "a", {a.shape(0), a.shape(1), a.shape(2)});
  Args args{};
  args.outer = a.shape(0), args.n = a.shape(1), args.inner = a.shape(2);
  args.a = pointer<const T>(a, "a");
  args.outer_stride = stride<T>(a, 0);
  args.axis_stride = stride<T>(a, 1);
  args.inner_stride = stride<T>(a, 2);
  return args;
}

void logsumexp(const py::array& a, const py::array& out) {
  with_value_type(a, "a", [&](auto value) {
    using T = decltype(value);
    auto args = input_args<T, LogsumexpArgs<T>>(a);
    args.out = contiguous<T>(out, "out", {args.outer, args.inner});
    const py::gil_scoped_release release;
    cpu::logsumexp(args);
  });
}

void logsumexp_backward(const py::array& a, const py::array& lse, const py::array& grad,
                        const py::array& out) {
  with_value_type(a, "a", [&](auto value) {
    using T = decltype(value);
    auto args = input_args<T, LogsumexpBackwardArgs<T>>(a);
    args.lse = contiguous<const T>(lse, "lse", {args.outer, args.inner});
    args.grad = contiguous<const T>(grad, "grad", {args.outer, args.inner});
    args.out = contiguous<T>(out, "out", {args.outer, args.n, args.inner});
    const py::gil_scoped_release release;
    cpu::logsumexp_backward(args);
  });
}

}  // namespace

void register_logsumexp(py::module_& m) {
  using namespace py::literals;
  m.def("logsumexp", &logsumexp, "a"_a, "out"_a);
  m.def("logsumexp_backward", &logsumexp_backward, "a"_a, "lse"_a, "grad"_a, "out"_a);
}

}  // namespace elbokit::bindings
