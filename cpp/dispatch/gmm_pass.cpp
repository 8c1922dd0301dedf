#include "dispatch/gmm_pass.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>

#include "dispatch/cpu_level.h"

namespace elbokit::cpu {

namespace {

using dispatch::for_each_task;

// Chunks are held down in number where their sums are large.
constexpr std::int64_t kMaxChunks = 64;
constexpr std::int64_t kSumsBytes = 64 * 1024 * 1024;

// Smaller chunks than this would cost more to merge than they share out.
constexpr std::int64_t kChunkRows = 128;
constexpr double kChunkCost = 25e3;  // ns

// So many chunks a few threads share evenly. More threads get more of them, where each is long and
// takes far longer than to clear and merge its sums, some ns for each.
constexpr double kEvenChunks = 16, kLongChunkCost = 500e3, kLongChunkCostPerSum = 100;  // ns

// A chunk is read in parts of so many bytes, which a core's cache holds, but of whole blocks, and
// of so many that what a block leaves to the next ones is rarely lost.
constexpr std::int64_t kPartBytes = 1024 * 1024;
constexpr std::int64_t kPartBlocks = 16;

// Chunks of few rows begin at multiples of this: whole groups of every kernel.
constexpr std::int64_t kRowUnit = 64;

std::int64_t power_of_two_below(double value) {
  std::int64_t power = 1;
  while (2 * power <= value) power *= 2;
  return power;
}

std::int64_t chunk_count(const SumsLayout& layout, const GmmParameters& p, std::int64_t n,
                         std::size_t item_size) {
  const std::int64_t bytes = layout.size() * static_cast<std::int64_t>(sizeof(double));
  const std::int64_t room = std::clamp<std::int64_t>(kSumsBytes / bytes, 2, kMaxChunks);
  const double cost = estimated_cost(p, n, item_size);
  const double even = std::min(cost / kChunkCost, kEvenChunks);
  const double long_chunk =
      std::max(kLongChunkCost, kLongChunkCostPerSum * static_cast<double>(layout.size()));
  const double useful = std::min(std::max(even, cost / long_chunk),
                                 static_cast<double>(n) / static_cast<double>(kChunkRows));
  return power_of_two_below(std::min(useful, static_cast<double>(room)));
}

void pause_or_stop(const std::function<void()>& pause, std::atomic<bool>& stopped) {
  try {
    pause();
  } catch (...) {
    stopped = true;
    throw;
  }
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
void GmmPass<T>::plan(std::int64_t n, const GmmParameters& p) {
  const SumsLayout layout(prepared_.model().family, p.n_components, p.n_features);
  if (n == planned_rows_ && layout.size() == layout_.size() && layout.family == layout_.family)
    return;
  layout_ = layout;
  const std::int64_t block_rows = ELBOKIT_KERNEL(gmm_shape<T>)(prepared_.model()).block_rows;
  chunks_ = plan_chunks(n, block_rows, chunk_count(layout, p, n, sizeof(T)));
  const std::int64_t row_bytes = layout.d * static_cast<std::int64_t>(sizeof(T));
  part_rows_ = std::max(kPartBlocks, kPartBytes / (row_bytes * block_rows)) * block_rows;
  memory_.resize(static_cast<std::int64_t>(chunks_.size()) * layout.size());
  sums_.clear();
  for (std::size_t c = 0; c < chunks_.size(); ++c)
    sums_.push_back(layout.at(memory_.data() + static_cast<std::int64_t>(c) * layout.size()));
  planned_rows_ = n;
}

template <class T>
std::int64_t GmmPass<T>::sums_bytes(std::int64_t n, const GmmParameters& p) {
  // Of the family that takes most: which one it will be depends on the parameters.
  const bool full = p.covariance == Covariance::full || p.covariance == Covariance::tied;
  const SumsLayout layout(full ? Family::full : Family::diag, p.n_components, p.n_features);
  return chunk_count(layout, p, n, sizeof(T)) * layout.size() *
         static_cast<std::int64_t>(sizeof(double));
}

template <class T>
void GmmPass<T>::run(const GmmRows<T>& rows, const GmmParameters& p, double mass, bool threads,
                     const GmmStatistics& out, const GmmPosterior<T>& posterior) {
  posterior_ = posterior;
  begin(rows.n_samples, p);
  add_chunks(rows, mass / static_cast<double>(rows.n_samples), threads);
  finish(rows, p, mass, threads, out);
}

template <class T>
void GmmPass<T>::run_together(const GmmRows<T>& rows, const std::vector<Together>& all, double mass,
                              const std::function<void()>& pause) {
  const auto size = static_cast<std::int64_t>(all.size());
  dispatch::parallel_for(
      size, [&](std::int64_t i, int) { all[i].pass->begin(rows.n_samples, all[i].parameters); });
  std::int64_t chunks = 0;  // the families may differ, and with them the cut
  for (const Together& each : all) chunks = std::max(chunks, each.pass->chunk_total());
  // Where there are more threads than chunks, several share a chunk, each for some of the mixtures.
  const std::int64_t groups =
      std::clamp<std::int64_t>(2 * dispatch::thread_count() / chunks, 1, size);
  const double drop_scale = mass / static_cast<double>(rows.n_samples);
  std::atomic<bool> stopped{false};
  dispatch::parallel_for(chunks * groups, [&](std::int64_t task, int slot) {
    const std::int64_t c = task / groups, group = task % groups;
    const std::int64_t first = group * size / groups, last = (group + 1) * size / groups;
    for (std::int64_t i = first; i < last; ++i) all[i].pass->clear(c);
    bool more = true;
    for (std::int64_t part = 0; more; ++part) {
      more = false;
      for (std::int64_t i = first; i < last && !stopped.load(std::memory_order_relaxed); ++i) {
        // All of them in the first one's scratch: only one pass at a time is at work in a slot.
        more |= all[i].pass->add_part(rows, c, part, drop_scale, all[0].pass->workspaces_, slot);
        if (slot == 0) pause_or_stop(pause, stopped);
      }
    }
  });
  dispatch::parallel_for(size, [&](std::int64_t i, int) {
    all[i].pass->merge(false);
    all[i].pass->finish(rows, all[i].parameters, mass, false, all[i].out);
  });
}

template <class T>
void GmmPass<T>::begin(std::int64_t n, const GmmParameters& p) {
  prepared_.assign(p);
  plan(n, p);
}

template <class T>
void GmmPass<T>::clear(std::int64_t chunk) {
  if (chunk >= chunk_total()) return;
  std::fill_n(memory_.data() + chunk * layout_.size(), layout_.size(), 0.0);
  sums_[chunk].log_likelihood = 0.0;
}

// Adds a part of a chunk to its sums. Returns whether another one follows.
template <class T>
bool GmmPass<T>::add_part(const GmmRows<T>& rows, std::int64_t chunk, std::int64_t part,
                          double drop_scale, dispatch::Workspaces<T>& workspaces, int slot) {
  if (chunk >= chunk_total()) return false;
  const RowRange& range = chunks_[chunk];
  const std::int64_t begin = range.begin + part * part_rows_;
  if (begin >= range.end) return false;
  const std::int64_t end = std::min(range.end, begin + part_rows_);
  const GmmModel<T>& model = prepared_.model();
  const std::int64_t workspace = ELBOKIT_KERNEL(gmm_shape<T>)(model).workspace;
  ELBOKIT_KERNEL(gmm_chunk<T>)
  (model, {rows, begin, end, posterior_, &sums_[chunk], workspaces.get(slot, workspace),
           static_cast<T>(drop_scale)});
  return end < range.end;
}

template <class T>
void GmmPass<T>::add_chunks(const GmmRows<T>& rows, double drop_scale, bool threads) {
  for_each_task(threads, chunk_total(), [&](std::int64_t c, int slot) {
    clear(c);
    for (std::int64_t part = 0; add_part(rows, c, part, drop_scale, workspaces_, slot);) ++part;
  });
  merge(threads);
}

// Chunks are added to the first one, in their order; a slice of the sums at a time.
template <class T>
void GmmPass<T>::merge(bool threads) {
  constexpr std::int64_t slice = 4096;
  const std::int64_t size = layout_.size(), chunks = chunk_total();
  const double merge_cost = static_cast<double>(chunks * size);  // about 1 ns each
  for_each_task(threads && merge_cost > dispatch::kWorthThreads, (size + slice - 1) / slice,
                [&](std::int64_t task, int) {
                  const std::int64_t begin = task * slice, end = std::min(size, begin + slice);
                  for (std::int64_t c = 1; c < chunks; ++c)
                    for (std::int64_t i = begin; i < end; ++i) memory_[i] += memory_[c * size + i];
                });
  for (std::int64_t c = 1; c < chunks; ++c) sums_[0].log_likelihood += sums_[c].log_likelihood;
}

// From the merged sums to the statistics. Where too much was dropped or cancelled, the pass is
// repeated.
template <class T>
void GmmPass<T>::finish(const GmmRows<T>& rows, const GmmParameters& p, double mass, bool threads,
                        const GmmStatistics& out) {
  posterior_ = {};  // written, and no pass that is repeated need write it again
  if (!kept_enough(p, mass)) add_chunks(rows, 0.0, threads);
  // The tied family's second moments, which alone could cancel, are about other means.
  if (layout_.family == Family::diag && prepared_.model().one_center && !one_center_served()) {
    prepared_.assign(p, false);
    add_chunks(rows, 0.0, threads);
  }
  for_each_task(threads && static_cast<double>(layout_.size()) > dispatch::kWorthThreads, layout_.k,
                [&](std::int64_t k, int) { recentre(k); });
  write(p, out);
}

// Whether what was dropped is within the bound that kDropped promises.
template <class T>
bool GmmPass<T>::kept_enough(const GmmParameters& p, double mass) const {
  const double total = std::accumulate(p.weights, p.weights + p.n_components, 0.0);
  for (std::int64_t k = 0; k < p.n_components; ++k)
    if (!(sums_[0].counts[k] >= kKept * mass * p.weights[k] / total)) return false;
  return true;
}

// Whether no moment about a mean is lost in the rounding of the one about the shared center: rows
// may lie much closer to the means than the model expects.
template <class T>
bool GmmPass<T>::one_center_served() const {
  constexpr double least = sizeof(T) == 4 ? 0x1p-6 : 0x1p-20;
  constexpr double resolution = 8.0 * static_cast<double>(std::numeric_limits<T>::epsilon());
  const T* const center = prepared_.model().center;
  for (std::int64_t k = 0; k < layout_.k; ++k) {
    const double count = sums_[0].counts[k];
    for (std::int64_t j = 0; j < layout_.d; ++j) {
      const double first = sums_[0].first[k * layout_.d + j];
      const double second = sums_[0].second[k * layout_.second + j];
      const double mean = count > 0.0 ? first / count : 0.0;
      // Within a few units in the center's last place, a constant column say, nothing can cancel.
      const double unit = resolution * static_cast<double>(center[j]);
      if (second <= count * unit * unit) continue;
      // About the rows' own mean: the least that the update is going to subtract to.
      if (second - first * mean < least * second) return false;
    }
  }
  return true;
}

// Moves component k's sums from its center to its mean, and mirrors a full second moment. The tied
// family's second moments were taken about the means.
template <class T>
void GmmPass<T>::recentre(std::int64_t k) const {
  const std::int64_t d = layout_.d;
  const double* const shift = prepared_.residual(k);
  const double count = sums_[0].counts[k];
  double* const first = sums_[0].first + k * d;
  double* const second =
      sums_[0].second + (layout_.family == Family::tied ? 0 : k) * layout_.second;
  const auto moved = [&](double value, std::int64_t i, std::int64_t j) {
    return value - shift[i] * first[j] - shift[j] * first[i] + count * shift[i] * shift[j];
  };
  if (layout_.family == Family::full)
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t j = 0; j <= i; ++j)
        second[i * d + j] = second[j * d + i] = moved(second[i * d + j], i, j);
  if (layout_.family == Family::diag)
    for (std::int64_t j = 0; j < d; ++j) second[j] = moved(second[j], j, j);
  for (std::int64_t j = 0; j < d; ++j) first[j] -= count * shift[j];
}

// The statistics from the merged sums.
template <class T>
void GmmPass<T>::write(const GmmParameters& p, const GmmStatistics& out) const {
  const GmmSums& sums = sums_[0];
  std::copy_n(sums.counts, layout_.k, out.counts);
  std::copy_n(sums.first, layout_.k * layout_.d, out.first);
  *out.log_likelihood = sums.log_likelihood;
  if (layout_.family == Family::tied) return write_tied(out.second);
  const std::int64_t per_component = p.covariance == Covariance::spherical ? 1 : layout_.second;
  const std::int64_t outputs = p.covariance == Covariance::tied ? 1 : layout_.k;
  std::fill_n(out.second, outputs * per_component, 0.0);
  for (std::int64_t k = 0; k < layout_.k; ++k)
    for (std::int64_t i = 0; i < layout_.second; ++i)
      out.second[(outputs == 1 ? 0 : k) * per_component + (per_component == 1 ? 0 : i)] +=
          sums.second[k * layout_.second + i];
}

// Adds to the moments about the posterior means what the components' centers differ from those,
// 1/2 sum_kl G_kl (c_k - c_l)(c_k - c_l)^T = C^T (diag(G 1) - G) C with rows c_k of C.
template <class T>
void GmmPass<T>::write_tied(double* second) const {
  const GmmModel<T>& model = prepared_.model();
  const std::int64_t d = layout_.d, k = layout_.k;
  const double* const about_means = sums_[0].second;
  const double* const lower = about_means + d * d;
  const auto center = [&](std::int64_t c) { return model.offset + c * model.padded_features; };
  std::copy_n(about_means, d * d, second);
  std::vector<double> difference(d);
  for (std::int64_t a = 0; a < k; ++a) {
    // difference = sum_b G_ab (c_a - c_b)
    std::fill(difference.begin(), difference.end(), 0.0);
    for (std::int64_t b = 0; b < k; ++b) {
      const double g = b <= a ? lower[a * k + b] : lower[b * k + a];
      if (a == b || g == 0.0) continue;
      for (std::int64_t j = 0; j < d; ++j)
        difference[j] +=
            g * (static_cast<double>(center(a)[j]) - static_cast<double>(center(b)[j]));
    }
    for (std::int64_t i = 0; i < d; ++i)
      for (std::int64_t j = 0; j <= i; ++j)
        second[i * d + j] += static_cast<double>(center(a)[i]) * difference[j];
  }
  for (std::int64_t i = 0; i < d; ++i)
    for (std::int64_t j = 0; j < i; ++j) second[j * d + i] = second[i * d + j];
}

template class GmmPass<float>;
template class GmmPass<double>;

}  // namespace elbokit::cpu
