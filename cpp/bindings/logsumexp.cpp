#include "elbokit/logsumexp.h"

#include <algorithm>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/fast_call.h"
#include "bindings/plain_losses.h"

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

// A contiguous input and the dimension of it that is reduced.
class PlainReduction {
 public:
  static std::optional<PlainReduction> of(const py::handle& input, const py::handle& dim) {
    const auto plain = plain_tensor(input);
    if (!plain || !PyLong_CheckExact(dim.ptr())) return {};
    const std::int64_t given = PyLong_AsLongLong(dim.ptr());
    if (PyErr_Occurred()) {  // of more than 64 bits
      PyErr_Clear();
      return {};
    }
    const int axis = static_cast<int>(given < 0 ? given + plain->dimensions : given);
    if (given < -plain->dimensions || given >= plain->dimensions) return {};
    return PlainReduction(*plain, axis);
  }

  const PlainTensor& input() const { return input_; }
  std::int64_t size() const { return outer_ * inner_; }

  // With the reduced dimension of size 1, or without.
  NewTensor reduced(const py::handle& like, bool keepdim) const {
    std::int64_t shape[Described::kMostDimensions];
    int dimensions = 0;
    for (int i = 0; i < input_.dimensions; ++i)
      if (i != axis_ || keepdim) shape[dimensions++] = i == axis_ ? 1 : input_.shape[i];
    return new_shaped(like, input_.kind, shape, dimensions);
  }

  template <class T, class Args>
  Args args() const {
    Args made{};
    made.outer = outer_, made.n = input_.shape[axis_], made.inner = inner_;
    made.a = static_cast<const T*>(input_.data);
    made.outer_stride = made.n * inner_;
    made.axis_stride = inner_;
    made.inner_stride = 1;
    return made;
  }

 private:
  PlainReduction(const PlainTensor& input, int axis) : input_(input), axis_(axis) {
    for (int i = 0; i < axis; ++i) outer_ *= input.shape[i];
    for (int i = axis + 1; i < input.dimensions; ++i) inner_ *= input.shape[i];
  }

  PlainTensor input_;
  int axis_;
  std::int64_t outer_ = 1, inner_ = 1;
};

py::object plain_logsumexp(const py::handle& input, const py::handle& dim, bool keepdim) {
  const auto reduction = PlainReduction::of(input, dim);
  if (!reduction) return py::none();
  const NewTensor out = reduction->reduced(input, keepdim);
  with_plain_type(reduction->input(), [&](auto value) {
    using T = decltype(value);
    auto args = reduction->args<T, LogsumexpArgs<T>>();
    args.out = static_cast<T*>(out.data);
    const py::gil_scoped_release release;
    cpu::logsumexp(args);
  });
  return out.tensor;
}

// `output` is what plain_logsumexp has returned.
py::object plain_logsumexp_backward(const py::handle& grad, const py::handle& input,
                                    const py::handle& output, const py::handle& dim) {
  const auto reduction = PlainReduction::of(input, dim);
  const auto upstream = described(grad);
  const auto lse = plain_of_any_dtype(output, false);  // hooks may have made it anew
  if (!reduction || !upstream || !lse || upstream->kind != reduction->input().kind ||
      lse->kind != upstream->kind || lse->size != reduction->size())
    return py::none();
  const PlainTensor given(*upstream);
  // As of a sum: one number for all.
  const bool repeated = std::all_of(given.strides, given.strides + given.dimensions,
                                    [](std::int64_t stride) { return stride == 0; });
  if (given.size != reduction->size() || !(repeated || given.contiguous_from(0))) return py::none();
  const PlainGradient d_input(true, input, reduction->input());
  with_plain_type(reduction->input(), [&](auto value) {
    using T = decltype(value);
    auto args = reduction->args<T, LogsumexpBackwardArgs<T>>();
    args.lse = static_cast<const T*>(lse->data);
    args.grad = static_cast<const T*>(given.data);
    args.out = d_input.matrix<T>().data;
    const py::gil_scoped_release release;
    std::vector<T> each;
    if (repeated) {
      each.assign(reduction->size(), *args.grad);
      args.grad = each.data();
    }
    cpu::logsumexp_backward(args);
  });
  return d_input.tensor();
}

}  // namespace

void register_logsumexp(py::module_& m) {
  using namespace py::literals;
  m.def("logsumexp", &logsumexp, "a"_a, "out"_a);
  m.def("logsumexp_backward", &logsumexp_backward, "a"_a, "lse"_a, "grad"_a, "out"_a);
  define_fast<plain_logsumexp>(m, "plain_logsumexp");
  define_fast<plain_logsumexp_backward>(m, "plain_logsumexp_backward");
}

}  // namespace elbokit::bindings
