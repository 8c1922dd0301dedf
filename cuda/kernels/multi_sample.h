// Bounds from several latent samples, and their gradients.
#pragma once

#include "common/loss.h"
#include "elbokit/multi_sample.h"

namespace elbokit::cuda {

std::size_t multi_sample_workspace(std::int64_t samples, std::int64_t rows);

// As cpu::multi_sample; the sum of the loss over the rows goes to `outputs`.
template <class T>
void multi_sample(const Queue& queue, const MultiSampleArgs<T>& args,
                  const LossOutputs<T>& outputs);

}  // namespace elbokit::cuda
