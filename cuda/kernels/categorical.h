// The kernel of the categorical loss.
#pragma once

#include "common/loss.h"
#include "elbokit/categorical.h"

namespace elbokit::cuda {

// The sum of the loss over all positions goes to `outputs`. A target that is no class gives NaN: a
// loss and a gradient of NaN at its position. Logits are floating, and the gradient has their type,
// or float for Float16; else std::invalid_argument. Needs loss_workspace().
template <class T>
void categorical_loss(const Queue& queue, const CategoricalArgs<T>& args,
                      const LossOutputs<T>& outputs);

}  // namespace elbokit::cuda
