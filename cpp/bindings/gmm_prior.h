// What an M-step maximises beside the likelihood, as Python hands it down.
#pragma once

#include <optional>
#include <vector>

#include "bindings/gmm_batch.h"
#include "elbokit/gmm_fit.h"

namespace elbokit::bindings {

// None, or (weight_counts (K), mean_count, mean (D), covariance_count, scale, log_normaliser);
// scale in the shape of one component's covariances, with a leading dimension of 1. Keeps the
// arrays.
class PriorArgument {
 public:
  PriorArgument(const py::object& given, const BatchShape& shape) {
    if (given.is_none()) return;
    fields_ = py::cast<py::tuple>(given);
    if (fields_.size() != 6)
      throw py::value_error("`prior` has " + std::to_string(fields_.size()) +
                            " fields, expected 6");
    const auto array = [&](int i) { return py::cast<py::array>(fields_[i]); };
    const BatchShape one{1, 1, shape.d, shape.covariance};
    prior_ = {contiguous<const double>(array(0), "prior[0]", {shape.k}),
              py::cast<double>(fields_[1]),
              contiguous<const double>(array(2), "prior[2]", {shape.d}),
              py::cast<double>(fields_[3]),
              one.second<const double>(array(4), "prior[4]"),
              py::cast<double>(fields_[5])};
  }
  const GmmPrior* get() const { return prior_ ? &*prior_ : nullptr; }

 private:
  py::tuple fields_;
  std::optional<GmmPrior> prior_;
};

// One number for all variances, or an array with one for each of a component.
inline std::vector<double> reg_covar_of(const py::object& given, const BatchShape& shape) {
  const py::ssize_t each = shape.covariance == Covariance::spherical ? 1 : shape.d;
  if (!py::isinstance<py::array>(given)) return std::vector<double>(each, py::cast<double>(given));
  const auto* const values =
      contiguous<const double>(py::cast<py::array>(given), "reg_covar", {each});
  return {values, values + each};
}

}  // namespace elbokit::bindings
