#include "elbokit/bernoulli.h"

#include "kernels/bernoulli_powers.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

template <class T>
std::int64_t count_out_of_range(const T* target, const T* mask, int n) {
  std::int64_t count = 0;
  for (int i = 0; i < n; ++i) count += (target[i] < 0 || target[i] > 1) && !(mask && mask[i] == 0);
  return count;
}

template <class T>
class Rows {
 public:
  explicit Rows(const BernoulliArgs<T>& args)
      : args_(args),
        logits_(args.logits),
        target_(args.target, args.target_scale),
        weight_(args.weight),
        pos_weight_(args.pos_weight),
        mask_(args.mask),
        grad_(args.grad, args.stream) {}

  BernoulliTotals run(std::int64_t begin, std::int64_t end) {
    const bool plain = !args_.weight && !args_.pos_weight && !args_.mask && !args_.elementwise;
    for (std::int64_t row = begin; row < end; ++row) {
      const T weight = args_.row_weight ? args_.row_weight[row] : T(1);
      double loss = 0;
      for_each_span(args_.cols, [&](std::int64_t col, int n) {
        loss += plain ? plain_span(row, col, n, weight) : weighted_span(row, col, n, weight);
      });
      loss *= weight;
      if (args_.row_loss) args_.row_loss[row] = static_cast<T>(loss);
      totals_.loss += loss;
    }
    if (args_.stream) stream_fence();
    return totals_;
  }

 private:
  // Two operands and no options: the loop that has to keep up with the memory.
  double plain_span(std::int64_t row, std::int64_t col, int n, T weight) {
    const T* const logits = logits_(row, col, n);
    const T* const target = target_(row, col, n);
    const Vec<T> factor = broadcast<T>(args_.scale * weight);
    Vec<T> loss{};
    powers_.fill(logits, n);
    const auto term = [&](int i, int count) ELBOKIT_INLINE_LAMBDA {
      const auto result = bernoulli_term<Vec<T>>(read(logits + i, count), powers_[i],
                                                 read(target + i, count), factor);
      loss += first_lanes<T>(result.loss, count);
      return result.grad;
    };
    if (args_.grad) {
      grad_.write(row, col, n, term);
    } else {
      for_each_vector<T>(n, [&](std::int64_t i, int count)
                                ELBOKIT_INLINE_LAMBDA { term(static_cast<int>(i), count); });
    }
    if (args_.count) totals_.out_of_range += count_out_of_range<T>(target, nullptr, n);
    return reduce_add<T>(loss);
  }

  double weighted_span(std::int64_t row, std::int64_t col, int n, T row_weight) {
    const T* const logits = logits_(row, col, n);
    const T* const target = target_(row, col, n);
    const T* const weight = weight_(row, col, n);
    const T* const pos_weight = pos_weight_(row, col, n);
    const T* const mask = mask_(row, col, n);
    T* const elementwise = args_.elementwise ? args_.elementwise.row(row) + col : nullptr;
    const Vec<T> factor = broadcast<T>(args_.scale * row_weight);
    Vec<T> loss{};
    powers_.fill(logits, n);
    if (args_.count) totals_.out_of_range += count_out_of_range<T>(target, mask, n);
    const auto term = [&](int i, int count) ELBOKIT_INLINE_LAMBDA {
      const Vec<T> t = read(target + i, count), w = read(weight + i, count);
      const auto counts = read(mask + i, count) != Vec<T>{};
      const Vec<T> off = broadcast<T>(1) - t, on = read(pos_weight + i, count) * t;
      const auto raw =
          bernoulli_term<Vec<T>>(read(logits + i, count), powers_[i], off, on, off + on, factor);
      const Vec<T> each = first_lanes<T>(select(counts, raw.loss * w, Vec<T>{}), count);
      loss += each;
      if (elementwise) write<T>(elementwise + i, each * broadcast<T>(row_weight), count);
      return select(counts, raw.grad * w, Vec<T>{});
    };
    if (args_.grad)
      grad_.write(row, col, n, term);
    else
      for_each_vector<T>(n, [&](std::int64_t i, int count)
                                ELBOKIT_INLINE_LAMBDA { term(static_cast<int>(i), count); });
    return reduce_add<T>(loss);
  }

  const BernoulliArgs<T>& args_;
  SpanReader<T> logits_, target_, weight_, pos_weight_, mask_;
  SpanWriter<T> grad_;
  BernoulliPowers<T> powers_;
  BernoulliTotals totals_;
};

}  // namespace

template <class T>
BernoulliTotals bernoulli_loss(const BernoulliArgs<T>& args, std::int64_t begin, std::int64_t end) {
  return Rows<T>(args).run(begin, end);
}

template BernoulliTotals bernoulli_loss(const BernoulliArgs<float>&, std::int64_t, std::int64_t);
template BernoulliTotals bernoulli_loss(const BernoulliArgs<double>&, std::int64_t, std::int64_t);

}  // namespace elbokit::ELBOKIT_LEVEL
