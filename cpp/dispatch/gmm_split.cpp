#include "elbokit/gmm_split.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dispatch/threads.h"

namespace elbokit::cpu {

namespace {

// About 50 µs of work: enough to outweigh waking a thread.
constexpr std::int64_t kTaskOperations = 100'000;

double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void add(double* to, double factor, const double* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

// Reflects the first n columns of the rows above so that of `row`, the next one, only the last of
// them is left, and is positive. v holds n doubles.
void reflect(double* a, std::int64_t d, std::int64_t n, double* v) {
  double* const row = a + (n - 1) * d;
  double& last = row[n - 1];
  const auto zero = [](double x) { return x == 0.0; };
  if (!std::all_of(row, row + n - 1, zero)) {
    double largest = 0.0;
    for (std::int64_t j = 0; j < n; ++j) largest = std::max(largest, std::abs(row[j]));
    for (std::int64_t j = 0; j < n; ++j) v[j] = row[j] / largest;
    const double norm = std::sqrt(dot(v, v, n));
    const double target = v[n - 1] > 0.0 ? -norm : norm;
    const double scale = 1.0 / (norm * (norm + std::abs(v[n - 1])));  // 2 / (v . v), once changed
    v[n - 1] -= target;
    for (std::int64_t i = 0; i < n - 1; ++i) add(a + i * d, -scale * dot(a + i * d, v, n), v, n);
    std::fill(row, row + n - 1, 0.0);
    last = largest * target;
  }
  if (last < 0.0)
    for (std::int64_t i = 0; i < n; ++i) a[i * d + n - 1] = -a[i * d + n - 1];
}

void copy_block(const double* a, std::int64_t d, std::int64_t first, std::int64_t n, double* to) {
  for (std::int64_t i = 0; i < n; ++i) std::copy_n(a + (first + i) * d + first, n, to + i * n);
}

// The inverse's transpose of the upper triangle (m, m) that begins at a, rows d apart: lower.
void invert_transposed(const double* a, std::int64_t d, std::int64_t m, double* inverse) {
  std::fill_n(inverse, m * m, 0.0);
  for (std::int64_t i = 0; i < m; ++i) {
    // Row i of L = A^-T: sum_k a[k][i] l[k] = e_i, forward.
    double* const row = inverse + i * m;
    for (std::int64_t k = 0; k < i; ++k) add(row, -a[k * d + i], inverse + k * m, k + 1);
    const double diagonal = 1.0 / a[i * d + i];
    for (std::int64_t j = 0; j < i; ++j) row[j] *= diagonal;
    row[i] = diagonal;
  }
}

class Splitter {
 public:
  Splitter(std::int64_t d, std::int64_t o) : d_(d), o_(o), a_(d * d), work_(d * d) {}

  void triangle(const double* factor, const std::int64_t* order) {
    for (std::int64_t i = 0; i < d_; ++i) std::copy_n(factor + order[i] * d_, d_, &a_[i * d_]);
    for (std::int64_t n = d_; n > 0; --n) reflect(a_.data(), d_, n, work_.data());
  }

  void observed(double* to) const { copy_block(a_.data(), d_, 0, o_, to); }

  void hidden(double* to) const { copy_block(a_.data(), d_, o_, d_ - o_, to); }

  void conditional(double* regression, double* covariance) {
    const std::int64_t m = d_ - o_;
    double* const lower = work_.data();
    invert_transposed(a_.data() + o_ * d_ + o_, d_, m, lower);
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < o_; ++j)
        regression[i * o_ + j] = -dot(lower + i * m, &a_[j * d_ + o_], i + 1);
      for (std::int64_t j = 0; j <= i; ++j)
        covariance[i * m + j] = covariance[j * m + i] = dot(lower + i * m, lower + j * m, j + 1);
    }
  }

 private:
  std::int64_t d_, o_;
  std::vector<double> a_, work_;
};

}  // namespace

void gmm_split(std::int64_t n_splits, std::int64_t n_matrices, std::int64_t d, std::int64_t o,
               const double* factors, const std::int64_t* order, double* observed, double* hidden,
               double* regression, double* covariances) {
  const std::int64_t total = n_splits * n_matrices, m = d - o;
  const std::int64_t per_task = std::max<std::int64_t>(1, kTaskOperations / (d * d * d));
  const std::int64_t tasks = (total + per_task - 1) / per_task;
  dispatch::for_each_task(tasks > 2, tasks, [&](std::int64_t task, int) {
    Splitter splitter(d, o);
    const std::int64_t end = std::min(total, (task + 1) * per_task);
    for (std::int64_t i = task * per_task; i < end; ++i) {
      splitter.triangle(factors + (i % n_matrices) * d * d, order + (i / n_matrices) * d);
      splitter.observed(observed + i * o * o);
      splitter.hidden(hidden + i * m * m);
      splitter.conditional(regression + i * m * o, covariances + i * m * m);
    }
  });
}

}  // namespace elbokit::cpu
