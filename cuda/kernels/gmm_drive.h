// The loop over mixtures and chunks of their rows.
#pragma once

#include <algorithm>

#include "kernels/gmm_pass.h"

namespace elbokit::cuda {

// Rows begin .. begin + count - 1 of plan.mixtures mixtures from the given one, in T.
template <class T>
GmmChunkRows<T> chunk_rows(const Queue& queue, const GmmPlan& plan, const GmmData& data,
                           std::int64_t mixture, std::int64_t begin, std::int64_t count, T* wide);

// For some mixtures at a time, m and those after it, maybe fewer at the end, calls each(plan,
// theirs), then chunk(plan, m, begin, rows) for each chunk of their rows, whose logits are there,
// then done(plan, m).
template <class T, class Each, class Chunk, class Done>
void for_each_chunk(const Queue& queue, const GmmPlan& whole, const GmmData& data,
                    const GmmMixtures& mixtures, const GmmSpace<T>& space, Each&& each,
                    Chunk&& chunk, Done&& done) {
  for (std::int64_t m = 0; m < data.n_mixtures; m += whole.mixtures) {
    GmmPlan plan = whole;
    plan.mixtures = std::min(whole.mixtures, data.n_mixtures - m);
    const GmmMixtures here = mixtures_from(mixtures, plan.d, m);
    make_tables(queue, plan, here, space.tables);
    each(plan, here);
    for (std::int64_t begin = 0; begin < data.n_samples; begin += plan.chunk) {
      const std::int64_t count = std::min(plan.chunk, data.n_samples - begin);
      const auto rows = chunk_rows(queue, plan, data, m, begin, count, space.wide);
      make_logits(queue, plan, space.tables, rows, space.scratch, space.logits);
      chunk(plan, m, begin, rows);
    }
    done(plan, m);
  }
}

}  // namespace elbokit::cuda
