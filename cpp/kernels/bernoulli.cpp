#include "elbokit/bernoulli.h"

#include "kernels/bernoulli_sum.h"

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
    std::int64_t cols = args_.cols;
    if (join()) {
      cols *= end - begin;
      end = begin + 1;
    }
    for (std::int64_t row = begin; row < end; ++row) {
      const T weight = args_.row_weight ? args_.row_weight[row] : T(1);
      const double loss =
          weight * (plain ? plain_row(row, cols, weight) : weighted_row(row, cols, weight));
      if (args_.row_loss) args_.row_loss[row] = static_cast<T>(loss);
      totals_.loss += loss;
    }
    if (args_.stream) stream_fence();
    return totals_;
  }

 private:
  // Whether the rows may be taken as one: nobody asks for a number of each.
  bool join() const {
    return !args_.row_weight && !args_.row_loss &&
           rows_join(args_.cols, args_.logits, args_.target, args_.weight, args_.pos_weight,
                     args_.mask, args_.elementwise, args_.grad);
  }

  // Two operands and no options: the loop that has to keep up with the memory.
  double plain_row(std::int64_t row, std::int64_t cols, T weight) {
    const Vec<T> factor = broadcast<T>(args_.scale * weight);
    BernoulliSum<T> sum;
    for_each_span(cols, [&](std::int64_t col, int n) ELBOKIT_INLINE_LAMBDA {
      const T* const logits = logits_(row, col, n);
      const T* const target = target_(row, col, n);
      for_each_term(row, col, n, logits,
                    [&](std::int64_t i, int v, int count, Vec<T> power) ELBOKIT_INLINE_LAMBDA {
                      const auto parts = bernoulli_parts<Vec<T>>(read(logits + i, count), power,
                                                                 read(target + i, count), factor);
                      sum.add(v, parts.linear, first_lanes<T>(parts.power, count));
                      return parts.grad;
                    });
      sum.end_span();
      if (args_.count) totals_.out_of_range += count_out_of_range<T>(target, nullptr, n);
    });
    return sum.total();
  }

  double weighted_row(std::int64_t row, std::int64_t cols, T weight) {
    double loss = 0;
    for_each_span(cols,
                  [&](std::int64_t col, int n) { loss += weighted_span(row, col, n, weight); });
    return loss;
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
    if (args_.count) totals_.out_of_range += count_out_of_range<T>(target, mask, n);
    for_each_term(row, col, n, logits,
                  [&](std::int64_t i, int, int count, Vec<T> power) ELBOKIT_INLINE_LAMBDA {
                    const Vec<T> t = read(target + i, count), w = read(weight + i, count);
                    const auto counts = read(mask + i, count) != Vec<T>{};
                    const Vec<T> off = broadcast<T>(1) - t, on = read(pos_weight + i, count) * t;
                    const auto raw = bernoulli_term<Vec<T>>(read(logits + i, count), power, off, on,
                                                            off + on, factor);
                    const Vec<T> each =
                        first_lanes<T>(select(counts, raw.loss * w, Vec<T>{}), count);
                    loss += each;
                    if (elementwise)
                      write<T>(elementwise + i, each * broadcast<T>(row_weight), count);
                    return select(counts, raw.grad * w, Vec<T>{});
                  });
    return reduce_add_wide(loss);
  }

  // Calls term(i, v, count, e^-|logit|) for each vector, the v-th of those that are at work at
  // once, and writes what it returns where a gradient is asked for.
  template <class F>
  ELBOKIT_INLINE void for_each_term(std::int64_t row, std::int64_t col, int n, const T* logits,
                                    F&& term) {
    Vec<T> power[kAhead];
    const auto find_power = [&](int v, std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
      power[v] = bernoulli_power<Vec<T>>(read(logits + i, count));
    };
    const auto rest = [&](int v, std::int64_t i, int count)
                          ELBOKIT_INLINE_LAMBDA { return term(i, v, count, power[v]); };
    if (args_.grad)
      grad_.write_ahead(row, col, n, find_power, rest);
    else
      for_each_ahead<T>(n, find_power, rest);
  }

  const BernoulliArgs<T>& args_;
  SpanReader<T> logits_, target_, weight_, pos_weight_, mask_;
  SpanWriter<T> grad_;
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
