// Full and tied covariances on the matrix units: logits and second moments of differences x -
// center, each factor of a product the sum of two TF32, 22 bits together, without a limit of their
// own to what float can hold. The units only cut off, so they sum up few terms at a time; the sums
// of these are in float.
#pragma once

#include "common/tensor_core.h"
#include "kernels/gmm_pass.h"

namespace elbokit::cuda {

// The units take features by sixteens, whitened coordinates by pairs of sixteens.
inline constexpr int kUnitFeatures = 16;

// Registers of the lanes for 16 features of 16 coordinates: a fragments of the two eights of the
// features, of each the high parts, then the low ones. Lane (g, t) has features 4 t .. 4 t + 3.
inline constexpr int kUnitParts = 4;

// Whether the kernels below serve a plan.
bool full_suits_units(const GmmPlan& plan, bool wide, const Device& device);

ELBOKIT_INLINE int full_sixteens(const GmmPlan& plan) {
  return static_cast<int>((plan.d + kUnitFeatures - 1) / kUnitFeatures);
}
// For each pair of sixteens of coordinates, the sixteens of features down to the diagonal.
ELBOKIT_INLINE std::int64_t full_steps(const GmmPlan& plan) {
  const std::int64_t sixteens = full_sixteens(plan), pairs = (sixteens + 1) / 2;
  return pairs * (pairs + 1) - sixteens % 2;
}
// (factors, full_steps, 2, kUnitParts, 32 lanes)
ELBOKIT_INLINE std::int64_t full_fragments(const GmmPlan& plan) {
  return plan.factors() * full_steps(plan) * 2 * kUnitParts * kWarp;
}

// Makes tables.fragments of tables.factor.
void place_fragments(const Queue& queue, const GmmPlan& plan, const GmmTables<float>& tables);

void make_full_logits(const Queue& queue, const GmmPlan& plan, const GmmTables<float>& tables,
                      const GmmChunkRows<float>& rows, float* logits);

// As add_scatter.
void add_full_scatter(const Queue& queue, const GmmPlan& plan, const GmmTables<float>& tables,
                      const GmmChunkRows<float>& rows, const float* responsibilities, double* sums);

}  // namespace elbokit::cuda
