#include "elbokit/precision_cholesky.h"

#include "kernels/rows.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

double dot(const double* a, const double* b, std::int64_t n) {
  Vec<double> sum{};
  for_each_vector<double>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    sum += load_partial(a + i, count) * load_partial(b + i, count);
  });
  return reduce_add<double>(sum);
}

// y += scale x
void add_scaled(double* y, double scale, const double* x, std::int64_t n) {
  for_each_vector<double>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    write<double>(y + i, load_partial(y + i, count) + scale * load_partial(x + i, count), count);
  });
}

}  // namespace

bool precision_cholesky(std::int64_t d, const double* covariance, double* factor, double* work) {
  double* const lower = work;            // L, row by row
  double* const inverse = work + d * d;  // L^-1, row by row
  for (std::int64_t i = 0; i < d; ++i) {
    double* const row = lower + i * d;
    for (std::int64_t j = 0; j < i; ++j) {
      const double* const other = lower + j * d;
      row[j] = (covariance[i * d + j] - dot(row, other, j)) / other[j];
    }
    const double pivot = covariance[i * d + i] - dot(row, row, i);
    if (!(pivot > 0.0 && pivot < __builtin_huge_val())) return false;
    row[i] = __builtin_sqrt(pivot);

    // Row i of L L^-1 = I, solved for row i of L^-1.
    double* const solved = inverse + i * d;
    for (std::int64_t j = 0; j < i; ++j) solved[j] = 0.0;
    for (std::int64_t j = 0; j < i; ++j) add_scaled(solved, -row[j], inverse + j * d, j + 1);
    for (std::int64_t j = 0; j < i; ++j) solved[j] /= row[i];
    solved[i] = 1.0 / row[i];
  }
  for (std::int64_t i = 0; i < d; ++i)
    for (std::int64_t j = 0; j < d; ++j) factor[i * d + j] = j < i ? 0.0 : inverse[j * d + i];
  return true;
}

}  // namespace elbokit::ELBOKIT_LEVEL
