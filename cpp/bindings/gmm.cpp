#include "elbokit/gmm.h"

#include <map>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"

namespace elbokit::bindings {

namespace {

Covariance covariance_of(const std::string& name) {
  static const std::map<std::string, Covariance> types{{"full", Covariance::full},
                                                       {"tied", Covariance::tied},
                                                       {"diag", Covariance::diag},
                                                       {"spherical", Covariance::spherical}};
  const auto found = types.find(name);
  if (found == types.end())
    throw py::value_error("`covariance_type` is '" + name +
                          "', expected 'full', 'tied', 'diag' or 'spherical'");
  return found->second;
}

// A batch of mixtures: X (B, N, D), weights (B, K), means (B, K, D), and per mixture what the
// covariance type says.
struct Batch {
  py::ssize_t size, n, d, k;
  Covariance covariance;

  Batch(const py::array& X, const py::array& weights, const std::string& covariance_type)
      : covariance(covariance_of(covariance_type)) {
    expect_dimensions(X, "X", 3);
    expect_dimensions(weights, "weights", 2);
    size = X.shape(0), n = X.shape(1), d = X.shape(2), k = weights.shape(1);
    for (const auto& [name, value] : {std::pair{"samples", n}, {"features", d}})
      if (value == 0)
        throw py::value_error("`X` has 0 " + std::string(name) + ", expected at least 1");
    if (k == 0) throw py::value_error("`weights` has 0 components, expected at least 1");
  }

  // Of a per-component second-order quantity, one mixture.
  py::ssize_t second_size() const {
    switch (covariance) {
      case Covariance::full:
        return k * d * d;
      case Covariance::tied:
        return d * d;
      case Covariance::diag:
        return k * d;
      default:
        return k;
    }
  }

  template <class T>
  T* second(const py::array& a, const char* name) const {
    switch (covariance) {
      case Covariance::full:
        return contiguous<T>(a, name, {size, k, d, d});
      case Covariance::tied:
        return contiguous<T>(a, name, {size, d, d});
      case Covariance::diag:
        return contiguous<T>(a, name, {size, k, d});
      default:
        return contiguous<T>(a, name, {size, k});
    }
  }

  std::vector<GmmParameters> parameters(const py::array& weights, const py::array& means,
                                        const py::array& precisions_cholesky) const {
    const double* const w = contiguous<const double>(weights, "weights", {size, k});
    const double* const m = contiguous<const double>(means, "means", {size, k, d});
    const double* const p = second<const double>(precisions_cholesky, "precisions_cholesky");
    std::vector<GmmParameters> all;
    for (py::ssize_t b = 0; b < size; ++b)
      all.push_back({covariance, k, d, w + b * k, m + b * k * d, p + b * second_size()});
    return all;
  }

  template <class T>
  std::vector<GmmRows<T>> rows(const py::array& X, const OptionalArray& sample_weight) const {
    expect<T>(X, "X", {size, n, d});
    if (sample_weight) expect<T>(*sample_weight, "sample_weight", {size, n});
    std::vector<GmmRows<T>> all;
    for (py::ssize_t b = 0; b < size; ++b) {
      GmmRows<T> rows{};
      rows.n_samples = n;
      rows.x = {pointer<const T>(X, "X") + b * stride<T>(X, 0), stride<T>(X, 1), stride<T>(X, 2)};
      if (d == 1) rows.x.col_stride = 1;
      if (sample_weight)
        rows.sample_weight = {
            pointer<const T>(*sample_weight, "sample_weight") + b * stride<T>(*sample_weight, 0),
            stride<T>(*sample_weight, 1)};
      all.push_back(rows);
    }
    return all;
  }
};

void gmm_estep(const py::array& X, const py::array& weights, const py::array& means,
               const py::array& precisions_cholesky, const std::string& covariance_type,
               const OptionalArray& log_prob, const OptionalArray& responsibilities) {
  with_value_type(X, "X", [&](auto value) {
    using T = decltype(value);
    const Batch batch(X, weights, covariance_type);
    const auto parameters = batch.parameters(weights, means, precisions_cholesky);
    const auto rows = batch.rows<T>(X, std::nullopt);
    const auto [size, n, d, k, covariance] = batch;
    T* const lp = log_prob ? contiguous<T>(*log_prob, "log_prob", {size, n}) : nullptr;
    T* const r = responsibilities
                     ? contiguous<T>(*responsibilities, "responsibilities", {size, n, k})
                     : nullptr;
    std::vector<GmmPosterior<T>> posteriors(size);
    for (py::ssize_t b = 0; b < size; ++b) {
      if (lp) posteriors[b].log_prob = {lp + b * n, 1};
      if (r) posteriors[b].responsibilities = {r + b * n * k, k, 1};
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
    const auto [size, n, d, k, covariance] = batch;
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

}  // namespace

void register_gmm(py::module_& m) {
  using namespace py::literals;
  m.def("gmm_estep", &gmm_estep, "X"_a, "weights"_a, "means"_a, "precisions_cholesky"_a,
        "covariance_type"_a, "log_prob"_a, "responsibilities"_a);
  m.def("gmm_statistics", &gmm_statistics, "X"_a, "sample_weight"_a, "weights"_a, "means"_a,
        "precisions_cholesky"_a, "covariance_type"_a, "counts"_a, "first_moments"_a,
        "second_moments"_a, "log_likelihood"_a);
}

}  // namespace elbokit::bindings
