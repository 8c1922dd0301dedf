#include "elbokit/precision_cholesky.h"

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace elbokit::bindings {

namespace {

std::int64_t precision_cholesky(const py::array& covariances, const py::array& factors) {
  expect_dimensions(covariances, "covariances", 3);
  const py::ssize_t n = covariances.shape(0), d = covariances.shape(2);
  const double* const from = contiguous<const double>(covariances, "covariances", {n, d, d});
  double* const to = contiguous<double>(factors, "factors", {n, d, d});
  const py::gil_scoped_release release;
  return cpu::precision_cholesky(n, d, from, to);
}

void precision_product(const py::array& factors, const py::array& precisions) {
  expect_dimensions(factors, "factors", 3);
  const py::ssize_t n = factors.shape(0), d = factors.shape(2);
  const double* const from = contiguous<const double>(factors, "factors", {n, d, d});
  double* const to = contiguous<double>(precisions, "precisions", {n, d, d});
  const py::gil_scoped_release release;
  cpu::precision_product(n, d, from, to);
}

}  // namespace

void register_precision_cholesky(py::module_& m) {
  using namespace py::literals;
  m.def("precision_cholesky", &precision_cholesky, "covariances"_a, "factors"_a);
  m.def("precision_product", &precision_product, "factors"_a, "precisions"_a);
}

}  // namespace elbokit::bindings
