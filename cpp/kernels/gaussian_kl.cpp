#include "elbokit/gaussian_kl.h"

#include "kernels/rows.h"
#include "math/gaussian_kl.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// Without free bits nothing is floored, not even a divergence that rounding leaves below 0:
// its gradient must survive.
template <class T>
Vec<T> floor_of(T free_bits) {
  return broadcast<T>(free_bits > 0 ? free_bits : -__builtin_inff());
}

// The terms of one row, for both directions.
template <class T, class Args>
class KlRow {
 public:
  // `inverse`: e^(-s / 2) for the prior's log-variances s, if they are known.
  KlRow(const Args& args, std::int64_t row, const T* inverse = nullptr)
      : mu_(args.mu, row),
        logvar_(args.logvar, row),
        prior_mu_(args.prior_mu, row),
        prior_logvar_(args.prior_logvar, row),
        inverse_(inverse) {}

  ELBOKIT_INLINE GaussianKl<Vec<T>> operator()(std::int64_t col, int count) const {
    const Vec<T> mu = mu_(col, count), logvar = logvar_(col, count);
    if (!prior_mu_.data) return gaussian_kl_term<Vec<T>>(mu, logvar, broadcast<T>(1));
    const Vec<T> s = prior_logvar_(col, count);
    const Vec<T> inverse = inverse_ ? load(inverse_ + col) : exp(s * T(-0.5));
    return gaussian_kl_term<Vec<T>>(mu - prior_mu_(col, count), logvar - s, inverse);
  }

 private:
  RowReader<T> mu_, logvar_, prior_mu_, prior_logvar_;
  const T* inverse_;
};

template <class T>
void add_to_dimensions(const GaussianKlArgs<T>& args, std::int64_t col, int count, Vec<T> kl,
                       Vec<T> mu) {
  for (int i = 0; i < count; ++i) {
    double* const sums = args.dimensions + col + i;
    const double m = mu[i];
    sums[0] += kl[i];
    sums[args.cols] += m;
    sums[2 * args.cols] += m * m;
  }
}

template <class T>
class Rows {
 public:
  explicit Rows(const GaussianKlArgs<T>& args)
      : args_(args),
        one_by_one_(args.row_weight || args.row_kl || args.row_charged),
        floor_(floor_of(args.free_bits)) {}

  KlTotals run(std::int64_t begin, std::int64_t end) {
    std::int64_t cols = args_.cols;
    if (!one_by_one_ && !args_.dimensions && !args_.prior_sums &&
        rows_join(cols, args_.mu, args_.logvar, args_.prior_mu, args_.prior_logvar, args_.grad_mu,
                  args_.grad_logvar, args_.grad_prior_mu, args_.grad_prior_logvar)) {
      cols *= end - begin;
      end = begin + 1;
    }
    if (args_.prior_work) start_columns();
    for (std::int64_t row = begin; row < end; ++row) {
      const T weight = args_.row_weight ? args_.row_weight[row] : T(1);
      add(row, cols, weight);
      if (one_by_one_) close(row, weight);
      if (args_.prior_sums && ((row - begin) % kRun == kRun - 1 || row + 1 == end)) add_columns();
    }
    if (!one_by_one_) totals_ = {kl_.total(), charged_.total()};
    if (args_.stream) stream_fence();
    return totals_;
  }

 private:
  void add(std::int64_t row, std::int64_t cols, T weight) {
    const KlRow<T, GaussianKlArgs<T>> term(args_, row, args_.prior_work);
    const RowReader<T> mu(args_.mu, row);
    const Vec<T> factor = broadcast<T>(args_.scale * weight);
    T* const grad_mu = row_of(args_.grad_mu, row);
    T* const grad_logvar = row_of(args_.grad_logvar, row);
    T* const grad_prior_mu = row_of(args_.grad_prior_mu, row);
    T* const grad_prior_logvar = row_of(args_.grad_prior_logvar, row);
    const bool past = args_.stream && aligned(grad_mu) && aligned(grad_logvar) &&
                      aligned(grad_prior_mu) && aligned(grad_prior_logvar);
    const auto put = [&](T* to, Vec<T> v, int count) ELBOKIT_INLINE_LAMBDA {
      if (past && count == kLanes<T>)
        stream(to, v);
      else
        write<T>(to, v, count);
    };
    for_each_vector<T>(cols, [&](std::int64_t col, int count) ELBOKIT_INLINE_LAMBDA {
      const GaussianKl<Vec<T>> value = term(col, count);
      const auto floored = value.kl < floor_;
      kl_.add(first_lanes<T>(value.kl, count));
      charged_.add(first_lanes<T>(select(floored, floor_, value.kl), count));
      if (grad_mu) {
        const Vec<T> g = select(floored, Vec<T>{}, factor);
        put(grad_mu + col, value.grad_mu() * g, count);
        put(grad_logvar + col, value.grad_logvar() * g, count);
        if (grad_prior_mu) {
          put(grad_prior_mu + col, value.grad_prior_mu() * g, count);
          put(grad_prior_logvar + col, value.grad_prior_logvar() * g, count);
        } else if (args_.prior_sums) {
          add_to(column_sums(0) + col, value.grad_prior_mu() * g);
          add_to(column_sums(1) + col, value.grad_prior_logvar() * g);
        }
      }
      if (args_.dimensions) add_to_dimensions(args_, col, count, value.kl, mu(col, count));
    });
  }

  // Adds the row's own numbers to the totals.
  void close(std::int64_t row, T weight) {
    const KlTotals sums{kl_.total() * weight, charged_.total() * weight};
    kl_ = charged_ = {};
    if (args_.row_kl) args_.row_kl[row] = static_cast<T>(sums.kl);
    if (args_.row_charged) args_.row_charged[row] = static_cast<T>(sums.charged);
    totals_ += sums;
  }

  // What the rows have in common, and sums down the columns of so few rows that T serves.
  void start_columns() {
    const RowReader<T> s(args_.prior_logvar, 0);
    for_each_vector<T>(args_.cols, [&](std::int64_t col, int count) {
      store(args_.prior_work + col, exp(s(col, count) * T(-0.5)));
      store(column_sums(0) + col, Vec<T>{});
      store(column_sums(1) + col, Vec<T>{});
    });
  }
  void add_columns() {
    for (int i = 0; i < 2; ++i) {
      double* const sums = args_.prior_sums + i * args_.cols;
      T* const own = column_sums(i);
      for (std::int64_t col = 0; col < args_.cols; ++col) sums[col] += own[col];
      for (std::int64_t col = 0; col < args_.cols; ++col) own[col] = 0;
    }
  }
  T* column_sums(int i) { return args_.prior_work + (i + 1) * in_whole_vectors(args_.cols); }
  ELBOKIT_INLINE static void add_to(T* sums, Vec<T> values) { store(sums, load(sums) + values); }

  static T* row_of(const Result& grad, std::int64_t row) {
    return grad ? static_cast<T*>(grad.data) + row * grad.row_stride : nullptr;
  }
  static T* row_of(const Matrix<T>& grad, std::int64_t row) {
    return grad ? grad.row(row) : nullptr;
  }
  static bool aligned(T* to) { return reinterpret_cast<std::uintptr_t>(to) % kVectorBytes == 0; }

  const GaussianKlArgs<T>& args_;
  const bool one_by_one_;  // someone asks for a number of each row
  const Vec<T> floor_;
  Sum<T> kl_, charged_;
  KlTotals totals_;
};

}  // namespace

template <class T>
KlTotals gaussian_kl(const GaussianKlArgs<T>& args, std::int64_t begin, std::int64_t end) {
  return Rows<T>(args).run(begin, end);
}

template <class T>
void gaussian_kl_backward(const GaussianKlBackwardArgs<T>& args, std::int64_t begin,
                          std::int64_t end) {
  const Vec<T> floor = floor_of(args.free_bits);
  for (std::int64_t row = begin; row < end; ++row) {
    const KlRow<T, GaussianKlBackwardArgs<T>> term(args, row);
    const Vec<T> factor = broadcast<T>(args.factor[row]);
    const Vec<T> both = factor + broadcast<T>(args.charged_factor[row]);
    for_each_vector<T>(args.cols, [&](std::int64_t col, int count) ELBOKIT_INLINE_LAMBDA {
      const GaussianKl<Vec<T>> value = term(col, count);
      // A dimension at its floor is charged a constant.
      const Vec<T> g = select(value.kl < floor, factor, both);
      write<T>(args.grad_mu.row(row) + col, value.grad_mu() * g, count);
      write<T>(args.grad_logvar.row(row) + col, value.grad_logvar() * g, count);
      if (args.grad_prior_mu)
        write<T>(args.grad_prior_mu.row(row) + col, value.grad_prior_mu() * g, count);
      if (args.grad_prior_logvar)
        write<T>(args.grad_prior_logvar.row(row) + col, value.grad_prior_logvar() * g, count);
    });
  }
}

#define ELBOKIT_INSTANTIATE(T)                                                         \
  template KlTotals gaussian_kl(const GaussianKlArgs<T>&, std::int64_t, std::int64_t); \
  template void gaussian_kl_backward(const GaussianKlBackwardArgs<T>&, std::int64_t, std::int64_t);
ELBOKIT_INSTANTIATE(float)
ELBOKIT_INSTANTIATE(double)

}  // namespace elbokit::ELBOKIT_LEVEL
