// A mixture's parameters, prepared for the kernels.
#pragma once

#include <vector>

#include "elbokit/gmm.h"

namespace elbokit::cpu {

// Owns the arrays that its model points to; computed in double, rounded to T at the end.
template <class T>
class PreparedGmm {
 public:
  PreparedGmm() = default;
  explicit PreparedGmm(const GmmParameters& parameters) { assign(parameters); }
  PreparedGmm(PreparedGmm&&) = default;
  PreparedGmm(const PreparedGmm&) = delete;

  // Prepares other parameters, in the memory of the last ones where the shape is theirs.
  // Components may share a center only if asked to (GmmModel::one_center).
  void assign(const GmmParameters& parameters, bool share_center = true);

  const GmmModel<T>& model() const { return model_; }

  // What rounding left out of component k's center: mean - center, (n_features).
  const double* residual(std::int64_t k) const { return residual_.data() + k * model_.n_features; }

 private:
  Family family_of(const GmmParameters& parameters);
  bool whitening_pays(const GmmParameters& parameters);
  bool all_near(const GmmParameters& parameters);
  void place_pivot(const GmmParameters& parameters);
  void set_shape(const GmmParameters& parameters);
  std::int64_t packed_triangle_size() const;
  void place_centers(const GmmParameters& parameters, bool share_center);
  void set_log_constants(const GmmParameters& parameters);
  void pack_triangle(const GmmParameters& parameters, std::int64_t k, T* out) const;
  void pack_full(const GmmParameters& parameters);
  void pack_diag(const GmmParameters& parameters);
  void pack_tied(const GmmParameters& parameters);

  GmmModel<T> model_{};
  // What fills a tile is written once, with the shape.
  std::vector<T> center_, log_const_, factor_, bias_, drop_below_;
  std::vector<T> pivot_, whitener_, offset_;
  std::vector<double> residual_, exact_log_const_, exact_bias_;
};

}  // namespace elbokit::cpu
