#include "elbokit/gaussian_loss.h"

#include "kernels/rows.h"
#include "kernels/spans.h"
#include "math/gaussian_loss.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// Rows that share each feature's noise take turns span by span, so many of them.
constexpr int kTogether = 32;

enum class Noise { kOfRow, kOfColumns, kOfElements };

template <class T>
class GaussianRows {
 public:
  explicit GaussianRows(const GaussianLossArgs<T>& args)
      : args_(args),
        mean_(args.mean),
        target_(args.target, args.target_scale),
        logvar_(args.logvar),
        mask_(args.mask),
        grad_mean_(args.grad_mean, args.stream_mean),
        grad_logvar_(args.grad_logvar, args.stream_logvar),
        low_(broadcast<T>(args.low)),
        high_(broadcast<T>(args.high)) {}

  GaussianLossTotals run(std::int64_t begin, std::int64_t end) {
    const bool one = !args_.logvar || args_.logvar.col_stride == 0;
    const bool same_rows = !one && args_.logvar.row_stride == 0 && !args_.grad_logvar;
    if (!same_rows)
      return one ? rows<Noise::kOfRow>(begin, end) : rows<Noise::kOfElements>(begin, end);
    GaussianLossTotals totals;
    for (std::int64_t row = begin; row < end; row += kTogether)
      totals += rows<Noise::kOfColumns>(row, end - row < kTogether ? end : row + kTogether);
    return totals;
  }

 private:
  template <Noise kNoise>
  GaussianLossTotals rows(std::int64_t begin, std::int64_t end) {
    return args_.mask ? rows<kNoise, true>(begin, end) : rows<kNoise, false>(begin, end);
  }

  template <Noise kNoise, bool kMasked>
  GaussianLossTotals rows(std::int64_t begin, std::int64_t end) {
    GaussianLossTotals totals;
    if constexpr (kNoise == Noise::kOfColumns) {
      GaussianLossTotals sums[kTogether];
      for_each_span(args_.cols, [&](std::int64_t col, int n) ELBOKIT_INLINE_LAMBDA {
        start_columns(begin, col, n);
        for (std::int64_t row = begin; row < end; ++row)
          sums[row - begin] += span<kNoise, kMasked>(row, col, n);
        if (args_.col_grad_logvar)
          for (int i = 0; i < n; ++i) args_.col_grad_logvar[col + i] += column_sums_[i];
      });
      for (std::int64_t row = begin; row < end; ++row) totals += finished(row, sums[row - begin]);
    } else {
      for (std::int64_t row = begin; row < end; ++row) {
        GaussianLossTotals sums;
        for_each_span(args_.cols, [&](std::int64_t col, int n) ELBOKIT_INLINE_LAMBDA {
          sums += span<kNoise, kMasked>(row, col, n);
        });
        totals += finished(row, sums);
      }
    }
    if (args_.stream_mean || args_.stream_logvar) stream_fence();
    return totals;
  }

  T weight(std::int64_t row) const { return args_.row_weight ? args_.row_weight[row] : T(1); }

  GaussianLossTotals finished(std::int64_t row, GaussianLossTotals sums) {
    sums.loss *= weight(row);
    if (args_.row_loss) args_.row_loss[row] = static_cast<T>(sums.loss);
    if (args_.row_grad_logvar) args_.row_grad_logvar[row] = static_cast<T>(sums.grad_logvar);
    return sums;
  }

  ELBOKIT_INLINE ClampedNoise<Vec<T>> noise_of(Vec<T> logvar) const {
    return clamped_noise<Vec<T>>(logvar, low_, high_);
  }

  void start_columns(std::int64_t row, std::int64_t col, int n) {
    const T* const logvar = logvar_(row, col, n);
    for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
      const ClampedNoise<Vec<T>> own = noise_of(read(logvar + i, count));
      store(inverse_ + i, own.noise.inverse);
      store(offset_ + i, own.noise.offset);
      store(passes_ + i, own.passes);
      store(column_sums_ + i, Vec<T>{});
    });
  }

  template <Noise kNoise, bool kMasked>
  GaussianLossTotals span(std::int64_t row, std::int64_t col, int n) {
    const T* const mean = mean_(row, col, n);
    const T* const target = target_(row, col, n);
    const T* const logvar =
        kNoise != Noise::kOfColumns && args_.logvar ? logvar_(row, col, n) : nullptr;
    const T* const mask = kMasked ? mask_(row, col, n) : nullptr;
    const ClampedNoise<Vec<T>> of_row =
        noise_of(kNoise == Noise::kOfRow && logvar ? broadcast<T>(logvar[0]) : Vec<T>{});
    const Vec<T> factor = broadcast<T>(args_.scale * weight(row));
    Vec<T> loss{}, slopes{};
    const auto term = [&](int i, int count) ELBOKIT_INLINE_LAMBDA {
      ClampedNoise<Vec<T>> own = of_row;
      if constexpr (kNoise == Noise::kOfElements) own = noise_of(read(logvar + i, count));
      if constexpr (kNoise == Noise::kOfColumns)
        own = {{load(inverse_ + i), load(offset_ + i)}, load(passes_ + i)};
      auto result =
          gaussian_term<Vec<T>>(read(mean + i, count) - read(target + i, count), own.noise);
      Vec<T> slope = own.through(result.grad_logvar * factor);
      Vec<T> grad = result.grad_mean * factor;
      if constexpr (kMasked) {
        const auto counts = read(mask + i, count) != Vec<T>{};
        result.loss = select(counts, result.loss, Vec<T>{});
        slope = select(counts, slope, Vec<T>{});
        grad = select(counts, grad, Vec<T>{});
      }
      loss += first_lanes<T>(result.loss, count);
      slope = first_lanes<T>(slope, count);
      slopes += slope;
      if constexpr (kNoise == Noise::kOfColumns)
        store(column_sums_ + i, load(column_sums_ + i) + slope);
      else if (args_.grad_logvar || args_.col_grad_logvar)
        store(slopes_ + i, slope);
      return grad;
    };
    if (args_.grad_mean)
      grad_mean_.write(row, col, n, term);
    else
      for_each_vector<T>(n, [&](std::int64_t i, int count)
                                ELBOKIT_INLINE_LAMBDA { term(static_cast<int>(i), count); });
    if (kNoise != Noise::kOfColumns && args_.grad_logvar)
      grad_logvar_.write(row, col, n,
                         [&](int i, int) ELBOKIT_INLINE_LAMBDA { return load(slopes_ + i); });
    if (kNoise != Noise::kOfColumns && args_.col_grad_logvar)
      for (int i = 0; i < n; ++i) args_.col_grad_logvar[col + i] += slopes_[i];
    return {reduce_add_wide(loss), reduce_add_wide(slopes)};
  }

  const GaussianLossArgs<T>& args_;
  SpanReader<T> mean_, target_, logvar_, mask_;
  SpanWriter<T> grad_mean_, grad_logvar_;
  Vec<T> low_, high_;
  alignas(kVectorBytes) T slopes_[kSpan];
  // Of the columns of a span: 1 / sigma, log sigma + 1/2 log(2 pi), whether gradients pass.
  alignas(kVectorBytes) T inverse_[kSpan], offset_[kSpan], passes_[kSpan];
  alignas(kVectorBytes) T column_sums_[kSpan];
};

}  // namespace

template <class T>
GaussianLossTotals gaussian_loss(const GaussianLossArgs<T>& args, std::int64_t begin,
                                 std::int64_t end) {
  return GaussianRows<T>(args).run(begin, end);
}

template GaussianLossTotals gaussian_loss(const GaussianLossArgs<float>&, std::int64_t,
                                          std::int64_t);
template GaussianLossTotals gaussian_loss(const GaussianLossArgs<double>&, std::int64_t,
                                          std::int64_t);

}  // namespace elbokit::ELBOKIT_LEVEL
