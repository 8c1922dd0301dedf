// A warp's pass over rows of few features, of one mixture or of several. The lanes of a mixture
// form teams that share the components; each lane holds a row, and the rows of a team are shown to
// all of it, one after the other. So parameters and sums stay in registers, and no responsibility
// goes through memory.
#pragma once

#include "kernels/gmm_small_lanes.h"
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
  ELBOKIT_DEVICE SmallPass(const T* model, double log_base, int team, MixtureLanes lanes)
      : lanes_(lanes), team_(team), part_(lane_index() & (team - 1)), log_base_(log_base) {
#pragma unroll
    for (int c = 0; c < kEach; ++c)
#pragma unroll
      for (int i = 0; i < Gmm::kParameters; ++i)
        parameters_[c][i] = model[(part_ * kEach + c) * Gmm::kParameters + i];
  }

  // Adds the sums of every `warps`-th group of as many rows as lanes, from that of `warp` on, to
  // `sums`, (padded components, kSums), which is this warp's and mixture's. Returns the lane's part
  // of the log-likelihood. A mixture without rows leaves its sums alone.
  ELBOKIT_DEVICE double run(const SmallRows& rows, std::int64_t warp, std::int64_t warps,
                            double* sums) {
    // So many rows are added up in T.
    constexpr int kRun = 64;
    clear();
    // The warp goes on for the mixture of the most rows. That adds zeros to the others.
    const std::int64_t most = lanes_.most(rows.n_samples);
    const int n_sums = rows.n_samples > 0 ? kSums : 0;
    double log_likelihood = 0;
    Row next;
    const std::int64_t step = warps * lanes_.width;
    std::int64_t at = warp * lanes_.width;
    load(rows, at + lanes_.index(), next);
    while (at < most) {
      for (int added = 0; added < kRun && at < most; added += team_, at += step) {
        const Row mine = next;
        load(rows, at + step + lanes_.index(), next);  // while this one is worked on
        log_likelihood += add(mine);
      }
      flush(sums, n_sums);
    }
    return log_likelihood;
  }

 private:
  struct Row {
    T x[D], weight;
  };

  // Past the end there are copies of the last row, of weight 0; without rows, zeros.
  ELBOKIT_DEVICE void load(const SmallRows& rows, std::int64_t n, Row& row) const {
    const bool inside = n < rows.n_samples;
    const std::int64_t at = inside ? n : rows.n_samples - 1;
#pragma unroll
    for (int i = 0; i < D; ++i) row.x[i] = T(0);
    row.weight = T(0);
    if (at < 0) return;
    load_row(rows, at, row.x);
    if (inside) row.weight = rows.sample_weight ? static_cast<T>(rows.sample_weight[at]) : T(1);
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
    // Not weight / sum: rows of weight 0 would make the warp take the long way of a division.
    const T factor = sum == T(0) ? T(0) : T(1) / sum * row.weight;
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

  // Adds the lane's sums to the mixture's, in double; one component at a time, for fewer registers.
  ELBOKIT_DEVICE void flush(double* sums, int n_sums) {
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
      double values[kSums];
#pragma unroll
      for (int i = 0; i < kSums; ++i) values[i] = static_cast<double>(sums_[c][i]);
      add_across(values, lanes_.width / 2, 0, n_sums, sums + (part_ * kEach + c) * kSums);
    }
    clear();
  }

  // Adds up lanes of equal part. Of two lanes one goes on with half of the values each time, so
  // that in the end each value, [begin, end) of them, is one lane's.
  template <int N, int kDepth = 0>
  ELBOKIT_DEVICE void add_across(const double (&values)[N], int mask, int begin, int end,
                                 double* sums) const {
    if constexpr ((kWarp >> kDepth) > 1) {
      if (mask >= team_) {
        constexpr int kHalf = (N + 1) / 2;
        const bool upper = (lane_index() & mask) != 0;
        double half[kHalf];
#pragma unroll
        for (int i = 0; i < kHalf; ++i) {
          const double second = kHalf + i < N ? values[kHalf + i < N ? kHalf + i : 0] : 0.0;
          const double sent = upper ? values[i] : second;
          half[i] = (upper ? second : values[i]) + shuffle_xor(sent, mask);
        }
        const int middle = begin + kHalf < end ? begin + kHalf : end;
        return add_across<kHalf, kDepth + 1>(half, mask / 2, upper ? begin + kHalf : begin,
                                             upper ? end : middle, sums);
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (begin + i < end) sums[begin + i] += values[i];
  }

  MixtureLanes lanes_;
  int team_, part_;
  double log_base_;
  T parameters_[kEach][Gmm::kParameters], sums_[kEach][kSums];
};

}  // namespace elbokit::cuda
