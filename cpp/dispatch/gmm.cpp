#include "elbokit/gmm.h"

#include <algorithm>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "dispatch/cpu_level.h"
#include "dispatch/gmm_model.h"
#include "dispatch/huge_pages.h"
#include "dispatch/threads.h"

namespace elbokit::cpu {

namespace {

using dispatch::parallel_for;

// Chunks of rows are the units of work and of summation. Their number depends on the shapes alone,
// so that the bits do not depend on the threads, and is held down where the sums are large.
constexpr std::int64_t kMaxChunks = 16;
constexpr std::int64_t kMaxPosteriorChunks = 256;
constexpr std::int64_t kSumsBytes = 32 * 1024 * 1024;

struct SumsLayout {
  std::int64_t k, d, second;  // second: per component
  explicit SumsLayout(const GmmParameters& p) : k(p.n_components), d(p.n_features) {
    const bool full = p.covariance == Covariance::full || p.covariance == Covariance::tied;
    second = full ? d * d : d;
  }
  std::int64_t size() const { return k * (1 + d + second); }
  GmmSums at(double* base) const { return {base, base + k, base + k * (1 + d), 0.0}; }
};

struct ChunkPlan {
  std::int64_t mixture, begin, end;
};

// One mixture's rows in at most `most` chunks of whole blocks.
void plan_chunks(std::int64_t mixture, std::int64_t rows, std::int64_t block_rows,
                 std::int64_t most, std::vector<ChunkPlan>& plan) {
  const std::int64_t blocks = (rows + block_rows - 1) / block_rows;
  const std::int64_t chunks = std::min(blocks, most);
  for (std::int64_t c = 0; c < chunks; ++c)
    plan.push_back({mixture, c * blocks / chunks * block_rows,
                    std::min(rows, (c + 1) * blocks / chunks * block_rows)});
}

// Cache-line-aligned scratch for each thread, allocated when the thread first needs it.
template <class T>
class Workspaces {
 public:
  Workspaces() : slots_(dispatch::kMaxThreads) {}
  T* get(int slot, std::int64_t elements) {
    Slot& s = slots_[slot];
    if (s.elements < elements) {
      s.memory.reset(
          static_cast<T*>(::operator new(elements * sizeof(T), std::align_val_t(kAlignment))));
      s.elements = elements;
    }
    return s.memory.get();
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  struct Delete {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(kAlignment)); }
  };
  struct Slot {
    std::unique_ptr<T, Delete> memory;
    std::int64_t elements = 0;
  };
  std::vector<Slot> slots_;
};

template <class T>
std::vector<PreparedGmm<T>> prepare(std::int64_t n_mixtures, const GmmParameters* parameters) {
  std::vector<PreparedGmm<T>> models;
  models.reserve(n_mixtures);
  for (std::int64_t m = 0; m < n_mixtures; ++m) models.emplace_back(parameters[m]);
  return models;
}

// Moves component k's sums from its center to its mean, and mirrors a full second moment.
template <class T>
void recentre(const PreparedGmm<T>& prepared, std::int64_t k, const SumsLayout& layout,
              const GmmSums& sums) {
  const std::int64_t d = layout.d;
  const double* const shift = prepared.residual(k);
  const double count = sums.counts[k];
  double* const first = sums.first + k * d;
  double* const second = sums.second + k * layout.second;
  const auto moved = [&](double value, std::int64_t i, std::int64_t j) {
    return value - shift[i] * first[j] - shift[j] * first[i] + count * shift[i] * shift[j];
  };
  if (prepared.model().family == Family::full) {
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t j = 0; j <= i; ++j)
        second[i * d + j] = second[j * d + i] = moved(second[i * d + j], i, j);
  } else {
    for (std::int64_t j = 0; j < d; ++j) second[j] = moved(second[j], j, j);
  }
  for (std::int64_t j = 0; j < d; ++j) first[j] -= count * shift[j];
}

void write_statistics(const GmmParameters& p, const SumsLayout& layout, const GmmSums& sums,
                      const GmmStatistics& out) {
  std::copy_n(sums.counts, layout.k, out.counts);
  std::copy_n(sums.first, layout.k * layout.d, out.first);
  *out.log_likelihood = sums.log_likelihood;
  const std::int64_t per_component = p.covariance == Covariance::spherical ? 1 : layout.second;
  const std::int64_t outputs = p.covariance == Covariance::tied ? 1 : layout.k;
  std::fill_n(out.second, outputs * per_component, 0.0);
  for (std::int64_t k = 0; k < layout.k; ++k)
    for (std::int64_t i = 0; i < layout.second; ++i)
      out.second[(outputs == 1 ? 0 : k) * per_component + (per_component == 1 ? 0 : i)] +=
          sums.second[k * layout.second + i];
}

}  // namespace

template <class T>
void gmm_estep(std::int64_t n_mixtures, const GmmRows<T>* rows, const GmmParameters* parameters,
               const GmmPosterior<T>* posteriors) {
  const auto shape_of = ELBOKIT_KERNEL(gmm_shape<T>);
  const auto kernel = ELBOKIT_KERNEL(gmm_chunk<T>);
  const auto models = prepare<T>(n_mixtures, parameters);
  std::vector<ChunkPlan> plan;
  for (std::int64_t m = 0; m < n_mixtures; ++m)
    plan_chunks(m, rows[m].n_samples, shape_of(models[m].model()).block_rows, kMaxPosteriorChunks,
                plan);
  for (std::int64_t m = 0; m < n_mixtures; ++m)
    if (const Matrix<T>& r = posteriors[m].responsibilities)
      dispatch::advise_huge_pages(
          r.data, sizeof(T) * static_cast<std::size_t>(rows[m].n_samples * r.row_stride));
  Workspaces<T> workspaces;
  parallel_for(static_cast<std::int64_t>(plan.size()), [&](std::int64_t task, int slot) {
    const ChunkPlan& c = plan[task];
    const GmmModel<T>& model = models[c.mixture].model();
    kernel(model, {rows[c.mixture], c.begin, c.end, posteriors[c.mixture], nullptr,
                   workspaces.get(slot, shape_of(model).workspace), T(0)});
  });
}

template <class T>
void gmm_statistics(std::int64_t n_mixtures, const GmmRows<T>* rows,
                    const GmmParameters* parameters, const GmmStatistics* statistics) {
  const auto shape_of = ELBOKIT_KERNEL(gmm_shape<T>);
  const auto kernel = ELBOKIT_KERNEL(gmm_chunk<T>);
  const auto models = prepare<T>(n_mixtures, parameters);
  std::vector<ChunkPlan> plan;
  std::vector<std::int64_t> first_chunk(n_mixtures + 1), first_component(n_mixtures + 1);
  std::vector<std::size_t> offset{0};  // of each chunk's sums
  for (std::int64_t m = 0; m < n_mixtures; ++m) {
    const SumsLayout layout(parameters[m]);
    const std::int64_t bytes = layout.size() * static_cast<std::int64_t>(sizeof(double));
    plan_chunks(m, rows[m].n_samples, shape_of(models[m].model()).block_rows,
                std::clamp<std::int64_t>(kSumsBytes / bytes, 2, kMaxChunks), plan);
    first_chunk[m + 1] = static_cast<std::int64_t>(plan.size());
    first_component[m + 1] = first_component[m] + layout.k;
    while (offset.size() <= plan.size()) offset.push_back(offset.back() + layout.size());
  }
  std::vector<double> memory(offset.back());
  std::vector<GmmSums> sums(plan.size());
  Workspaces<T> workspaces;
  parallel_for(static_cast<std::int64_t>(plan.size()), [&](std::int64_t task, int slot) {
    const ChunkPlan& c = plan[task];
    const GmmModel<T>& model = models[c.mixture].model();
    sums[task] = SumsLayout(parameters[c.mixture]).at(memory.data() + offset[task]);
    kernel(model, {rows[c.mixture],
                   c.begin,
                   c.end,
                   {},
                   &sums[task],
                   workspaces.get(slot, shape_of(model).workspace),
                   T(1)});
  });
  // Chunks are added in their order into the first one, component by component.
  parallel_for(first_component[n_mixtures], [&](std::int64_t task, int) {
    const std::int64_t m = std::upper_bound(first_component.begin(), first_component.end(), task) -
                           first_component.begin() - 1;
    const std::int64_t k = task - first_component[m];
    const SumsLayout layout(parameters[m]);
    const GmmSums& to = sums[first_chunk[m]];
    const auto add = [](double* a, const double* b, std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i) a[i] += b[i];
    };
    for (std::int64_t c = first_chunk[m] + 1; c < first_chunk[m + 1]; ++c) {
      add(to.counts + k, sums[c].counts + k, 1);
      add(to.first + k * layout.d, sums[c].first + k * layout.d, layout.d);
      add(to.second + k * layout.second, sums[c].second + k * layout.second, layout.second);
    }
    recentre(models[m], k, layout, to);
  });
  for (std::int64_t m = 0; m < n_mixtures; ++m) {
    GmmSums& to = sums[first_chunk[m]];
    for (std::int64_t c = first_chunk[m] + 1; c < first_chunk[m + 1]; ++c)
      to.log_likelihood += sums[c].log_likelihood;
    write_statistics(parameters[m], SumsLayout(parameters[m]), to, statistics[m]);
  }
}

#define ELBOKIT_INSTANTIATE(T)                                                        \
  template void gmm_estep(std::int64_t, const GmmRows<T>*, const GmmParameters*,      \
                          const GmmPosterior<T>*);                                    \
  template void gmm_statistics(std::int64_t, const GmmRows<T>*, const GmmParameters*, \
                               const GmmStatistics*);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::cpu
