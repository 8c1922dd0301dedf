#include "elbokit/multi_sample.h"

#include "kernels/bernoulli_sum.h"
#include "math/logsumexp.h"
#include "math/multi_sample.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

constexpr std::int64_t kLine = 64;  // bytes that are fetched at once

template <class T>
void convert(const double* from, int n, T* to) {
  for (int i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]);
}

// The log-weights become the weights of the samples in the bound's gradient; returns the bound.
double importance_bound(double* weights, std::int64_t samples) {
  double largest = -__builtin_huge_val();
  for (std::int64_t s = 0; s < samples; ++s)
    if (weights[s] > largest) largest = weights[s];
  const Vec<double> shift = logsumexp_shift(broadcast<double>(largest));
  Sum<double> sum;
  for_each_vector<double>(samples, [&](std::int64_t s, int count) ELBOKIT_INLINE_LAMBDA {
    const Vec<double> each = first_lanes<double>(exp(read(weights + s, count) - shift), count);
    sum.add(each);
    write<double>(weights + s, each, count);
  });
  const double total = sum.total();
  // Where no sample is possible, none has a weight.
  const double inverse = total == 0 ? 0 : 1 / total;
  for (std::int64_t s = 0; s < samples; ++s) weights[s] *= inverse;
  const double count = static_cast<double>(samples);
  return (logsumexp_close(shift, broadcast<double>(total)) - log(broadcast<double>(count)))[0];
}

double mean_bound(double* weights, std::int64_t samples) {
  double sum = 0;
  for (std::int64_t s = 0; s < samples; ++s) {
    sum += weights[s];
    weights[s] = 1.0 / static_cast<double>(samples);
  }
  return sum / static_cast<double>(samples);
}

template <class T>
class Rows {
 public:
  Rows(const MultiSampleArgs<T>& args, double* weights, T* slopes)
      : args_(args),
        weights_(weights),
        slopes_(slopes),
        logits_(args.logits),
        target_(args.target, args.target_scale),
        mask_(args.mask),
        mu_(args.mu),
        logvar_(args.logvar),
        z_(args.z),
        grad_(args.grad_logits, args.stream) {}

  double run(std::int64_t begin, std::int64_t end) {
    double total = 0;
    for (std::int64_t row = begin; row < end; ++row) {
      const T row_weight = args_.row_weight ? args_.row_weight[row] : T(1);
      const double loss = row_loss(row, static_cast<double>(args_.scale) * row_weight) * row_weight;
      if (args_.row_loss) args_.row_loss[row] = static_cast<T>(loss);
      total += loss;
    }
    if (args_.stream) stream_fence();
    return total;
  }

 private:
  double row_loss(std::int64_t row, double factor) {
    const std::int64_t samples = args_.samples;
    const bool grad = static_cast<bool>(args_.grad_logits);
    for (std::int64_t s = 0; s < samples; ++s) prefetch_latent(s * args_.rows + row);
    // The elbo's weights are known beforehand.
    const T equal = static_cast<T>(factor / static_cast<double>(samples));
    for (std::int64_t s = 0; s < samples; ++s)
      weights_[s] = !grad               ? -sweep<true, Slopes::kNone>(s, row, 0)
                    : !args_.importance ? -sweep<true, Slopes::kWritten>(s, row, equal)
                    : slopes_           ? -sweep<true, Slopes::kKept>(s, row, 1)
                                        : -sweep<true, Slopes::kNone>(s, row, 0);
    add_latent(row);
    const double bound =
        args_.importance ? importance_bound(weights_, samples) : mean_bound(weights_, samples);
    if (grad && args_.importance)
      for (std::int64_t s = 0; s < samples; ++s) {
        const T weight = static_cast<T>(factor * weights_[s]);
        if (slopes_)
          write_kept(s, row, weight);
        else
          sweep<false, Slopes::kWritten>(s, row, weight);
      }
    if (args_.grad_mu) write_latent_grads(row, factor);
    return -bound;
  }

  // The beginning of a sample of z, which lies far from the others. Inline: GCC takes a function
  // that only fetches for one that does nothing.
  ELBOKIT_INLINE void prefetch_latent(std::int64_t index) const {
    const auto* const z = static_cast<const char*>(args_.z.at(index, 0));
    const std::int64_t bytes = args_.latent * size_of(args_.z.element);
    for (std::int64_t at = 0; at < bytes && at < 4 * kLine; at += kLine) __builtin_prefetch(z + at);
  }

  // What becomes of the slopes: gradients, or in slopes_ until the weights are known.
  enum class Slopes { kNone, kKept, kWritten };

  // The loss of the logits of one sample, and its slopes times a factor.
  template <bool kLoss, Slopes kSlopes>
  double sweep(std::int64_t sample, std::int64_t row, T factor) {
    return args_.mask ? sweep<kLoss, kSlopes, true>(sample, row, factor)
                      : sweep<kLoss, kSlopes, false>(sample, row, factor);
  }

  template <bool kLoss, Slopes kSlopes, bool kMasked>
  double sweep(std::int64_t sample, std::int64_t row, T factor_value) {
    const std::int64_t index = sample * args_.rows + row;
    // The samples of a row lie far apart: the processor does not see the next one coming.
    const std::int64_t next = sample + 1 < args_.samples ? index + args_.rows : row + 1;
    const std::ptrdiff_t size = size_of(args_.logits.element);
    const Vec<T> factor = broadcast<T>(factor_value);
    BernoulliSum<T> sum;
    for_each_span(args_.cols, [&](std::int64_t col, int n) ELBOKIT_INLINE_LAMBDA {
      const T* const logits = logits_(index, col, n);
      const T* const target = target_(row, col, n);
      const T* const mask = kMasked ? mask_(row, col, n) : nullptr;
      const auto* const ahead = static_cast<const char*>(args_.logits.at(next, col));
      T* const kept = kSlopes == Slopes::kKept ? slopes_of(sample) + col : nullptr;
      Vec<T> powers[kAhead];
      const auto find_power = [&](int v, std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
        if constexpr (kLoss) __builtin_prefetch(ahead + i * size);
        powers[v] = bernoulli_power<Vec<T>>(read(logits + i, count));
      };
      const auto term = [&](int v, std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
        auto [linear, power, slope] = bernoulli_parts<Vec<T>>(read(logits + i, count), powers[v],
                                                              read(target + i, count), factor);
        if constexpr (kMasked) {
          const auto counts = read(mask + i, count) != Vec<T>{};
          linear = select(counts, linear, Vec<T>{});
          power = select(counts, power, Vec<T>{});
          slope = select(counts, slope, Vec<T>{});
        }
        if constexpr (kLoss) sum.add(v, linear, first_lanes<T>(power, count));
        if constexpr (kSlopes == Slopes::kKept) store(kept + i, slope);
        return slope;
      };
      if constexpr (kSlopes == Slopes::kWritten)
        grad_.write_ahead(index, col, n, find_power, term);
      else
        for_each_ahead<T>(n, find_power, term);
      if constexpr (kLoss) sum.end_span();
    });
    return sum.total();
  }

  T* slopes_of(std::int64_t sample) { return slopes_ + sample * in_whole_vectors(args_.cols); }

  // What was kept, times a factor.
  void write_kept(std::int64_t sample, std::int64_t row, T factor_value) {
    const Vec<T> factor = broadcast<T>(factor_value);
    for_each_span(args_.cols, [&](std::int64_t col, int n) ELBOKIT_INLINE_LAMBDA {
      const T* const kept = slopes_of(sample) + col;
      grad_.write(sample * args_.rows + row, col, n,
                  [&](int i, int) ELBOKIT_INLINE_LAMBDA { return load(kept + i) * factor; });
    });
  }

  // Calls f(s, for_each) for each sample s of a row's span; for_each(g) calls g(i, count, ratio)
  // for the vectors of the span.
  template <class F>
  ELBOKIT_INLINE void for_each_sample(std::int64_t row, std::int64_t col, int n, F&& f) {
    const double* const mu = mu_(row, col, n);
    const double* const logvar = logvar_(row, col, n);
    alignas(kVectorBytes) double precision[kSpan];
    for_each_vector<double>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
      write<double>(precision + i, exp(-read(logvar + i, count)), count);
    });
    for (std::int64_t s = 0; s < args_.samples; ++s) {
      const double* const z = z_(s * args_.rows + row, col, n);
      f(s, [&](auto&& g) ELBOKIT_INLINE_LAMBDA {
        for_each_vector<double>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
          g(i, count,
            latent_ratio<Vec<double>>(read(z + i, count), read(mu + i, count),
                                      read(logvar + i, count), read(precision + i, count)));
        });
      });
    }
  }

  void add_latent(std::int64_t row) {
    for_each_span(args_.latent, [&](std::int64_t col, int n) {
      for_each_sample(row, col, n, [&](std::int64_t s, auto&& for_each) ELBOKIT_INLINE_LAMBDA {
        Vec<double> sum{};
        for_each([&](std::int64_t, int count, const auto& ratio) ELBOKIT_INLINE_LAMBDA {
          sum += first_lanes<double>(ratio.log_ratio(), count);
        });
        weights_[s] += reduce_add<double>(sum);
      });
    });
  }

  void write_latent_grads(std::int64_t row, double factor) {
    for_each_span(args_.latent, [&](std::int64_t col, int n) {
      double d_mu[kSpan], d_logvar[kSpan], d_z[kSpan];
      for (int i = 0; i < n; ++i) d_mu[i] = d_logvar[i] = 0;
      const auto add = [](double* to, Vec<double> v, int count)
                           ELBOKIT_INLINE_LAMBDA { write<double>(to, read(to, count) + v, count); };
      for_each_sample(row, col, n, [&](std::int64_t s, auto&& for_each) ELBOKIT_INLINE_LAMBDA {
        const Vec<double> weight = broadcast<double>(-factor * weights_[s]);
        for_each([&](std::int64_t i, int count, const auto& ratio) ELBOKIT_INLINE_LAMBDA {
          add(d_mu + i, weight * ratio.grad_mu(), count);
          add(d_logvar + i, weight * ratio.grad_logvar(), count);
          write<double>(d_z + i, weight * ratio.grad_z(), count);
        });
        convert(d_z, n, args_.grad_z.row(s * args_.rows + row) + col);
      });
      convert(d_mu, n, args_.grad_mu.row(row) + col);
      convert(d_logvar, n, args_.grad_logvar.row(row) + col);
    });
  }

  const MultiSampleArgs<T>& args_;
  double* weights_;  // of the samples of a row: first their logarithms
  T* slopes_;        // of its logits, or null
  SpanReader<T> logits_, target_, mask_;
  SpanReader<double> mu_, logvar_, z_;
  SpanWriter<T> grad_;
};

}  // namespace

template <class T>
double multi_sample(const MultiSampleArgs<T>& args, std::int64_t begin, std::int64_t end,
                    double* weights, T* slopes) {
  return Rows<T>(args, weights, slopes).run(begin, end);
}

template double multi_sample(const MultiSampleArgs<float>&, std::int64_t, std::int64_t, double*,
                             float*);
template double multi_sample(const MultiSampleArgs<double>&, std::int64_t, std::int64_t, double*,
                             double*);

}  // namespace elbokit::ELBOKIT_LEVEL
