#include "elbokit/gaussian_kl_full.h"

#include "kernels/rows.h"
#include "math/gaussian_kl_full.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// Adds the squares of n entries and writes their gradients.
template <class T>
ELBOKIT_INLINE void add_squares(const RowReader<T>& from, std::int64_t n, Vec<T> factor, T* grad,
                                Sum<T>& squares) {
  for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    const Vec<T> x = first_lanes<T>(from(i, count), count);
    squares.add(x * x);
    if (grad) write<T>(grad + i, x * factor, count);
  });
}

// Adds the terms of the diagonal, a vector of entries at a time; tells whether all are positive.
template <class T>
bool add_diagonal(const T* scale, std::int64_t dims, Vec<T> factor, T* grad, Sum<T>& sum) {
  bool positive = true;
  for_each_vector<T>(dims, [&](std::int64_t i, int count) {
    const std::int64_t step = dims + 1;
    T entry[kLanes<T>];
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      entry[lane] = lane < count ? scale[(i + lane) * step] : T(1);  // the term of 1 is 0
      positive = positive && entry[lane] > 0;
    }
    const KlDiagonal<Vec<T>> term = kl_diagonal_term<Vec<T>>(load(entry));
    sum.add(term.kl);
    if (!grad) return;
    store(entry, term.grad * factor);
    for (int lane = 0; lane < count; ++lane) grad[(i + lane) * step] = entry[lane];
  });
  return positive;
}

}  // namespace

template <class T>
KlFullTotals gaussian_kl_full(const GaussianKlFullArgs<T>& args, std::int64_t begin,
                              std::int64_t end) {
  const std::int64_t dims = args.dims;
  KlFullTotals totals;
  for (std::int64_t row = begin; row < end; ++row) {
    const T weight = args.row_weight ? args.row_weight[row] : T(1);
    const Vec<T> factor = broadcast<T>(args.scale * weight);
    Sum<T> squares, diagonal;
    add_squares<T>(RowReader<T>(args.mu, row), dims, factor,
                   args.grad_mu ? args.grad_mu.row(row) : nullptr, squares);
    for (std::int64_t i = 0; i < dims; ++i) {
      const Matrix<const T> line{args.scale_tril.row(row) + i * dims, 0, 1};
      T* const grad = args.grad_scale ? args.grad_scale.row(row) + i * dims : nullptr;
      add_squares<T>(RowReader<T>(line, 0), i, factor, grad, squares);
      if (grad)
        for (std::int64_t j = i + 1; j < dims; ++j) grad[j] = 0;
    }
    const bool positive =
        add_diagonal<T>(args.scale_tril.row(row), dims, factor,
                        args.grad_scale ? args.grad_scale.row(row) : nullptr, diagonal);
    if (!positive && totals.not_positive < 0) totals.not_positive = row;
    const double kl = (0.5 * squares.total() + diagonal.total()) * weight;
    if (args.row_kl) args.row_kl[row] = static_cast<T>(kl);
    totals.kl += kl;
  }
  return totals;
}

template KlFullTotals gaussian_kl_full(const GaussianKlFullArgs<float>&, std::int64_t,
                                       std::int64_t);
template KlFullTotals gaussian_kl_full(const GaussianKlFullArgs<double>&, std::int64_t,
                                       std::int64_t);

}  // namespace elbokit::ELBOKIT_LEVEL
