#include "kernels/gmm_products.h"

#include <algorithm>

#include "kernels/gmm_drive.h"
#include "kernels/gmm_products_model.h"

namespace elbokit::cuda {

bool gmm_products_serves(const GmmData& data, const GmmMixtures& mixtures, const Device& device) {
  if (!suits_matrix_units(data, mixtures, device)) return false;
  const ProductShape shape = product_shape(products_plan(data, mixtures, device), device);
  return std::max(product_logits_shared(shape), product_moments_shared(shape)) <=
         device.shared_bytes;
}

std::size_t gmm_products_workspace(const GmmData& data, const GmmMixtures& mixtures,
                                   const Device& device) {
  const GmmPlan plan = products_plan(data, mixtures, device);
  return ProductMemory(plan, product_shape(plan, device), device, Workspace()).bytes;
}

void gmm_products_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                             const GmmStatistics& statistics, std::int64_t* failed) {
  const Device& device = device_of(queue);
  expect_workspace(queue, gmm_products_workspace(data, mixtures, device));
  const DeviceGuard guard(queue);
  const GmmPlan plan = products_plan(data, mixtures, device);
  const ProductShape shape = product_shape(plan, device);
  const ProductMemory memory(plan, shape, device, Workspace(queue));
  auto* const failures = reinterpret_cast<unsigned long long*>(failed);
  clear(queue, failures, sizeof(*failures));
  clear(queue, memory.log_likelihood, sizeof(double) * static_cast<std::size_t>(plan.row_blocks));
  make_tables(queue, plan, mixtures, memory.space.tables);
  pack_product_model(queue, shape, mixtures, memory, failures);
  for (std::int64_t begin = 0; begin < data.n_samples; begin += plan.chunk) {
    const std::int64_t count = std::min(plan.chunk, data.n_samples - begin);
    const auto rows = chunk_rows(queue, plan, data, 0, begin, count, memory.space.wide);
    const double* const weight = data.sample_weight ? data.sample_weight + begin : nullptr;
    make_product_logits(queue, plan, shape, rows, weight, memory, failures);
    GmmChunkOutputs<float> out{};
    out.sample_weight = weight;
    out.log_likelihood = memory.log_likelihood;
    out.stride = plan.n;
    out.keep = true;
    make_responsibilities(queue, plan, memory.space.tables, count, memory.space.logits, out);
    add_product_moments(queue, plan, shape, rows, memory, begin == 0);
  }
  merge_product_moments(queue, shape, data.n_samples, mixtures, memory, statistics, failures);
  add_up(queue, memory.log_likelihood, plan.row_blocks, statistics.log_likelihood);
}

}  // namespace elbokit::cuda
