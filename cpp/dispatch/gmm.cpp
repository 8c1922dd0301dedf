#include "elbokit/gmm.h"

#include <memory>
#include <vector>

#include "dispatch/cpu_level.h"
#include "dispatch/gmm_batch.h"
#include "dispatch/gmm_model.h"
#include "dispatch/gmm_pass.h"
#include "dispatch/huge_pages.h"
#include "dispatch/workspaces.h"

namespace elbokit::cpu {

namespace {

using dispatch::for_each_task;

constexpr std::int64_t kMaxPosteriorChunks = 256;

struct Chunk {
  std::int64_t mixture;
  RowRange rows;
};

template <class T>
std::vector<PreparedGmm<T>> prepare(std::int64_t n_mixtures, const GmmParameters* parameters) {
  std::vector<PreparedGmm<T>> models;
  models.reserve(n_mixtures);
  for (std::int64_t m = 0; m < n_mixtures; ++m) models.emplace_back(parameters[m]);
  return models;
}

template <class T>
double mass_of(const GmmRows<T>& rows) {
  if (!rows.sample_weight) return static_cast<double>(rows.n_samples);
  double mass = 0.0;
  for (std::int64_t n = 0; n < rows.n_samples; ++n) mass += rows.sample_weight[n];
  return mass;
}

}  // namespace

template <class T>
void gmm_estep(std::int64_t n_mixtures, const GmmRows<T>* rows, const GmmParameters* parameters,
               const GmmPosterior<T>* posteriors) {
  const auto shape_of = ELBOKIT_KERNEL(gmm_shape<T>);
  const auto kernel = ELBOKIT_KERNEL(gmm_chunk<T>);
  const auto models = prepare<T>(n_mixtures, parameters);
  std::vector<Chunk> chunks;
  double cost = 0.0;
  for (std::int64_t m = 0; m < n_mixtures; ++m) {
    const std::int64_t block_rows = shape_of(models[m].model()).block_rows;
    for (const RowRange& range : plan_chunks(rows[m].n_samples, block_rows, kMaxPosteriorChunks))
      chunks.push_back({m, range});
    cost += estimated_cost(parameters[m], rows[m].n_samples, sizeof(T));
  }
  for (std::int64_t m = 0; m < n_mixtures; ++m)
    if (const Matrix<T>& r = posteriors[m].responsibilities)
      dispatch::advise_huge_pages(
          r.data, sizeof(T) * static_cast<std::size_t>(rows[m].n_samples * r.row_stride));
  dispatch::Workspaces<T> workspaces;
  for_each_task(cost >= dispatch::kWorthThreads, static_cast<std::int64_t>(chunks.size()),
                [&](std::int64_t task, int slot) {
                  const Chunk& c = chunks[task];
                  const GmmModel<T>& model = models[c.mixture].model();
                  kernel(model, {rows[c.mixture], c.rows.begin, c.rows.end, posteriors[c.mixture],
                                 nullptr, workspaces.get(slot, shape_of(model).workspace), T(0)});
                });
}

template <class T>
void gmm_statistics(std::int64_t n_mixtures, const GmmRows<T>* rows,
                    const GmmParameters* parameters, const GmmStatistics* statistics) {
  std::vector<std::unique_ptr<GmmPass<T>>> passes(dispatch::kMaxThreads);
  for_each_mixture(n_mixtures, rows, parameters, [&](std::int64_t m, int slot, bool threads) {
    if (!passes[slot]) passes[slot] = std::make_unique<GmmPass<T>>();
    passes[slot]->run(rows[m], parameters[m], mass_of(rows[m]), threads, statistics[m]);
  });
}

#define ELBOKIT_INSTANTIATE(T)                                                        \
  template void gmm_estep(std::int64_t, const GmmRows<T>*, const GmmParameters*,      \
                          const GmmPosterior<T>*);                                    \
  template void gmm_statistics(std::int64_t, const GmmRows<T>*, const GmmParameters*, \
                               const GmmStatistics*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cpu
