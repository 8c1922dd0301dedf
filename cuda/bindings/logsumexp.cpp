#include "kernels/logsumexp.h"

#include <array>

#include "bindings.h"

namespace elbokit::cuda_bindings {

namespace {

// The input that both directions share: (address, is_double, (outer, n, inner), strides).
struct Folded {
  std::uintptr_t address;
  bool is_double;
  std::array<std::int64_t, 3> shape;
  std::array<std::ptrdiff_t, 3> strides;

  explicit Folded(const py::tuple& given) {
    if (given.size() != 4) throw py::value_error("`a` is not a description of a tensor");
    address = given[0].cast<std::uintptr_t>();
    is_double = given[1].cast<bool>();
    shape = given[2].cast<std::array<std::int64_t, 3>>();
    strides = given[3].cast<std::array<std::ptrdiff_t, 3>>();
  }

  template <class Args>
  void set(Args& args) const {
    args.outer = shape[0], args.n = shape[1], args.inner = shape[2];
    args.a = reinterpret_cast<decltype(args.a)>(address);
    args.outer_stride = strides[0], args.axis_stride = strides[1], args.inner_stride = strides[2];
  }

  template <class F>
  void with_type(F&& f) const {
    is_double ? f(double{}) : f(float{});
  }
};

template <class T>
T* lines_of(const py::handle& given, const char* name, std::int64_t rows, std::int64_t cols) {
  const Matrix<T> m = matrix_of<T>(given, name, rows, cols);
  if (m.col_stride != 1 || (rows > 1 && m.row_stride != cols))
    throw py::value_error("`" + std::string(name) + "` is not contiguous");
  return m.data;
}

void logsumexp(const py::tuple& queue, const py::tuple& a, const py::object& out) {
  const Folded folded(a);
  folded.with_type([&](auto value) {
    using T = decltype(value);
    LogsumexpArgs<T> args{};
    folded.set(args);
    args.out = lines_of<T>(out, "out", args.outer, args.inner);
    cuda::logsumexp(queue_of(queue), args);
  });
}

void logsumexp_backward(const py::tuple& queue, const py::tuple& a, const py::object& lse,
                        const py::object& grad, const py::object& out) {
  const Folded folded(a);
  folded.with_type([&](auto value) {
    using T = decltype(value);
    LogsumexpBackwardArgs<T> args{};
    folded.set(args);
    args.lse = lines_of<const T>(lse, "lse", args.outer, args.inner);
    args.grad = lines_of<const T>(grad, "grad", args.outer, args.inner);
    args.out = lines_of<T>(out, "out", args.outer * args.n, args.inner);
    cuda::logsumexp_backward(queue_of(queue), args);
  });
}

}  // namespace

void register_logsumexp(py::module_& m) {
  using namespace py::literals;
  m.attr("logsumexp_workspace") = cuda::logsumexp_workspace();
  m.def("logsumexp", &logsumexp, "queue"_a, "a"_a, "out"_a);
  m.def("logsumexp_backward", &logsumexp_backward, "queue"_a, "a"_a, "lse"_a, "grad"_a, "out"_a);
}

}  // namespace elbokit::cuda_bindings
