#include "elbokit/gaussian_loss.h"

#include "kernels/rows.h"
#include "kernels/spans.h"
#include "math/gaussian_loss.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

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
        keeps_elements_(args.grad_logvar || args.col_grad_logvar),
        low_(broadcast<T>(args.low)),
        high_(broadcast<T>(args.high)) {}

  GaussianLossTotals run(std::int64_t begin, std::int64_t end) {
    const bool constant = !args_.logvar || args_.logvar.col_stride == 0;
    GaussianLossTotals totals;
    for (std::int64_t row = begin; row < end; ++row) {
      const T weight = args_.row_weight ? args_.row_weight[row] : T(1);
      GaussianLossTotals sums;
      for (std::int64_t col = 0; col < args_.cols; col += kSpan) {
        const int n = static_cast<int>(args_.cols - col < kSpan ? args_.cols - col : kSpan);
        if (constant)
          sums += args_.mask ? span<true, true>(row, col, n, weight)
                             : span<true, false>(row, col, n, weight);
        else
          sums += args_.mask ? span<false, true>(row, col, n, weight)
                             : span<false, false>(row, col, n, weight);
      }
      sums.loss *= weight;
      if (args_.row_loss) args_.row_loss[row] = static_cast<T>(sums.loss);
      if (args_.row_grad_logvar) args_.row_grad_logvar[row] = static_cast<T>(sums.grad_logvar);
      totals += sums;
    }
    if (args_.stream_mean || args_.stream_logvar) stream_fence();
    return totals;
  }

 private:
  ELBOKIT_INLINE ClampedNoise<Vec<T>> noise_of(Vec<T> logvar) const {
    return clamped_noise<Vec<T>>(logvar, low_, high_);
  }

  // kConstant: logvar is the same along the row.
  template <bool kConstant, bool kMasked>
  GaussianLossTotals span(std::int64_t row, std::int64_t col, int n, T weight) {
    const T* const mean = mean_(row, col, n);
    const T* const target = target_(row, col, n);
    const T* const logvar = args_.logvar ? logvar_(row, col, n) : nullptr;
    const T* const mask = kMasked ? mask_(row, col, n) : nullptr;
    const ClampedNoise<Vec<T>> shared =
        noise_of(kConstant && logvar ? broadcast<T>(logvar[0]) : Vec<T>{});
    const Vec<T> factor = broadcast<T>(args_.scale * weight);
    Vec<T> loss{}, slopes{};
    const auto term = [&](int i, int count) ELBOKIT_INLINE_LAMBDA {
      const ClampedNoise<Vec<T>> own = kConstant ? shared : noise_of(read(logvar + i, count));
      auto result =
          gaussian_term<Vec<T>>(read(mean + i, count) - read(target + i, count), own.noise);
      Vec<T> slope = result.grad_logvar * own.slope * factor;
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
      if (keeps_elements_) store(slopes_ + i, slope);
      return grad;
    };
    if (args_.grad_mean)
      grad_mean_.write(row, col, n, term);
    else
      for_each_vector<T>(n, [&](std::int64_t i, int count)
                                ELBOKIT_INLINE_LAMBDA { term(static_cast<int>(i), count); });
    if (args_.grad_logvar)
      grad_logvar_.write(row, col, n,
                         [&](int i, int) ELBOKIT_INLINE_LAMBDA { return load(slopes_ + i); });
    if (args_.col_grad_logvar)
      for (int i = 0; i < n; ++i) args_.col_grad_logvar[col + i] += slopes_[i];
    return {reduce_add<T>(loss), reduce_add<T>(slopes)};
  }

  const GaussianLossArgs<T>& args_;
  SpanReader<T> mean_, target_, logvar_, mask_;
  SpanWriter<T> grad_mean_, grad_logvar_;
  bool keeps_elements_;
  Vec<T> low_, high_;
  alignas(kVectorBytes) T slopes_[kSpan];
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
