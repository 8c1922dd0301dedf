#include "elbokit/precision_cholesky.h"

#include "kernels/rows.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// y += scale x
void add_scaled(double* y, double scale, const double* x, std::int64_t n) {
  for_each_vector<double>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    write<double>(y + i, load_partial(y + i, count) + scale * load_partial(x + i, count), count);
  });
}

double dot(const double* x, const double* y, std::int64_t n) {
  Vec<double> sum{};
  for_each_vector<double>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
    sum += load_partial(x + i, count) * load_partial(y + i, count);
  });
  return reduce_add<double>(sum);
}

}  // namespace

// Row by row of the transposed factor, which then leaves the rows below: these updates, unlike sums
// along a row, do not wait for each other.
bool precision_cholesky(std::int64_t d, const double* covariance, double* factor, double* work) {
  double* const upper = work;            // what is left of the covariance, becomes L^T
  double* const inverse = work + d * d;  // what is left of the identity, becomes L^-1
  for (std::int64_t i = 0; i < d; ++i)
    for (std::int64_t j = i; j < d; ++j) upper[i * d + j] = covariance[j * d + i];
  for (std::int64_t i = 0; i < d * d; ++i) inverse[i] = 0.0;
  for (std::int64_t j = 0; j < d; ++j) {
    double* const row = upper + j * d;
    double* const solved = inverse + j * d;
    if (!(row[j] > 0.0 && row[j] < __builtin_huge_val())) return false;
    const double root = __builtin_sqrt(row[j]);
    for (std::int64_t i = j + 1; i < d; ++i) row[i] /= root;
    for (std::int64_t i = 0; i < j; ++i) solved[i] /= root;
    solved[j] = 1.0 / root;
    for (std::int64_t i = j + 1; i < d; ++i) {
      add_scaled(upper + i * d + i, -row[i], row + i, d - i);
      add_scaled(inverse + i * d, -row[i], solved, j + 1);
    }
  }
  for (std::int64_t i = 0; i < d; ++i)
    for (std::int64_t j = 0; j < d; ++j) factor[i * d + j] = j < i ? 0.0 : inverse[j * d + i];
  return true;
}

void precision_product(std::int64_t d, const double* factor, double* precision) {
  for (std::int64_t i = 0; i < d; ++i)
    for (std::int64_t j = i; j < d; ++j)
      precision[i * d + j] = precision[j * d + i] =
          dot(factor + i * d + j, factor + j * d + j, d - j);
}

}  // namespace elbokit::ELBOKIT_LEVEL
