#include "elbokit/bernoulli.h"

#include "bindings/bindings.h"
#include "bindings/loss_args.h"

namespace elbokit::bindings {

namespace {

double bernoulli_loss(const py::array& logits, const py::array& target, const OptionalArray& weight,
                      const OptionalArray& pos_weight, double scale,
                      const OptionalArray& elementwise_out, const OptionalArray& row_out,
                      const OptionalArray& grad_out) {
  return with_value_type(logits, "logits", [&](auto value) {
    using T = decltype(value);
    BernoulliArgs<T> args = bernoulli_args<T>(logits, target, scale);
    args.weight = matrix<const T>(weight, "weight", args.rows, args.cols);
    args.pos_weight = matrix<const T>(pos_weight, "pos_weight", args.rows, args.cols);
    args.elementwise = matrix<T>(elementwise_out, "elementwise_out", args.rows, args.cols);
    args.row_loss = vector<T>(row_out, "row_out", args.rows);
    args.grad = matrix<T>(grad_out, "grad_out", args.rows, args.cols);
    const py::gil_scoped_release release;
    return cpu::bernoulli_loss(args);
  });
}

}  // namespace

void register_bernoulli(py::module_& m) {
  using namespace py::literals;
  m.def("bernoulli_loss", &bernoulli_loss, "logits"_a, "target"_a, "weight"_a, "pos_weight"_a,
        "scale"_a, "elementwise_out"_a, "row_out"_a, "grad_out"_a);
}

}  // namespace elbokit::bindings
