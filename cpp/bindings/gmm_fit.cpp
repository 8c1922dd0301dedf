#include "elbokit/gmm_fit.h"

#include <chrono>
#include <optional>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gmm_batch.h"
#include "bindings/gmm_prior.h"

namespace elbokit::bindings {

namespace {

using Clock = std::chrono::steady_clock;

// Lets Python handle its signals, and tells of progress; takes the GIL only for that.
class PythonObserver : public GmmFitObserver {
 public:
  PythonObserver(py::object progress, std::int64_t interval)
      : progress_(std::move(progress)), interval_(interval) {}

  void iteration(const GmmFit& fit, double change) override {
    pause();
    if (interval_ == 0 || fit.n_iter % interval_ != 0) return;
    const py::gil_scoped_acquire acquire;
    progress_(fit.n_iter, change, fit.lower_bound);
  }

  void pause() override {
    const Clock::time_point now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(50)) return;
    last_ = now;
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }

 private:
  py::object progress_;
  std::int64_t interval_;
  Clock::time_point last_ = Clock::now();
};

// Mixtures of one shape, each with rows of its own: X (B, N, D), or X (rows, D) cut by
// offsets (B + 1).
template <class T>
std::vector<GmmFitRows<T>> fit_rows(const py::array& X, const OptionalArray& offsets,
                                    const OptionalArray& sample_weight, py::ssize_t size,
                                    py::ssize_t d) {
  expect_dimensions(X, "X", offsets ? 2 : 3);
  const int axis = offsets ? 0 : 1;
  const py::ssize_t n = X.shape(axis);
  offsets ? expect<T>(X, "X", {n, d}) : expect<T>(X, "X", {size, n, d});
  const std::int64_t* const cut =
      offsets ? contiguous<const std::int64_t>(*offsets, "offsets", {size + 1}) : nullptr;
  if (sample_weight)
    offsets ? expect<double>(*sample_weight, "sample_weight", {n})
            : expect<double>(*sample_weight, "sample_weight", {size, n});
  std::vector<GmmFitRows<T>> all(size);
  for (py::ssize_t b = 0; b < size; ++b) {
    const std::int64_t begin = cut ? cut[b] : b, end = cut ? cut[b + 1] : b + 1;
    if (cut && !(begin >= 0 && begin < end && end <= n))
      throw py::value_error("`offsets` give mixture " + std::to_string(b) + " the rows from " +
                            std::to_string(begin) + " to " + std::to_string(end) +
                            ", expected at least one of " + std::to_string(n));
    GmmFitRows<T>& rows = all[b];
    rows.n_samples = cut ? end - begin : n;
    rows.x = {pointer<const T>(X, "X") + begin * stride<T>(X, 0), stride<T>(X, axis),
              d == 1 ? 1 : stride<T>(X, axis + 1)};
    if (sample_weight)
      rows.sample_weight = {pointer<const double>(*sample_weight, "sample_weight") +
                                begin * stride<double>(*sample_weight, 0),
                            stride<double>(*sample_weight, axis)};
  }
  return all;
}

// Runs EM in place. outcome (B, 4): iterations, converged, status, component; a mixture whose
// status comes as another than ok is left as it is. To lower_bounds and after_m is added a list for
// each mixture: its bounds of all iterations, after the E-steps and after the M-steps.
// progress(n_iter, change, bound) is called every progress_interval iterations, never for 0. Where
// Python raises on the way, on Ctrl-C say, what is written is that of the last complete iterations.
void gmm_fit(const py::array& X, const OptionalArray& offsets, const OptionalArray& sample_weight,
             const std::string& covariance_type, const py::array& weights, const py::array& means,
             const py::array& covariances, const py::array& precisions_cholesky, double tol,
             const py::object& reg_covar, std::int64_t max_iter, const py::array& lower_bound,
             const py::array& outcome, std::optional<py::list> lower_bounds,
             std::optional<py::list> after_m, const py::object& progress,
             std::int64_t progress_interval, const py::object& prior) {
  with_value_type(X, "X", [&](auto value) {
    using T = decltype(value);
    expect_dimensions(means, "means", 3);
    const BatchShape batch{means.shape(0), means.shape(1), means.shape(2),
                           covariance_of(covariance_type)};
    const auto [size, k, d, covariance] = batch;
    const auto rows = fit_rows<T>(X, offsets, sample_weight, size, d);
    double* const w = contiguous<double>(weights, "weights", {size, k});
    double* const m = contiguous<double>(means, "means", {size, k, d});
    double* const s = batch.second<double>(covariances, "covariances");
    double* const p = batch.second<double>(precisions_cholesky, "precisions_cholesky");
    double* const bound = contiguous<double>(lower_bound, "lower_bound", {size});
    std::int64_t* const out = contiguous<std::int64_t>(outcome, "outcome", {size, 4});
    const PriorArgument density(prior, batch);
    const std::vector<double> added = reg_covar_of(reg_covar, batch);
    std::vector<std::vector<double>> recorded(lower_bounds ? size : 0), after(after_m ? size : 0);
    std::vector<GmmFit> fits(size);
    for (py::ssize_t b = 0; b < size; ++b) {
      const py::ssize_t at = b * batch.second_size();
      fits[b].estimate = {w + b * k, m + b * k * d, s + at, p + at};
      fits[b].lower_bound = bound[b];
      fits[b].status = static_cast<GmmFitStatus>(out[4 * b + 2]);
      fits[b].component = out[4 * b + 3];
      if (lower_bounds) fits[b].lower_bounds = &recorded[b];
      if (after_m) fits[b].after_m = &after[b];
    }
    const auto write = [&] {
      for (py::ssize_t b = 0; b < size; ++b) {
        bound[b] = fits[b].lower_bound;
        const std::int64_t values[] = {fits[b].n_iter, fits[b].converged,
                                       static_cast<std::int64_t>(fits[b].status),
                                       fits[b].component};
        std::copy_n(values, 4, out + 4 * b);
      }
      for (const std::vector<double>& bounds : recorded) lower_bounds->append(py::cast(bounds));
      for (const std::vector<double>& bounds : after) after_m->append(py::cast(bounds));
    };
    PythonObserver observer(progress, progress_interval);
    try {
      const py::gil_scoped_release release;
      cpu::gmm_fit(size, covariance, k, d, rows.data(),
                   {tol, added.data(), max_iter, density.get()}, fits.data(), observer);
    } catch (const py::error_already_set&) {
      write();
      throw;
    }
    write();
  });
}

// One mixture's M-step, of arrays with a leading dimension of 1. The estimate comes as the previous
// one, about whose means the moments are, and leaves as the next one, but for a failure. Returns
// the status, the singular component, whether float32 sums would be too coarse, the log-density of
// the prior at the previous estimate, and what the bound after the step has above the
// log-likelihood before it.
py::tuple gmm_update(const std::string& covariance_type, const py::array& counts,
                     const py::array& first_moments, const py::array& second_moments,
                     const py::array& weights, const py::array& means, const py::array& covariances,
                     const py::array& precisions_cholesky, const py::object& reg_covar,
                     double empty_below, const py::object& prior) {
  expect_dimensions(means, "means", 3);
  const BatchShape shape{1, means.shape(1), means.shape(2), covariance_of(covariance_type)};
  const auto [one, k, d, covariance] = shape;
  // The kernel's statistics are not const; it only reads them.
  const GmmStatistics statistics{contiguous<double>(counts, "counts", {one, k}),
                                 contiguous<double>(first_moments, "first_moments", {one, k, d}),
                                 shape.second<double>(second_moments, "second_moments"), nullptr};
  const GmmEstimate estimate{contiguous<double>(weights, "weights", {one, k}),
                             contiguous<double>(means, "means", {one, k, d}),
                             shape.second<double>(covariances, "covariances"),
                             shape.second<double>(precisions_cholesky, "precisions_cholesky")};
  const PriorArgument density(prior, shape);
  const std::vector<double> added = reg_covar_of(reg_covar, shape);
  GmmUpdateOutcome outcome;
  {
    const py::gil_scoped_release release;
    outcome = cpu::gmm_update(covariance, k, d, statistics, added.data(), density.get(),
                              empty_below, estimate);
  }
  return py::make_tuple(static_cast<int>(outcome.status), outcome.component,
                        outcome.below_resolution, outcome.log_prior, outcome.gain);
}

void gmm_regularise(const std::string& covariance_type, const py::array& means,
                    const py::object& reg_covar, const py::array& covariances) {
  expect_dimensions(means, "means", 3);
  const BatchShape batch{means.shape(0), means.shape(1), means.shape(2),
                         covariance_of(covariance_type)};
  const double* const m = contiguous<const double>(means, "means", {batch.size, batch.k, batch.d});
  double* const s = batch.second<double>(covariances, "covariances");
  const std::vector<double> added = reg_covar_of(reg_covar, batch);
  for (py::ssize_t b = 0; b < batch.size; ++b)
    cpu::gmm_regularise(batch.covariance, batch.k, batch.d, m + b * batch.k * batch.d, added.data(),
                        s + b * batch.second_size());
}

void gmm_factors(const std::string& covariance_type, py::ssize_t n_components,
                 py::ssize_t n_features, const py::array& covariances,
                 const py::array& precisions_cholesky, const py::array& failed) {
  const BatchShape batch{covariances.shape(0), n_components, n_features,
                         covariance_of(covariance_type)};
  const double* const from = batch.second<const double>(covariances, "covariances");
  double* const to = batch.second<double>(precisions_cholesky, "precisions_cholesky");
  auto* const singular = contiguous<std::int64_t>(failed, "failed", {batch.size});
  const py::gil_scoped_release release;
  cpu::gmm_factors(batch.size, batch.covariance, batch.k, batch.d, from, to, singular);
}

void gmm_covariances(const std::string& covariance_type, py::ssize_t n_components,
                     py::ssize_t n_features, const py::array& precisions_cholesky,
                     const py::array& covariances) {
  const BatchShape batch{covariances.shape(0), n_components, n_features,
                         covariance_of(covariance_type)};
  const double* const from = batch.second<const double>(precisions_cholesky, "precisions_cholesky");
  double* const to = batch.second<double>(covariances, "covariances");
  const py::gil_scoped_release release;
  for (py::ssize_t b = 0; b < batch.size; ++b)
    cpu::gmm_covariances(batch.covariance, batch.k, batch.d, from + b * batch.second_size(),
                         to + b * batch.second_size());
}

}  // namespace

void register_gmm_fit(py::module_& m) {
  using namespace py::literals;
  m.def("gmm_fit", &gmm_fit, "X"_a, "offsets"_a, "sample_weight"_a, "covariance_type"_a,
        "weights"_a, "means"_a, "covariances"_a, "precisions_cholesky"_a, "tol"_a, "reg_covar"_a,
        "max_iter"_a, "lower_bound"_a, "outcome"_a, "lower_bounds"_a = py::none(),
        "after_m"_a = py::none(), "progress"_a = py::none(), "progress_interval"_a = 0,
        "prior"_a = py::none());
  m.def("gmm_empty_below", py::vectorize(&cpu::gmm_empty_below), "mass"_a, "n_samples"_a);
  m.def("gmm_update", &gmm_update, "covariance_type"_a, "counts"_a, "first_moments"_a,
        "second_moments"_a, "weights"_a, "means"_a, "covariances"_a, "precisions_cholesky"_a,
        "reg_covar"_a, "empty_below"_a, "prior"_a = py::none());
  m.def("gmm_regularise", &gmm_regularise, "covariance_type"_a, "means"_a, "reg_covar"_a,
        "covariances"_a);
  m.def("gmm_factors", &gmm_factors, "covariance_type"_a, "n_components"_a, "n_features"_a,
        "covariances"_a, "precisions_cholesky"_a, "failed"_a);
  m.def("gmm_covariances", &gmm_covariances, "covariance_type"_a, "n_components"_a, "n_features"_a,
        "precisions_cholesky"_a, "covariances"_a);
}

}  // namespace elbokit::bindings
