#include "elbokit/gmm_split.h"

#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace elbokit::bindings {

namespace {

void gmm_split(const py::array& factors, const py::array& order, py::ssize_t n_observed,
               const py::array& observed, const py::array& hidden, const py::array& regression,
               const py::array& covariances) {
  expect_dimensions(factors, "factors", 3);
  expect_dimensions(order, "order", 2);
  const py::ssize_t k = factors.shape(0), d = factors.shape(2), n = order.shape(0);
  const py::ssize_t o = n_observed, m = d - n_observed;
  if (o < 0 || m < 0)
    throw py::value_error("`n_observed` is " + std::to_string(o) + ", expected 0 to " +
                          std::to_string(d));
  const double* const from = contiguous<const double>(factors, "factors", {k, d, d});
  const auto* const places = contiguous<const std::int64_t>(order, "order", {n, d});
  if (std::any_of(places, places + n * d, [d](std::int64_t i) { return i < 0 || i >= d; }))
    throw py::value_error("`order` has an index out of range");
  double* const seen = contiguous<double>(observed, "observed", {n, k, o, o});
  double* const rest = contiguous<double>(hidden, "hidden", {n, k, m, m});
  double* const slope = contiguous<double>(regression, "regression", {n, k, m, o});
  double* const spread = contiguous<double>(covariances, "covariances", {n, k, m, m});
  const py::gil_scoped_release release;
  cpu::gmm_split(n, k, d, o, from, places, seen, rest, slope, spread);
}

}  // namespace

void register_gmm_split(py::module_& m) {
  using namespace py::literals;
  m.def("gmm_split", &gmm_split, "factors"_a, "order"_a, "n_observed"_a, "observed"_a, "hidden"_a,
        "regression"_a, "covariances"_a);
}

}  // namespace elbokit::bindings
