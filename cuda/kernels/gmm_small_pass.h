// A warp's pass over rows of few features. The lanes of a warp form teams that share the
// components; each lane holds a row, and the rows of a team are shown to all of it, one after the
// other. So parameters and sums stay in registers, and no responsibility goes through memory.
#pragma once

#include "kernels/gmm_small_model.h"

namespace elbokit::cuda {

struct SmallRows {
  const void* x;
  Element element;
  std::ptrdiff_t row_stride;
  const double* sample_weight;  // optional
  std::int64_t n_samples;
};

template <class S, class T, int D>
ELBOKIT_DEVICE void load_row_of(const SmallRows& rows, std::int64_t n, T (&x)[D]) {
  const S* const row = static_cast<const S*>(rows.x) + n * rows.row_stride;
#pragma unroll
  for (int i = 0; i < D; ++i) x[i] = widened<T>(row[i]);
}

template <class T, int D>
ELBOKIT_DEVICE void load_row(const SmallRows& rows, std::int64_t n, T (&x)[D]) {
  switch (rows.element) {
    case Element::kFloat64:
      return load_row_of<double>(rows, n, x);
    case Element::kBfloat16:
      return load_row_of<BFloat16>(rows, n, x);
    case Element::kFloat16:
      return load_row_of<Float16>(rows, n, x);
    default:
      return load_row_of<float>(rows, n, x);
  }
}

template <class T, int D, bool kFull>
class SmallPass {
  using Gmm = SmallGmm<T, D, kFull>;
  static constexpr int kEach = Gmm::kEach, kSums = Gmm::kSums;

 public:
  // The model is finish_model's, the team's size small_team's.
  ELBOKIT_DEVICE SmallPass(const T* model, double log_base, int team)
      : team_(team), part_(lane_index() & (team - 1)), log_base_(log_base) {
#pragma unroll
    for (int c = 0; c < kEach; ++c)
#pragma unroll
      for (int i = 0; i < Gmm::kParameters; ++i)
        parameters_[c][i] = model[(part_ * kEach + c) * Gmm::kParameters + i];
  }

  // Adds the sums of every `warps`-th 32 rows, from those of `warp` on, to `sums`, (padded
  // components, kSums), which is this warp's. Returns the lane's part of the log-likelihood.
  ELBOKIT_DEVICE double run(const SmallRows& rows, std::int64_t warp, std::int64_t warps,
                            double* sums) {
    // So many rows are added up in T.
    constexpr int kRun = 64;
    clear();
    double log_likelihood = 0;
    Row next;
    load(rows, warp, next);
    int added = 0;
    for (std::int64_t group = warp; group * kWarp < rows.n_samples; group += warps) {
      const Row mine = next;
      load(rows, group + warps, next);  // while this one is worked on
      log_likelihood += add(mine);
      added += team_;
      if (added < kRun) continue;
      flush(sums);
      added = 0;
    }
    if (added > 0) flush(sums);
    return log_likelihood;
  }

 private:
  struct Row {
    T x[D], weight;
  };

  // Past the end there are copies of the last row, of weight 0.
  ELBOKIT_DEVICE void load(const SmallRows& rows, std::int64_t group, Row& row) const {
    const std::int64_t n = group * kWarp + lane_index();
    const bool inside = n < rows.n_samples;
    const std::int64_t at = inside ? n : rows.n_samples - 1;
    load_row(rows, at, row.x);
    row.weight = T(1);
    if (rows.sample_weight) row.weight = static_cast<T>(rows.sample_weight[at]);
    if (!inside) row.weight = T(0);
  }

  ELBOKIT_DEVICE void clear() {
#pragma unroll
    for (int c = 0; c < kEach; ++c)
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums_[c][i] = T(0);
  }

  // The rows of the team's lanes.
  ELBOKIT_DEVICE double add(const Row& mine) {
    T own_sum = T(0), own_shift = T(0);
    for (int r = 0; r < team_; ++r) {
      Row row = mine;
      if (team_ > 1) {
        const int lane = lane_index() - part_ + r;
#pragma unroll
        for (int i = 0; i < D; ++i) row.x[i] = shuffle(mine.x[i], lane);
        row.weight = shuffle(mine.weight, lane);
      }
      T shift, sum;
      add_row(row, shift, sum);
      if (part_ == r) own_sum = sum, own_shift = shift;
    }
    const T density = math::log_density(own_shift, own_sum);
    return mine.weight == T(0)
               ? 0.0
               : static_cast<double>(mine.weight) * (static_cast<double>(density) + log_base_);
  }

  ELBOKIT_DEVICE void add_row(const Row& row, T& shift, T& sum) {
    T e[kEach], largest = -static_cast<T>(__builtin_huge_val());
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      e[c] = logit(row.x, parameters_[c]);
      largest = math::max(largest, e[c]);
    }
    for (int mask = 1; mask < team_; mask *= 2)
      largest = math::max(largest, shuffle_xor(largest, mask));
    // A row that no component reaches has log p = -inf and responsibilities 0.
    shift = largest == -static_cast<T>(__builtin_huge_val()) ? T(0) : largest;
    sum = T(0);
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      e[c] = math::exp2_nonpositive(e[c] - shift);
      sum += e[c];
    }
    for (int mask = 1; mask < team_; mask *= 2) sum += shuffle_xor(sum, mask);
    const T factor = sum == T(0) ? T(0) : row.weight / sum;
#pragma unroll
    for (int c = 0; c < kEach; ++c) add_moments(row.x, parameters_[c], e[c] * factor, sums_[c]);
  }

  ELBOKIT_DEVICE static T logit(const T (&x)[D], const T (&p)[Gmm::kParameters]) {
    T distance = T(0);
#pragma unroll
    for (int i = 0; i < D; ++i) {
      T y;
      if constexpr (kFull) {
        y = math::whiten(x[0], p[0], p[2 * D + triangle_at(i, 0)], p[D + i]);
#pragma unroll
        for (int j = 1; j <= i; ++j) y += (x[j] - p[j]) * p[2 * D + triangle_at(i, j)];
      } else {
        y = math::whiten(x[i], p[i], p[2 * D + i], p[D + i]);
      }
      distance += y * y;
    }
    return p[Gmm::kParameters - 1] - distance;
  }

  ELBOKIT_DEVICE static void add_moments(const T (&x)[D], const T (&p)[Gmm::kParameters], T r,
                                         T (&sums)[kSums]) {
    sums[0] += r;
#pragma unroll
    for (int i = 0; i < D; ++i) {
      const T weighted = r * (x[i] - p[i]);
      sums[1 + i] += weighted;
#pragma unroll
      for (int j = kFull ? 0 : i; j <= i; ++j)
        sums[1 + D + (kFull ? triangle_at(i, j) : i)] += weighted * (x[j] - p[j]);
    }
  }

  // Adds the lane's sums to the warp's, in double; one component at a time, for fewer registers.
  ELBOKIT_DEVICE void flush(double* sums) {
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      double values[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) values[i] = static_cast<double>(sums_[c][i]);
      add_across<kWarp / 2>(values, 0, kSums, sums + (part_ * kEach + c) * kSums);
    }
    clear();
  }

  // Adds up lanes of equal part. Of two lanes one goes on with half of the values each time, so
  // that in the end each value, [begin, end) of them, is one lane's.
  template <int kMask, int N>
  ELBOKIT_DEVICE void add_across(const double (&values)[N], int begin, int end,
                                 double* sums) const {
    if constexpr (kMask > 0) {
      if (kMask >= team_) {
        constexpr int kHalf = (N + 1) / 2;
        const bool upper = (lane_index() & kMask) != 0;
        double half[kHalf];
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
          const double second = kHalf + i < N ? values[kHalf + i < N ? kHalf + i : 0] : 0.0;
          const double sent = upper ? values[i] : second;
          half[i] = (upper ? second : values[i]) + shuffle_xor(sent, kMask);
        }
        const int middle = begin + kHalf < end ? begin + kHalf : end;
        return add_across<kMask / 2>(half, upper ? begin + kHalf : begin, upper ? end : middle,
                                     sums);
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (begin + i < end) sums[begin + i] += values[i];
  }

  int team_, part_;
  double log_base_;
  T parameters_[kEach][Gmm::kParameters], sums_[kEach][kSums];
};

}  // namespace elbokit::cuda
