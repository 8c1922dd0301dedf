#include "kernels/gmm.h"

#include <algorithm>

#include "kernels/gmm_drive.h"
#include "kernels/gmm_small.h"

namespace elbokit::cuda {

namespace {

template <class T>
T* from(T* array, std::int64_t at) {
  return array ? array + at : nullptr;
}

}  // namespace

std::size_t gmm_workspace(const GmmData& data, const GmmMixtures& mixtures, bool wide,
                          const Device& device) {
  Workspace counted;
  const GmmPlan plan = gmm_plan(data, mixtures, wide, device, true);
  if (wide)
    gmm_space<double>(plan, device, counted, true);
  else
    gmm_space<float>(plan, device, counted, true);
  const std::size_t small = gmm_is_small(data, mixtures, wide, device)
                                ? gmm_small_workspace(data, mixtures, wide, device)
                                : 0;
  return std::max(counted.used(), small);
}

template <class T>
void gmm_estep(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
               const GmmRowOutputs<T>& outputs) {
  const Device& device = device_of(queue);
  expect_workspace(queue, gmm_workspace(data, mixtures, sizeof(T) == 8, device));
  const DeviceGuard guard(queue);
  // With the cut of the statistics, so that log p has the same bits.
  const GmmPlan plan = gmm_plan(data, mixtures, sizeof(T) == 8, device, true);
  Workspace workspace(queue);
  const auto space = gmm_space<T>(plan, device, workspace, false);
  for_each_chunk(
      queue, plan, data, mixtures, space, [](const GmmPlan&, const GmmMixtures&) {},
      [&](const GmmPlan& part, std::int64_t m, std::int64_t begin, const GmmChunkRows<T>& rows) {
        const std::int64_t at = m * part.n + begin;
        GmmChunkOutputs<T> out{};
        out.log_prob = from(outputs.log_prob, at);
        out.responsibilities = from(outputs.responsibilities, at * part.k);
        out.labels = from(outputs.labels, at);
        out.stride = part.n;
        make_responsibilities(queue, part, space.tables, rows.count, space.logits, out);
      },
      [](const GmmPlan&, std::int64_t) {});
}

template <class T>
void gmm_statistics(const Queue& queue, const GmmData& data, const GmmMixtures& mixtures,
                    const GmmStatistics& statistics) {
  const Device& device = device_of(queue);
  expect_workspace(queue, gmm_workspace(data, mixtures, sizeof(T) == 8, device));
  if (gmm_is_small(data, mixtures, sizeof(T) == 8, device))
    return gmm_small_statistics<T>(queue, data, mixtures, statistics);
  const DeviceGuard guard(queue);
  const GmmPlan plan = gmm_plan(data, mixtures, sizeof(T) == 8, device, true);
  Workspace workspace(queue);
  const auto space = gmm_space<T>(plan, device, workspace, true);
  const GmmPartials& partials = space.partials;
  for_each_chunk(
      queue, plan, data, mixtures, space,
      [&](const GmmPlan& part, const GmmMixtures&) {
        const std::size_t each = sizeof(double) * part.mixtures;
        clear(queue, partials.moments, each * part.moment_ranges * part.moments_size());
        if (part.triangular)
          clear(queue, partials.scatter, each * part.scatter_ranges * part.scatter_size());
        clear(queue, partials.log_likelihood, each * part.row_blocks);
      },
      [&](const GmmPlan& part, std::int64_t m, std::int64_t begin, const GmmChunkRows<T>& rows) {
        GmmChunkOutputs<T> out{};
        out.sample_weight = from(data.sample_weight, m * part.n + begin);
        out.log_likelihood = partials.log_likelihood;
        out.stride = part.n;
        out.keep = true;
        make_responsibilities(queue, part, space.tables, rows.count, space.logits, out);
        add_moments(queue, part, space.tables, rows, space.logits, partials.moments);
        if (part.triangular)
          add_scatter(queue, part, space.tables, rows, space.logits, partials.scatter);
      },
      [&](const GmmPlan& part, std::int64_t m) {
        const std::int64_t components = m * part.k;
        const std::int64_t second = covariance_size(part.covariance, part.k, part.d);
        merge_sums<T>(queue, part, mixtures.means + components * part.d, partials, space.first,
                      {statistics.counts + components, statistics.first + components * part.d,
                       statistics.second + m * second, statistics.log_likelihood + m});
      });
}

#define ELBOKIT_INSTANTIATE(T)                                                      \
  template void gmm_estep(const Queue&, const GmmData&, const GmmMixtures&,         \
                          const GmmRowOutputs<T>&);                                 \
  template void gmm_statistics<T>(const Queue&, const GmmData&, const GmmMixtures&, \
                                  const GmmStatistics&);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cuda
