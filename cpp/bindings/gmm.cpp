#include "elbokit/gmm_gradient.h"

#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/fast_call.h"
#include "bindings/gmm_batch.h"
#include "bindings/plain_mixture.h"

namespace elbokit::bindings {

namespace {

void gmm_estep(const py::array& X, const py::array& weights, const py::array& means,
               const py::array& precisions_cholesky, const std::string& covariance_type,
               const OptionalArray& log_prob, const OptionalArray& responsibilities,
               const OptionalArray& labels) {
  with_value_type(X, "X", [&](auto value) {
    using T = decltype(value);
    const Batch batch(X, weights, covariance_type);
    const auto parameters = batch.parameters(weights, means, precisions_cholesky);
    const auto rows = batch.rows<T>(X, std::nullopt);
    const py::ssize_t size = batch.size, n = batch.n, k = batch.k;
    T* const lp = log_prob ? contiguous<T>(*log_prob, "log_prob", {size, n}) : nullptr;
    T* const r = responsibilities
                     ? contiguous<T>(*responsibilities, "responsibilities", {size, n, k})
                     : nullptr;
    std::int64_t* const chosen =
        labels ? contiguous<std::int64_t>(*labels, "labels", {size, n}) : nullptr;
    std::vector<GmmPosterior<T>> posteriors(size);
    for (py::ssize_t b = 0; b < size; ++b) {
      if (lp) posteriors[b].log_prob = {lp + b * n, 1};
      if (r) posteriors[b].responsibilities = {r + b * n * k, k, 1};
      if (chosen) posteriors[b].labels = {chosen + b * n, 1};
    }
    const py::gil_scoped_release release;
    cpu::gmm_estep(size, rows.data(), parameters.data(), posteriors.data());
  });
}

void gmm_statistics(const py::array& X, const OptionalArray& sample_weight,
                    const py::array& weights, const py::array& means,
                    const py::array& precisions_cholesky, const std::string& covariance_type,
                    const py::array& counts, const py::array& first_moments,
                    const py::array& second_moments, const py::array& log_likelihood) {
  with_value_type(X, "X", [&](auto value) {
    using T = decltype(value);
    const Batch batch(X, weights, covariance_type);
    const auto parameters = batch.parameters(weights, means, precisions_cholesky);
    const auto rows = batch.rows<T>(X, sample_weight);
    const py::ssize_t size = batch.size, k = batch.k, d = batch.d;
    double* const c = contiguous<double>(counts, "counts", {size, k});
    double* const s1 = contiguous<double>(first_moments, "first_moments", {size, k, d});
    double* const s2 = batch.second<double>(second_moments, "second_moments");
    double* const ll = contiguous<double>(log_likelihood, "log_likelihood", {size});
    std::vector<GmmStatistics> statistics;
    for (py::ssize_t b = 0; b < size; ++b)
      statistics.push_back({c + b * k, s1 + b * k * d, s2 + b * batch.second_size(), ll + b});
    const py::gil_scoped_release release;
    cpu::gmm_statistics(size, rows.data(), parameters.data(), statistics.data());
  });
}

// grad_means and grad_precisions_cholesky come with grad_weights.
void gmm_gradient(const py::array& X, const py::array& grad, const py::array& weights,
                  const py::array& means, const py::array& precisions_cholesky,
                  const std::string& covariance_type, const OptionalArray& grad_X,
                  const OptionalArray& grad_weights, const OptionalArray& grad_means,
                  const OptionalArray& grad_precisions_cholesky) {
  with_value_type(X, "X", [&](auto value) {
    using T = decltype(value);
    const Batch batch(X, weights, covariance_type);
    const auto parameters = batch.parameters(weights, means, precisions_cholesky);
    const auto rows = batch.rows<T>(X, grad);
    const py::ssize_t size = batch.size, n = batch.n, k = batch.k, d = batch.d;
    T* const x = grad_X ? contiguous<T>(*grad_X, "grad_X", {size, n, d}) : nullptr;
    if (grad_weights.has_value() != grad_means.has_value() ||
        grad_weights.has_value() != grad_precisions_cholesky.has_value())
      throw py::value_error("the parameters' gradients are written all or none");
    T* const w = grad_weights ? contiguous<T>(*grad_weights, "grad_weights", {size, k}) : nullptr;
    T* const m = grad_means ? contiguous<T>(*grad_means, "grad_means", {size, k, d}) : nullptr;
    T* const p = grad_precisions_cholesky
                     ? batch.second<T>(*grad_precisions_cholesky, "grad_precisions_cholesky")
                     : nullptr;
    std::vector<GmmGradient<T>> gradients(size, GmmGradient<T>{});
    for (py::ssize_t b = 0; b < size; ++b) {
      if (x) gradients[b].x = {x + b * n * d, d, 1};
      if (w) gradients[b].weights = w + b * k;
      if (m) gradients[b].means = m + b * k * d;
      if (p) gradients[b].precisions_cholesky = p + b * batch.second_size();
    }
    const py::gil_scoped_release release;
    cpu::gmm_gradient(size, rows.data(), parameters.data(), gradients.data());
  });
}

// Returns the rows' log-densities.
py::object plain_gmm_log_prob(const py::handle& x, const py::handle& weights,
                              const py::handle& means, const py::handle& precisions_cholesky,
                              const py::handle& covariance_type) {
  const auto mixture = PlainMixture::of(x, weights, means, precisions_cholesky, covariance_type);
  if (!mixture) return py::none();
  const PlainTensor& rows = mixture->x();
  const NewTensor log_prob = new_shaped(weights, rows.kind, &rows.rows, 1);
  with_plain_type(rows, [&](auto value) {
    using T = decltype(value);
    const GmmRows<T> given = mixture->rows<T>();
    const GmmPosterior<T> posterior{{static_cast<T*>(log_prob.data), 1}, {}};
    const GmmParameters parameters = mixture->parameters();
    const py::gil_scoped_release release;
    cpu::gmm_estep(1, &given, &parameters, &posterior);
  });
  return log_prob.tensor;
}

// Returns the gradients (x, weights, means, precisions_cholesky), each None if it is not needed.
py::object plain_gmm_gradient(const py::handle& grad, const py::handle& x,
                              const py::handle& weights, const py::handle& means,
                              const py::handle& precisions_cholesky,
                              const py::handle& covariance_type, bool need_x,
                              bool need_parameters) {
  const auto mixture = PlainMixture::of(x, weights, means, precisions_cholesky, covariance_type);
  const auto upstream = described(grad);
  if (!mixture || !upstream || !mixture->squares_are_normal() ||
      upstream->kind != mixture->x().kind || upstream->dimensions != 1 ||
      upstream->shape[0] != mixture->x().rows)
    return py::none();
  const PlainGradient d_x(need_x, x, mixture->x()),
      d_weights(need_parameters, weights, mixture->weights()),
      d_means(need_parameters, means, mixture->means()),
      d_factors(need_parameters, precisions_cholesky, mixture->factors());
  with_plain_type(mixture->x(), [&](auto value) {
    using T = decltype(value);
    GmmRows<T> rows = mixture->rows<T>();
    rows.sample_weight = {static_cast<const T*>(upstream->data), upstream->strides[0]};
    const GmmGradient<T> gradient{d_x.matrix<T>(), d_weights.matrix<T>().data,
                                  d_means.matrix<T>().data, d_factors.matrix<T>().data};
    const GmmParameters parameters = mixture->parameters();
    const py::gil_scoped_release release;
    if (need_x || need_parameters) cpu::gmm_gradient(1, &rows, &parameters, &gradient);
  });
  return gradients_or_none(true, d_x, d_weights, d_means, d_factors);
}

}  // namespace

void register_gmm(py::module_& m) {
  using namespace py::literals;
  m.def("gmm_estep", &gmm_estep, "X"_a, "weights"_a, "means"_a, "precisions_cholesky"_a,
        "covariance_type"_a, "log_prob"_a, "responsibilities"_a, "labels"_a = py::none());
  m.def("gmm_statistics", &gmm_statistics, "X"_a, "sample_weight"_a, "weights"_a, "means"_a,
        "precisions_cholesky"_a, "covariance_type"_a, "counts"_a, "first_moments"_a,
        "second_moments"_a, "log_likelihood"_a);
  m.def("gmm_gradient", &gmm_gradient, "X"_a, "grad"_a, "weights"_a, "means"_a,
        "precisions_cholesky"_a, "covariance_type"_a, "grad_X"_a, "grad_weights"_a, "grad_means"_a,
        "grad_precisions_cholesky"_a);
  m.attr("LARGEST_PRECISION") = PlainMixture::kLargestPrecision;
  define_fast<plain_gmm_log_prob>(m, "plain_gmm_log_prob");
  define_fast<plain_gmm_gradient>(m, "plain_gmm_gradient");
}

}  // namespace elbokit::bindings
