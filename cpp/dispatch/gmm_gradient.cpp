#include "elbokit/gmm_gradient.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "dispatch/gmm_batch.h"
#include "dispatch/gmm_pass.h"

namespace elbokit::cpu {

namespace {

// Of components with a smaller share of the weights the responsibilities may underflow.
constexpr double kLeastShare = 0x1p-60;

template <class T>
GmmPosterior<T> slopes(const GmmRows<T>& rows, const GmmGradient<T>& gradient) {
  GmmPosterior<T> posterior{};
  posterior.grad = {rows.sample_weight.data, rows.sample_weight.stride};
  posterior.grad_x = gradient.x;
  return posterior;
}

// One mixture's gradients. Keeps its memory.
template <class T>
class GradientPass {
 public:
  void run(const GmmRows<T>& rows, const GmmParameters& p, bool threads,
           const GmmGradient<T>& out) {
    k_ = p.n_components, d_ = p.n_features;
    second_size_ = covariance_size(p.covariance, k_, d_);
    total_.assign(k_ * (1 + d_) + second_size_, 0.0);
    add_all(rows, p, threads, out.x ? slopes(rows, out) : GmmPosterior<T>{});
    for (std::int64_t k = 0; k < k_; ++k)
      out.weights[k] = static_cast<T>(counts()[k] / p.weights[k]);
    write_means(p, out.means);
    write_factors(p, out.precisions_cholesky);
  }

 private:
  const double* counts() const { return total_.data(); }
  const double* first() const { return total_.data() + k_; }
  const double* second() const { return total_.data() + k_ * (1 + d_); }

  // The statistics' kernels want weights that are not negative: rows of either sign have a pass of
  // their own.
  void add_all(const GmmRows<T>& rows, const GmmParameters& p, bool threads,
               GmmPosterior<T> posterior) {
    const Vector<const T>& grad = rows.sample_weight;
    T lowest = 0, highest = 0;
    bool above = false;
    for (std::int64_t n = 0; n < rows.n_samples; ++n) {
      const T value = grad[n];
      lowest = std::min(lowest, value);
      highest = std::max(highest, value);
      above |= !(value <= T(0));  // NaN too
    }
    const bool below = lowest < T(0);
    const double largest = static_cast<double>(std::max(-lowest, highest));
    // A power of two changes no digit, and keeps sums of weights of any size within T.
    const int exponent = largest > 0.0 && std::isfinite(largest) ? std::ilogb(largest) : 0;
    // Rows that all weigh nothing still have their own gradients, of 0.
    if (above || !below) {
      add(rows, p, threads, exponent, T(1), posterior);
      posterior = {};
    }
    if (below) add(rows, p, threads, exponent, T(-1), posterior);
  }

  void add(GmmRows<T> rows, const GmmParameters& p, bool threads, int exponent, T sign,
           const GmmPosterior<T>& posterior) {
    const T scale = sign * static_cast<T>(std::ldexp(1.0, -std::clamp(exponent, -120, 120)));
    weight_.resize(rows.n_samples);
    double mass[4] = {};  // one addition need not await the last
    for (std::int64_t n = 0; n < rows.n_samples; ++n) {
      // The positive part, exact and without a branch that random signs would mislead.
      const T value = scale * rows.sample_weight[n];
      weight_[n] = T(0.5) * (value + std::abs(value));
      mass[n % 4] += static_cast<double>(weight_[n]);
    }
    rows.sample_weight = {weight_.data(), 1};
    part_.resize(total_.size());
    double* const sums = part_.data();
    double log_likelihood = 0.0;
    pass_.run(rows, p, mass[0] + mass[1] + mass[2] + mass[3], threads,
              {sums, sums + k_, sums + k_ * (1 + d_), &log_likelihood}, posterior);
    for (std::size_t i = 0; i < total_.size(); ++i)
      total_[i] += sums[i] / static_cast<double>(scale);
  }

  // Lambda_k first_k = P_k (P_k^T first_k).
  void write_means(const GmmParameters& p, T* out) {
    const bool full = p.covariance == Covariance::full || p.covariance == Covariance::tied;
    for (std::int64_t k = 0; k < k_; ++k) {
      const double* const s = first() + k * d_;
      if (!full) {
        for (std::int64_t j = 0; j < d_; ++j) {
          const double precision =
              p.precisions_cholesky[p.covariance == Covariance::diag ? k * d_ + j : k];
          out[k * d_ + j] = static_cast<T>(precision * precision * s[j]);
        }
        continue;
      }
      const double* const factor = factor_of(p, k);
      product_.assign(d_, 0.0);
      for (std::int64_t j = 0; j < d_; ++j)
        for (std::int64_t i = j; i < d_; ++i) product_[i] += factor[j * d_ + i] * s[j];
      for (std::int64_t j = 0; j < d_; ++j) {
        double sum = 0.0;
        for (std::int64_t i = j; i < d_; ++i) sum += factor[j * d_ + i] * product_[i];
        out[k * d_ + j] = static_cast<T>(sum);
      }
    }
  }

  static const double* factor_of(const GmmParameters& p, std::int64_t k) {
    const bool tied = p.covariance == Covariance::tied;
    return p.precisions_cholesky + (tied ? 0 : k * p.n_features * p.n_features);
  }

  void write_factors(const GmmParameters& p, T* out) {
    const double* const factor = p.precisions_cholesky;
    const double all = std::accumulate(counts(), counts() + k_, 0.0);
    switch (p.covariance) {
      case Covariance::full:
        for (std::int64_t k = 0; k < k_; ++k)
          write_triangle(factor_of(p, k), counts()[k], second() + k * d_ * d_, out + k * d_ * d_);
        return;
      case Covariance::tied:
        return write_triangle(factor, all, second(), out);
      case Covariance::diag:
        for (std::int64_t i = 0; i < k_ * d_; ++i)
          out[i] = static_cast<T>(counts()[i / d_] / factor[i] - second()[i] * factor[i]);
        return;
      default:
        for (std::int64_t k = 0; k < k_; ++k)
          out[k] = static_cast<T>(static_cast<double>(d_) * counts()[k] / factor[k] -
                                  second()[k] * factor[k]);
    }
  }

  void write_triangle(const double* factor, double count, const double* second, T* out) {
    for (std::int64_t j = 0; j < d_; ++j) {
      product_.assign(d_, 0.0);
      for (std::int64_t l = 0; l < d_; ++l)
        for (std::int64_t i = std::max(j, l); i < d_; ++i)
          product_[i] -= second[j * d_ + l] * factor[l * d_ + i];
      product_[j] += count / factor[j * d_ + j];
      for (std::int64_t i = 0; i < d_; ++i)
        out[j * d_ + i] = i < j ? T(0) : static_cast<T>(product_[i]);
    }
  }

  GmmPass<T> pass_;
  std::int64_t k_ = 0, d_ = 0, second_size_ = 0;
  std::vector<T> weight_;
  std::vector<double> total_, part_, product_;
};

std::vector<double> log_densities(const GmmRows<double>& rows, const GmmParameters& p) {
  std::vector<double> log_prob(rows.n_samples);
  const GmmPosterior<double> posterior{{log_prob.data(), 1}, {}};
  gmm_estep<double>(1, &rows, &p, &posterior);
  return log_prob;
}

std::vector<double> log_densities(const GmmRows<float>& rows, const GmmParameters& p) {
  GmmRows<double> wide{};
  wide.n_samples = rows.n_samples;
  wide.narrow = rows.x;
  return log_densities(wide, p);
}

// sum_n grad_n N_k(x_n) / p(x_n) from the log-densities themselves, in double: right for a weight
// that is 0, or too small for a responsibility to carry it.
template <class T>
T weight_gradient(const GmmRows<T>& rows, const GmmParameters& p, std::int64_t k,
                  const std::vector<double>& log_prob) {
  const std::int64_t each =
      p.covariance == Covariance::tied ? 0 : covariance_size(p.covariance, 1, p.n_features);
  constexpr double one = 1.0;
  const GmmParameters alone{p.covariance,
                            1,
                            p.n_features,
                            &one,
                            p.means + k * p.n_features,
                            p.precisions_cholesky + k * each};
  const std::vector<double> density = log_densities(rows, alone);
  double sum = 0.0;
  for (std::int64_t n = 0; n < rows.n_samples; ++n)
    if (log_prob[n] != -std::numeric_limits<double>::infinity() && rows.sample_weight[n] != T(0))
      sum += static_cast<double>(rows.sample_weight[n]) * std::exp(density[n] - log_prob[n]);
  return static_cast<T>(sum);
}

template <class T>
void mend_small_weights(const GmmRows<T>& rows, const GmmParameters& p, T* out) {
  const double total = std::accumulate(p.weights, p.weights + p.n_components, 0.0);
  std::vector<double> log_prob;
  for (std::int64_t k = 0; k < p.n_components; ++k) {
    if (p.weights[k] > kLeastShare * total) continue;
    if (log_prob.empty()) log_prob = log_densities(rows, p);
    out[k] = weight_gradient(rows, p, k, log_prob);
  }
}

}  // namespace

template <class T>
void gmm_gradient(std::int64_t n_mixtures, const GmmRows<T>* rows, const GmmParameters* parameters,
                  const GmmGradient<T>* gradients) {
  if (n_mixtures == 0) return;
  if (!gradients[0].weights) {
    std::vector<GmmPosterior<T>> posteriors;
    for (std::int64_t m = 0; m < n_mixtures; ++m)
      posteriors.push_back(slopes(rows[m], gradients[m]));
    return gmm_estep(n_mixtures, rows, parameters, posteriors.data());
  }
  std::vector<std::unique_ptr<GradientPass<T>>> passes(dispatch::kMaxThreads);
  for_each_mixture(n_mixtures, rows, parameters, [&](std::int64_t m, int slot, bool threads) {
    if (!passes[slot]) passes[slot] = std::make_unique<GradientPass<T>>();
    passes[slot]->run(rows[m], parameters[m], threads, gradients[m]);
  });
  for (std::int64_t m = 0; m < n_mixtures; ++m)
    mend_small_weights(rows[m], parameters[m], gradients[m].weights);
}

template void gmm_gradient(std::int64_t, const GmmRows<float>*, const GmmParameters*,
                           const GmmGradient<float>*);
template void gmm_gradient(std::int64_t, const GmmRows<double>*, const GmmParameters*,
                           const GmmGradient<double>*);

}  // namespace elbokit::cpu
