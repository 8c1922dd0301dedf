// Losses of plain tensors from beginning to end, in one call: what they are given is read, what
// they make is made. Where anything more is asked for they return None, and the caller goes the
// long way, which also has the errors.
#pragma once

#include <cmath>
#include <vector>

#include "bindings/plain_tensors.h"
#include "elbokit/bernoulli.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::bindings {

// The factor from the sum of a loss to what is asked for; nothing where that is no single number.
inline std::optional<double> plain_scale(const py::handle& reduction, const PlainTensor& operand) {
  const auto is = [&](const char* name) {
    return PyUnicode_Check(reduction.ptr()) &&
           PyUnicode_CompareWithASCIIString(reduction.ptr(), name) == 0;
  };
  if (is("sum")) return 1.0;
  if (is("batchmean")) return 1.0 / static_cast<double>(operand.rows);
  if (is("mean")) return 1.0 / static_cast<double>(operand.size);
  return {};
}

// A number that is finite and not negative; anything else has to be looked at.
inline std::optional<double> plain_factor(const py::handle& given) {
  if (!PyFloat_CheckExact(given.ptr()) && !PyLong_CheckExact(given.ptr())) return {};
  const double value = PyFloat_AsDouble(given.ptr());
  if (PyErr_Occurred()) PyErr_Clear();  // an integer of more than 300 digits: -1
  return value >= 0 && std::isfinite(value) ? std::optional(value) : std::nullopt;
}

// Calls f(T{}) with the type of the operands.
template <class F>
void with_plain_type(const PlainTensor& operand, F&& f) {
  operand.element() == Element::kFloat32 ? f(float{}) : f(double{});
}

// A gradient that may not be asked for.
class PlainGradient {
 public:
  PlainGradient() = default;
  PlainGradient(bool wanted, const py::handle& like, const PlainTensor& operand)
      : element_(operand.element()), cols_(operand.cols()) {
    if (wanted) made_ = gradient_like(like, operand);
  }

  const py::object& tensor() const { return made_.tensor; }
  Result result() const { return {made_.data, element_, cols_}; }
  template <class T>
  Matrix<T> matrix() const {
    return {static_cast<T*>(made_.data), cols_, 1};
  }

 private:
  NewTensor made_{py::none(), nullptr};
  Element element_ = Element::kFloat32;
  std::ptrdiff_t cols_ = 0;
};

// An operand that may be None.
class PlainOptional {
 public:
  PlainOptional(const py::handle& given, bool apart = false)
      : given_(!given.is_none()),
        plain_(given_ ? plain_of_any_dtype(given, apart) : std::nullopt) {}

  bool given() const { return given_; }
  bool plain() const { return !given_ || plain_; }
  const PlainTensor& operator*() const { return *plain_; }
  const PlainTensor* operator->() const { return &*plain_; }

 private:
  bool given_;
  std::optional<PlainTensor> plain_;
};

// Factors of the rows of `of`, of its dtype, without a gradient; or none.
class PlainWeight {
 public:
  PlainWeight(const py::handle& given, const PlainTensor& of, bool grad_enabled) : weight_(given) {
    plain_ =
        weight_.plain() &&
        (!weight_.given() || (weight_->kind == of.kind && weight_->dimensions == 1 &&
                              weight_->size == of.rows && !(grad_enabled && requires_grad(given))));
  }

  bool plain() const { return plain_; }
  template <class T>
  Vector<const T> vector() const {
    return {weight_.given() ? static_cast<const T*>(weight_->data) : nullptr, 1};
  }

 private:
  PlainOptional weight_;
  bool plain_;
};

// The parameters of a KL's prior, of the shape of `of` or of one of its rows; or none.
class PlainPrior {
 public:
  PlainPrior(const py::handle& mu, const py::handle& logvar, const PlainTensor& of,
             bool grad_enabled)
      : mu_(mu, true), logvar_(logvar, true) {
    plain_ = mu_.plain() && logvar_.plain() && mu_.given() == logvar_.given();
    if (!plain_ || !mu_.given()) return;
    one_row_ = !same_shape(*mu_, of);
    plain_ = same_kind(*mu_, *logvar_) && mu_->kind == of.kind &&
             (!one_row_ || (is_row(*mu_, of) && is_row(*logvar_, of)));
    wants_grad_ = plain_ && grad_enabled && (requires_grad(mu) || requires_grad(logvar));
  }

  bool plain() const { return plain_; }
  bool wants_grad() const { return wants_grad_; }

  template <class T>
  void set(GaussianKlArgs<T>& args) const {
    if (!mu_.given()) return;
    args.prior_mu = mu_->matrix<T>();
    args.prior_logvar = logvar_->matrix<T>();
    if (one_row_) args.prior_mu.row_stride = args.prior_logvar.row_stride = 0;
  }

  friend class PlainPriorGradients;

 private:
  // `row` has the dimensions of `of` but the first, or a first one of size 1.
  static bool is_row(const PlainTensor& row, const PlainTensor& of) {
    const std::int64_t *first = row.shape, *const end = row.shape + row.dimensions;
    if (row.dimensions == of.dimensions && *first++ != 1) return false;
    return row.contiguous_from(0) && std::equal(first, end, of.shape + 1, of.shape + of.dimensions);
  }

  PlainOptional mu_, logvar_;
  bool plain_, one_row_ = false, wants_grad_ = false;
};

// Gradients of the prior's parameters, if they are wanted.
class PlainPriorGradients {
 public:
  PlainPriorGradients(const PlainPrior& prior, const py::handle& mu, const py::handle& logvar)
      : prior_(prior) {
    if (!prior.wants_grad_) return;
    mu_ = PlainGradient(true, mu, *prior.mu_);
    logvar_ = PlainGradient(true, logvar, *prior.logvar_);
    if (prior.one_row_) sums_.resize(2 * prior.mu_->size);
  }

  const py::object& mu() const { return mu_.tensor(); }
  const py::object& logvar() const { return logvar_.tensor(); }

  template <class T>
  void set(GaussianKlArgs<T>& args) {
    if (!prior_.wants_grad_) return;
    if (prior_.one_row_) {
      args.prior_sums = sums_.data();
    } else {
      args.grad_prior_mu = mu_.matrix<T>();
      args.grad_prior_logvar = logvar_.matrix<T>();
    }
  }

  // After the pass.
  template <class T>
  void finish() const {
    const std::size_t size = sums_.size() / 2;
    for (std::size_t i = 0; i < size; ++i) {
      mu_.matrix<T>().data[i] = static_cast<T>(sums_[i]);
      logvar_.matrix<T>().data[i] = static_cast<T>(sums_[size + i]);
    }
  }

 private:
  const PlainPrior& prior_;
  PlainGradient mu_, logvar_;
  std::vector<double> sums_;
};

template <class T>
BernoulliArgs<T> plain_bernoulli_args(const PlainTensor& logits, const PlainTensor& target,
                                      double scale, const PlainGradient& grad) {
  BernoulliArgs<T> args{};
  args.rows = logits.rows;
  args.cols = logits.cols();
  args.logits = logits.operand();
  args.target = target.operand();
  args.target_scale = 1;
  args.scale = static_cast<T>(scale);
  args.grad = grad.result();
  return args;
}

template <class T>
GaussianKlArgs<T> plain_kl_args(const PlainTensor& mu, const PlainTensor& logvar, double free_bits,
                                double scale, const PlainGradient& grad_mu,
                                const PlainGradient& grad_logvar) {
  GaussianKlArgs<T> args{};
  args.rows = mu.rows;
  args.cols = mu.cols();
  args.mu = mu.operand();
  args.logvar = logvar.operand();
  args.free_bits = static_cast<T>(free_bits);
  args.scale = static_cast<T>(scale);
  args.grad_mu = grad_mu.result();
  args.grad_logvar = grad_logvar.result();
  return args;
}

inline const py::object& tensor_of(const py::object& tensor) { return tensor; }
inline const py::object& tensor_of(const PlainGradient& gradient) { return gradient.tensor(); }

template <class... Gradients>
py::object gradients_or_none(bool wanted, const Gradients&... gradients) {
  return wanted ? py::object(py::make_tuple(tensor_of(gradients)...)) : py::object(py::none());
}

}  // namespace elbokit::bindings
