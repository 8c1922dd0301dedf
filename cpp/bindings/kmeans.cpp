#include "elbokit/kmeans.h"

#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace elbokit::bindings {

namespace {

// Problems of one batch: X (B, N, D), one behind the other; or X (1, N, D) whose rows
// [offsets[b], offsets[b + 1]) are problem b's.
struct Batch {
  py::ssize_t size, rows, d;
  std::vector<py::ssize_t> begin, matrix;  // first row, and matrix of X, of each problem
  std::vector<py::ssize_t> count;

  Batch(const py::array& X, const OptionalArray& offsets) {
    expect_dimensions(X, "X", 3);
    size = X.shape(0), rows = X.shape(1), d = X.shape(2);
    for (py::ssize_t b = 0; b < size; ++b) {
      begin.push_back(0);
      matrix.push_back(b);
      count.push_back(rows);
    }
    if (offsets) split(X, *offsets);
    if (d == 0) throw py::value_error("`X` has 0 features, expected at least 1");
    for (const py::ssize_t n : count)
      if (n < 1 || n > std::numeric_limits<std::int32_t>::max())
        throw py::value_error("`X` has a problem of " + std::to_string(n) +
                              " samples, expected 1 to 2**31 - 1");
  }

  // Place of problem b's first row in an array of (B, N) rows.
  py::ssize_t place(py::ssize_t b) const { return matrix[b] * rows + begin[b]; }

  template <class T>
  std::vector<KMeansRows<T>> views(const py::array& X, const OptionalArray& sample_weight) const {
    const py::ssize_t matrices = X.shape(0);
    expect<T>(X, "X", {matrices, rows, d});
    if (sample_weight) expect<T>(*sample_weight, "sample_weight", {matrices, rows});
    std::vector<KMeansRows<T>> all;
    for (py::ssize_t b = 0; b < size; ++b) {
      KMeansRows<T> view{count[b], d, {}, {}};
      view.x = {pointer<const T>(X, "X") + matrix[b] * stride<T>(X, 0) + begin[b] * stride<T>(X, 1),
                stride<T>(X, 1), stride<T>(X, 2)};
      if (d == 1) view.x.col_stride = 1;
      if (sample_weight) {
        const py::array& w = *sample_weight;
        view.sample_weight = {pointer<const T>(w, "sample_weight") + matrix[b] * stride<T>(w, 0) +
                                  begin[b] * stride<T>(w, 1),
                              stride<T>(w, 1)};
      }
      all.push_back(view);
    }
    return all;
  }

 private:
  void split(const py::array& X, const py::array& offsets) {
    expect_dimensions(offsets, "offsets", 1);
    size = offsets.shape(0) - 1;
    const auto* const at = contiguous<const std::int64_t>(offsets, "offsets", {size + 1});
    bool fits = X.shape(0) == 1 && size >= 0 && at[0] == 0 && at[size] == rows;
    begin.assign(size < 0 ? 0 : size, 0), matrix = begin, count = begin;
    for (py::ssize_t b = 0; b < size; ++b) {
      begin[b] = at[b];
      count[b] = at[b + 1] - at[b];
      fits = fits && count[b] > 0;
    }
    if (!fits)
      throw py::value_error("`offsets` does not rise from 0 to the " + std::to_string(rows) +
                            " rows of `X`");
  }
};

// Ctrl-C, looked for every so often; between, it costs reading a clock.
void check_signals() {
  using Clock = std::chrono::steady_clock;
  constexpr std::int64_t interval = 50'000'000;  // ns
  static std::atomic<std::int64_t> last{0};
  const std::int64_t now = std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
  if (now - last.load(std::memory_order_relaxed) < interval) return;
  last.store(now, std::memory_order_relaxed);
  const py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

std::vector<bool> kmeans(const py::array& X, const OptionalArray& offsets,
                         const OptionalArray& sample_weight, std::int64_t n_clusters,
                         std::int64_t n_trials, std::int64_t max_iter, double tol, bool weigh_tol,
                         const py::array& uniforms, const py::array& seeds,
                         const OptionalArray& labels, const OptionalArray& centers,
                         const OptionalArray& inertia, const OptionalArray& n_iter) {
  return with_value_type(X, "X", [&](auto value) {
    using T = decltype(value);
    const Batch batch(X, offsets);
    const py::ssize_t size = batch.size;
    const auto rows = batch.views<T>(X, sample_weight);
    for (const py::ssize_t n : batch.count)
      if (n_clusters < 1 || n_clusters > n)
        throw py::value_error("`n_clusters` is " + std::to_string(n_clusters) + ", expected 1 to " +
                              std::to_string(n) + ", the number of samples");
    if (n_trials < 1 || max_iter < 0)
      throw py::value_error("`n_trials` and `max_iter` are " + std::to_string(n_trials) + " and " +
                            std::to_string(max_iter) + ", expected at least 1 and 0");
    if (max_iter > 0 && !(labels && centers))
      throw py::value_error("`labels` and `centers` are needed where `max_iter` is not 0");
    const KMeansOptions options{n_clusters, n_trials, max_iter, tol, weigh_tol};
    const double* const u =
        contiguous<const double>(uniforms, "uniforms", {size, kmeans_draws(options)});
    auto* const s = contiguous<std::int64_t>(seeds, "seeds", {size, n_clusters});
    auto* const l =
        labels ? contiguous<std::int32_t>(*labels, "labels", {X.shape(0), batch.rows}) : nullptr;
    double* const c =
        centers ? contiguous<double>(*centers, "centers", {size, n_clusters, batch.d}) : nullptr;
    double* const e = inertia ? contiguous<double>(*inertia, "inertia", {size}) : nullptr;
    std::vector<std::int64_t> iterations(size);
    const std::unique_ptr<bool[]> finite(new bool[size]);
    std::vector<KMeansResult<T>> results;
    for (py::ssize_t b = 0; b < size; ++b)
      results.push_back({s + b * n_clusters, l ? l + batch.place(b) : nullptr,
                         c ? c + b * n_clusters * batch.d : nullptr, e ? e + b : nullptr,
                         &iterations[b], &finite[b]});
    {
      const py::gil_scoped_release release;
      cpu::kmeans(size, rows.data(), options, u, results.data(), &check_signals);
    }
    if (n_iter)
      std::copy(iterations.begin(), iterations.end(),
                contiguous<std::int64_t>(*n_iter, "n_iter", {size}));
    return std::vector<bool>(finite.get(), finite.get() + size);
  });
}

void label_moments(const py::array& X, const OptionalArray& offsets,
                   const OptionalArray& sample_weight, const OptionalArray& labels, bool full,
                   const py::array& centers, const py::array& counts,
                   const py::array& second_moments) {
  with_value_type(X, "X", [&](auto value) {
    using T = decltype(value);
    const Batch batch(X, offsets);
    expect_dimensions(centers, "centers", 3);
    const py::ssize_t size = batch.size, d = batch.d, k = centers.shape(1);
    const auto rows = batch.views<T>(X, sample_weight);
    const auto* const l =
        labels ? contiguous<const std::int32_t>(*labels, "labels", {X.shape(0), batch.rows})
               : nullptr;
    for (py::ssize_t i = 0; l && i < X.shape(0) * batch.rows; ++i)
      if (l[i] >= k)
        throw py::value_error("`labels` has " + std::to_string(l[i]) + " in row " +
                              std::to_string(i) + ", expected less than " + std::to_string(k));
    double* const c = contiguous<double>(centers, "centers", {size, k, d});
    double* const n = contiguous<double>(counts, "counts", {size, k});
    double* const s = full ? contiguous<double>(second_moments, "second_moments", {size, k, d, d})
                           : contiguous<double>(second_moments, "second_moments", {size, k, d});
    std::vector<const std::int32_t*> label(size);
    std::vector<double*> center(size);
    std::vector<LabelMoments> moments;
    for (py::ssize_t b = 0; b < size; ++b) {
      label[b] = l ? l + batch.place(b) : nullptr;
      center[b] = c + b * k * d;
      moments.push_back({n + b * k, nullptr, s + b * k * (full ? d * d : d)});
    }
    const py::gil_scoped_release release;
    cpu::label_moments(size, rows.data(), label.data(), k, full, center.data(), moments.data());
  });
}

}  // namespace

void register_kmeans(py::module_& m) {
  using namespace py::literals;
  m.def("kmeans", &kmeans, "X"_a, "offsets"_a, "sample_weight"_a, "n_clusters"_a, "n_trials"_a,
        "max_iter"_a, "tol"_a, "weigh_tol"_a, "uniforms"_a, "seeds"_a, "labels"_a, "centers"_a,
        "inertia"_a, "n_iter"_a);
  m.def("label_moments", &label_moments, "X"_a, "offsets"_a, "sample_weight"_a, "labels"_a,
        "full"_a, "centers"_a, "counts"_a, "second_moments"_a);
}

}  // namespace elbokit::bindings
