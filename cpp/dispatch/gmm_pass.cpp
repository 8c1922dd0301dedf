#include "dispatch/gmm_pass.h"

#include <algorithm>
#include <numeric>

#include "dispatch/cpu_level.h"

namespace elbokit::cpu {

namespace {

using dispatch::for_each_task;

// Chunks are held down in number where their sums are large.
constexpr std::int64_t kMaxChunks = 16;
constexpr std::int64_t kSumsBytes = 32 * 1024 * 1024;

// Smaller chunks than this would cost more to merge than they share out.
constexpr std::int64_t kChunkRows = 128;
constexpr double kChunkCost = 25e3;  // ns

// Chunks of few rows begin at multiples of this: whole groups of every kernel.
constexpr std::int64_t kRowUnit = 64;

std::int64_t power_of_two_below(double value) {
  std::int64_t power = 1;
  while (2 * power <= value) power *= 2;
  return power;
}

std::int64_t chunk_count(const GmmParameters& p, std::int64_t n, std::size_t item_size) {
  const std::int64_t bytes = SumsLayout(p).size() * static_cast<std::int64_t>(sizeof(double));
  const std::int64_t room = std::clamp<std::int64_t>(kSumsBytes / bytes, 2, kMaxChunks);
  const double useful = std::min(estimated_cost(p, n, item_size) / kChunkCost,
                                 static_cast<double>(n) / static_cast<double>(kChunkRows));
  return power_of_two_below(std::min(useful, static_cast<double>(room)));
}

void add(double* to, const double* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// Adds the chunks' sums of component k, in order, to the first chunk's.
void merge_component(const SumsLayout& layout, std::int64_t k, std::vector<GmmSums>& sums) {
  const GmmSums& to = sums[0];
  for (std::size_t c = 1; c < sums.size(); ++c) {
    add(to.counts + k, sums[c].counts + k, 1);
    add(to.first + k * layout.d, sums[c].first + k * layout.d, layout.d);
    add(to.second + k * layout.second, sums[c].second + k * layout.second, layout.second);
  }
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

std::vector<RowRange> plan_chunks(std::int64_t n, std::int64_t block_rows, std::int64_t most) {
  // Whole blocks where there are many of them; else chunks of nearly one size.
  const std::int64_t unit = n >= 4 * most * block_rows ? block_rows : kRowUnit;
  const std::int64_t units = (n + unit - 1) / unit;
  const std::int64_t count = std::min(units, most);
  std::vector<RowRange> chunks(count);
  for (std::int64_t c = 0; c < count; ++c)
    chunks[c] = {c * units / count * unit, std::min(n, (c + 1) * units / count * unit)};
  return chunks;
}

double estimated_cost(const GmmParameters& shape, std::int64_t n, std::size_t item_size) {
  const auto d = static_cast<double>(shape.n_features);
  const bool full = shape.covariance == Covariance::full || shape.covariance == Covariance::tied;
  // ns for a float32 row and component, between what AVX2 and AVX-512 need.
  const double each = full ? 0.45 + d * (0.08 + 0.03 * d) : 0.45 + 0.12 * d;
  return each * static_cast<double>(n * shape.n_components) * static_cast<double>(item_size) / 4.0;
}

template <class T>
void GmmPass<T>::plan(std::int64_t n, const GmmParameters& p, std::int64_t block_rows) {
  if (n == planned_rows_ && block_rows == planned_block_ && !sums_.empty()) return;
  chunks_ = plan_chunks(n, block_rows, chunk_count(p, n, sizeof(T)));
  const SumsLayout layout(p);
  memory_.resize(static_cast<std::int64_t>(chunks_.size()) * layout.size());
  sums_.clear();
  for (std::size_t c = 0; c < chunks_.size(); ++c)
    sums_.push_back(layout.at(memory_.data() + static_cast<std::int64_t>(c) * layout.size()));
  planned_rows_ = n;
  planned_block_ = block_rows;
}

template <class T>
void GmmPass<T>::run(const GmmRows<T>& rows, const GmmParameters& p, double mass, bool threads,
                     const GmmStatistics& out) {
  prepared_.assign(p);
  plan(rows.n_samples, p, ELBOKIT_KERNEL(gmm_shape<T>)(prepared_.model()).block_rows);
  add_chunks(rows, p, mass / static_cast<double>(rows.n_samples), threads);
  if (!kept_enough(p, mass)) add_chunks(rows, p, 0.0, threads);
  const SumsLayout layout(p);
  for (std::int64_t k = 0; k < layout.k; ++k) recentre(prepared_, k, layout, sums_[0]);
  write_statistics(p, layout, sums_[0], out);
}

template <class T>
void GmmPass<T>::add_chunks(const GmmRows<T>& rows, const GmmParameters& p, double drop_scale,
                            bool threads) {
  const GmmModel<T>& model = prepared_.model();
  const GmmShape shape = ELBOKIT_KERNEL(gmm_shape<T>)(model);
  const auto kernel = ELBOKIT_KERNEL(gmm_chunk<T>);
  const SumsLayout layout(p);
  const auto chunks = static_cast<std::int64_t>(chunks_.size());
  for_each_task(threads, chunks, [&](std::int64_t c, int slot) {
    std::fill_n(memory_.data() + c * layout.size(), layout.size(), 0.0);
    sums_[c].log_likelihood = 0.0;
    kernel(model, {rows,
                   chunks_[c].begin,
                   chunks_[c].end,
                   {},
                   &sums_[c],
                   workspaces_.get(slot, shape.workspace),
                   static_cast<T>(drop_scale)});
  });
  const double merge_cost = static_cast<double>(chunks * layout.size());  // about 1 ns each
  for_each_task(threads && merge_cost > dispatch::kWorthThreads, layout.k,
                [&](std::int64_t k, int) { merge_component(layout, k, sums_); });
  for (std::int64_t c = 1; c < chunks; ++c) sums_[0].log_likelihood += sums_[c].log_likelihood;
}

// Whether what was dropped is within the bound that kDropped promises.
template <class T>
bool GmmPass<T>::kept_enough(const GmmParameters& p, double mass) const {
  const double total = std::accumulate(p.weights, p.weights + p.n_components, 0.0);
  for (std::int64_t k = 0; k < p.n_components; ++k)
    if (!(sums_[0].counts[k] >= kKept * mass * p.weights[k] / total)) return false;
  return true;
}

template class GmmPass<float>;
template class GmmPass<double>;

}  // namespace elbokit::cpu
