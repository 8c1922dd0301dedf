#include "dispatch/kmeans_lloyd.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>
#include <utility>

#include "math/exact_sum.h"

namespace elbokit::cpu {

using ELBOKIT_LEVEL::add_exactly;
using ELBOKIT_LEVEL::divide;

template <class T>
void KMeansLloyd<T>::start(std::int64_t n_clusters, const std::int64_t* seeds, std::int32_t* labels,
                           T* bounds) {
  const KMeansRows<T>& rows = tasks_.rows();
  k_ = n_clusters;
  d_ = rows.n_features;
  labels_ = labels;
  bounds_ = bounds;
  all_ = true;
  computed_ = 0;
  rounded_.resize(k_ * d_);
  center_.resize(k_ * d_);
  shift_.resize(k_);
  drift_rounded_.assign(k_, T(0));
  drift_.assign(k_, 0.0);
  total_.resize(k_ * (d_ + 1));
  for (auto* sums : {&high_, &low_}) sums->assign(k_ * (d_ + 1), 0.0);
  members_.assign(k_, 0);
  chunk_memory_.assign(tasks_.count() * 2 * k_ * (d_ + 1), 0.0);
  chunk_members_.assign(tasks_.count() * k_, 0);
  chunk_sums_.resize(tasks_.count());
  for (std::int64_t c = 0; c < tasks_.count(); ++c) {
    double* const memory = chunk_memory_.data() + c * 2 * k_ * (d_ + 1);
    chunk_sums_[c] = {memory, memory + k_ * (d_ + 1), chunk_members_.data() + c * k_, 0, 0};
  }
  std::fill_n(labels, rows.n_samples, -1);
  for (std::int64_t k = 0; k < k_; ++k)
    for (std::int64_t j = 0; j < d_; ++j)
      center_[k * d_ + j] = rounded_[k * d_ + j] =
          rows.x.row(seeds[k])[j * rows.x.col_stride] - tasks_.pivot()[j];
}

template <class T>
std::int64_t KMeansLloyd<T>::run(std::int64_t max_iter, double tol, KMeansCheck check) {
  for (std::int64_t i = 1; i <= max_iter; ++i) {
    if (assign() == 0) return i;
    const double shift = move_centers();
    check();
    if (shift <= tol || i == max_iter) {
      assign();
      return i;
    }
  }
  return 0;
}

template <class T>
KMeansPass<T> KMeansLloyd<T>::pass() const {
  return {k_, rounded_.data(), drift_rounded_.data(), all_, labels_, bounds_};
}

template <class T>
std::int64_t KMeansLloyd<T>::assign() {
  const auto kernel = ELBOKIT_KERNEL(kmeans_pass<T>);
  // As many rows as last time, or fewer, will have to be looked at.
  const std::int64_t expected = all_ ? tasks_.rows().n_samples : computed_;
  const double scan = 2.0 * static_cast<double>(tasks_.rows().n_samples);
  tasks_.run(scan + tasks_.cost(expected, k_), [&](const KMeansChunk<T>& chunk, std::int64_t task) {
    kernel(chunk, pass(), chunk_sums_[task]);
  });
  all_ = false;
  computed_ = 0;
  std::int64_t changed = 0;
  for (std::int64_t c = 0; c < tasks_.count(); ++c) {
    computed_ += chunk_sums_[c].computed;
    changed += chunk_sums_[c].changed;
    merge(c);
  }
  return changed;
}

// Adds a chunk's sums to those of all, and clears them.
template <class T>
void KMeansLloyd<T>::merge(std::int64_t task) {
  KMeansSums& sums = chunk_sums_[task];
  if (sums.changed > 0) {
    for (std::int64_t i = 0; i < k_ * (d_ + 1); ++i) {
      add_exactly(high_[i], low_[i], sums.high[i]);
      low_[i] += sums.low[i];
      sums.high[i] = sums.low[i] = 0;
    }
    for (std::int64_t k = 0; k < k_; ++k) members_[k] += std::exchange(sums.rows[k], 0);
  }
  sums.changed = sums.computed = 0;
}

template <class T>
double KMeansLloyd<T>::move_centers() {
  center_before_ = center_;
  rounded_before_ = rounded_;
  average();
  add_drift();
  double shift = 0;
  for (std::size_t i = 0; i < center_.size(); ++i)
    shift += (center_[i] - center_before_[i]) * (center_[i] - center_before_[i]);
  return shift;
}

template <class T>
void KMeansLloyd<T>::average() {
  for (std::size_t i = 0; i < total_.size(); ++i) total_[i] = high_[i] + low_[i];
  if (std::find(members_.begin(), members_.end(), 0) != members_.end()) {
    for (std::int64_t k = 0; k < k_; ++k)
      if (members_[k] == 0)
        for (auto* sums : {&total_, &high_, &low_})
          std::fill_n(sums->begin() + k * (d_ + 1), d_ + 1, 0.0);
    relocate_empty();
  }
  std::int64_t largest = 0;
  for (std::int64_t k = 0; k < k_; ++k) {
    const double* const total = total_.data() + k * (d_ + 1);
    const double weight = total[d_];
    if (weight > total_[largest * (d_ + 1) + d_]) largest = k;
    for (std::int64_t j = 0; j < d_ && weight > 0; ++j) {
      const std::int64_t i = k * (d_ + 1) + j;
      // Where nothing was relocated the sum is still known in twice the precision.
      const bool whole = total[j] == high_[i] + low_[i];
      center_[k * d_ + j] =
          whole ? divide(high_[i], low_[i], weight) : divide(total[j], 0.0, weight);
      rounded_[k * d_ + j] = static_cast<T>(center_[k * d_ + j]);
    }
  }
  // What stays empty is shown where the largest cluster is, and takes no rows.
  for (std::int64_t k = 0; k < k_; ++k)
    if (!(total_[k * (d_ + 1) + d_] > 0)) {
      std::copy_n(center_.begin() + largest * d_, d_, center_.begin() + k * d_);
      std::fill_n(rounded_.begin() + k * d_, d_, std::numeric_limits<T>::infinity());
    }
}

// The rows farthest from their centers become the empty clusters' centers, the farthest first.
template <class T>
void KMeansLloyd<T>::relocate_empty() {
  const auto kernel = ELBOKIT_KERNEL(kmeans_own_distances<T>);
  tasks_.run(tasks_.cost(1),
             [&](const KMeansChunk<T>& chunk, std::int64_t) { kernel(chunk, pass(), bounds_); });
  all_ = true;  // the distances are where the bounds were
  const auto n_empty = static_cast<std::size_t>(std::count(members_.begin(), members_.end(), 0));
  using Far = std::pair<T, std::int64_t>;  // distance, row counted from the end: first of equals
  std::priority_queue<Far, std::vector<Far>, std::greater<Far>> farthest;
  for (std::int64_t n = 0; n < tasks_.rows().n_samples; ++n) {
    if (farthest.size() < n_empty || bounds_[n] > farthest.top().first)
      farthest.emplace(bounds_[n], -n);
    if (farthest.size() > n_empty) farthest.pop();
  }
  std::vector<Far> order;
  for (; !farthest.empty(); farthest.pop()) order.push_back(farthest.top());
  if (order.back().first == 0) return;  // every row is at its center
  const KMeansRows<T>& rows = tasks_.rows();
  for (std::int64_t k = 0; k < k_; ++k) {
    if (members_[k] != 0) continue;
    const std::int64_t row = -order.back().second;
    order.pop_back();
    const double weight = rows.sample_weight ? rows.sample_weight[row] : T(1);
    double* const from = total_.data() + labels_[row] * (d_ + 1);
    double* const to = total_.data() + k * (d_ + 1);
    for (std::int64_t j = 0; j < d_; ++j) {
      const double value = rows.x.row(row)[j * rows.x.col_stride];
      to[j] = weight * (value - static_cast<double>(tasks_.pivot()[j]));
      from[j] -= to[j];
    }
    to[d_] = weight;
    from[d_] -= weight;
  }
}

// Of each label: how much nearer any other center can have come to a row of it.
template <class T>
void KMeansLloyd<T>::add_drift() {
  std::int64_t most = 0;
  double second = 0;
  for (std::int64_t k = 0; k < k_; ++k) {
    double square = 0;
    for (std::int64_t j = 0; j < d_; ++j) {
      const double now = rounded_[k * d_ + j];
      const double difference = now - static_cast<double>(rounded_before_[k * d_ + j]);
      square += difference * difference;
    }
    // A center that takes no rows comes near none. When it is back, nothing is known.
    if (std::isinf(rounded_[k * d_]))
      square = 0;
    else if (std::isinf(rounded_before_[k * d_]))
      square = 0, all_ = true;
    shift_[k] = std::sqrt(square) * (1 + 0x1p-50 * static_cast<double>(d_ + 4));
  }
  for (std::int64_t k = 1; k < k_; ++k)
    if (shift_[k] > shift_[most]) most = k;
  for (std::int64_t k = 0; k < k_; ++k)
    if (k != most) second = std::max(second, shift_[k]);
  for (std::int64_t k = 0; k < k_; ++k) {
    drift_[k] = all_ ? 0.0 : drift_[k] + shift_[k] + (k == most ? second : shift_[most]);
    const double up = 1 + static_cast<double>(std::numeric_limits<T>::epsilon());
    drift_rounded_[k] = static_cast<T>(drift_[k] * up);
  }
}

template <class T>
void KMeansLloyd<T>::write_centers(double* centers) const {
  for (std::int64_t i = 0; i < k_ * d_; ++i)
    centers[i] = center_[i] + static_cast<double>(tasks_.pivot()[i % d_]);
}

template <class T>
double KMeansLloyd<T>::inertia() {
  const auto kernel = ELBOKIT_KERNEL(kmeans_own_distances<T>);
  std::vector<double> sums(tasks_.count());
  tasks_.run(tasks_.cost(1), [&](const KMeansChunk<T>& chunk, std::int64_t task) {
    sums[task] = kernel(chunk, pass(), nullptr);
  });
  double sum = 0;
  for (const double each : sums) sum += each;
  return sum;
}

template class KMeansLloyd<float>;
template class KMeansLloyd<double>;

}  // namespace elbokit::cpu
