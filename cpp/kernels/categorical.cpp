#include "elbokit/categorical.h"

#include "kernels/rows.h"
#include "kernels/spans.h"
#include "math/categorical.h"
#include "math/logsumexp.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// A piece of the logits of inner > 1: it stays in the second cache between its sweeps.
constexpr std::int64_t kPiece = 1 << 16;

template <class T>
constexpr T kLowest = -static_cast<T>(__builtin_huge_val());

template <class T>
ELBOKIT_INLINE Vec<T> lane_numbers() {
  Vec<T> v{};
  for (int i = 0; i < kLanes<T>; ++i) v[i] = static_cast<T>(i);
  return v;
}

// The lanes past `count` are -inf.
template <class T>
ELBOKIT_INLINE Vec<T> read_or_lowest(const T* from, int count) {
  if (count == kLanes<T>) return load(from);
  const auto given = lane_numbers<T>() < broadcast<T>(static_cast<T>(count));
  return select(given, load_partial(from, count), broadcast<T>(kLowest<T>));
}

// The lane of class t in a vector of classes from `first` on. Classes as T are exact: there are
// fewer than 2^24.
template <class T>
ELBOKIT_INLINE auto is_class(std::int64_t first, T t) {
  return lane_numbers<T>() == broadcast<T>(t - static_cast<T>(first));
}

template <class T>
class CategoricalRows {
 public:
  explicit CategoricalRows(const CategoricalArgs<T>& args)
      : args_(args), logits_(args.logits), grad_(args.grad, args.stream) {}

  CategoricalTotals run(std::int64_t begin, std::int64_t end) {
    double loss = 0;
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t sample = row / args_.rows_per_sample;
      const T weight = args_.weight ? args_.weight[sample] : T(1);
      factor_ = args_.scale * weight;
      loss += weight * (args_.inner == 1 ? classes_together(row) : classes_apart(row));
      if (row + 1 < end && (row + 1) % args_.rows_per_sample != 0) continue;
      if (args_.sample_loss) args_.sample_loss[sample] = static_cast<T>(loss);
      totals_.loss += loss;
      loss = 0;
    }
    if (args_.stream) stream_fence();
    return totals_;
  }

 private:
  bool counts(std::int64_t position) const { return !args_.mask || args_.mask[position]; }

  // The class of a position that counts; -1, which is none, if it is out of range.
  T target(std::int64_t position) {
    const std::int64_t t = args_.target[position];
    if (t >= 0 && t < args_.classes) return static_cast<T>(t);
    if (totals_.outside < 0) totals_.outside = position;
    return T(-1);
  }

  // f(values, first, n) for the row's classes [first, first + n). What was read last is kept.
  template <class F>
  ELBOKIT_INLINE void for_each_span(std::int64_t row, F&& f) {
    for (std::int64_t first = 0; first < args_.classes; first += kSpan) {
      const std::int64_t left = args_.classes - first;
      const int n = static_cast<int>(left < kSpan ? left : kSpan);
      f(logits_(row, first, n), first, n);
    }
  }

  // A row is one position: the lanes run along its classes.
  double classes_together(std::int64_t row) {
    if (!counts(row)) {
      if (args_.grad)
        for_each_span(row, [&](const T*, std::int64_t first, int n) {
          grad_.write(row, first, n, [](int, int) { return Vec<T>{}; });
        });
      return 0;
    }
    const T t = target(row);
    Vec<T> largest = broadcast<T>(kLowest<T>);
    for_each_span(row, [&](const T* l, std::int64_t, int n) ELBOKIT_INLINE_LAMBDA {
      for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
        largest = max(largest, read_or_lowest(l + i, count));
      });
    });
    const Vec<T> shift = logsumexp_shift(broadcast<T>(reduce_max<T>(largest)));
    double rest = 0;
    for_each_span(row, [&](const T* l, std::int64_t first, int n) ELBOKIT_INLINE_LAMBDA {
      Vec<T> sum{};
      for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
        const Vec<T> e = exp_nonpositive(read_or_lowest(l + i, count) - shift);
        store(powers_ + i, e);
        sum += select(is_class<T>(first + i, t), Vec<T>{}, e);
      });
      rest += reduce_add<T>(sum);
    });
    const T logit = *logits_(row, t < 0 ? 0 : static_cast<std::int64_t>(t), 1);
    const auto term = categorical_term<T>(logit, reduce_max<T>(largest), static_cast<T>(rest));
    if (args_.grad) {
      const Vec<T> factor = broadcast<T>(term.inverse * factor_);
      const Vec<T> own = broadcast<T>(-term.share * factor_);
      const bool kept = args_.classes <= kSpan;  // powers_ holds the whole row
      for_each_span(row, [&](const T* l, std::int64_t first, int n) ELBOKIT_INLINE_LAMBDA {
        grad_.write(row, first, n, [&](int i, int count) ELBOKIT_INLINE_LAMBDA {
          const Vec<T> e =
              kept ? load(powers_ + i) : exp_nonpositive(read_or_lowest(l + i, count) - shift);
          return select(is_class<T>(first + i, t), own, e * factor);
        });
      });
    }
    return term.loss;
  }

  // A class is a plane of positions: the lanes run across positions, a piece of them at a time.
  double classes_apart(std::int64_t row) {
    std::int64_t width = kPiece / args_.classes / kLanes<T> * kLanes<T>;
    width = width < kLanes<T> ? kLanes<T> : width > kSpan ? kSpan : width;
    double loss = 0;
    for (std::int64_t at = 0; at < args_.inner; at += width) {
      const std::int64_t left = args_.inner - at;
      loss += piece(row, at, static_cast<int>(left < width ? left : width));
    }
    return loss;
  }

  // f(values, class, i) for each class and each vector i of the piece's n positions.
  template <class F>
  ELBOKIT_INLINE void for_each_class(std::int64_t row, std::int64_t at, int n, F&& f) {
    for (std::int64_t k = 0; k < args_.classes; ++k) {
      const T* const l = logits_(row, k * args_.inner + at, n);
      const Vec<T> number = broadcast<T>(static_cast<T>(k));
      for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
        f(read_or_lowest(l + i, count), number, i);
      });
      if (k % kRun == kRun - 1) widen_sums(n);
    }
  }

  // Sums over a run of classes join the others in double.
  void widen_sums(int n) {
    for (int i = 0; i < n; ++i) {
      rests_[i] += rest_[i];
      rest_[i] = 0;
    }
  }

  double piece(std::int64_t row, std::int64_t at, int n) {
    const std::int64_t position = row * args_.inner + at;
    for (int i = 0; i < kSpan; ++i) {
      const bool given = i < n && counts(position + i);
      counts_[i] = given ? T(1) : T(0);
      target_[i] = given ? target(position + i) : T(-1);
      largest_[i] = kLowest<T>;
      logit_[i] = rest_[i] = 0;
      rests_[i] = 0;
    }
    for (int i = 0; i < n; ++i)
      if (target_[i] >= 0)
        logit_[i] = *logits_(row, static_cast<std::int64_t>(target_[i]) * args_.inner + at + i, 1);
    for_each_class(row, at, n, [&](Vec<T> l, Vec<T>, std::int64_t i) ELBOKIT_INLINE_LAMBDA {
      store(largest_ + i, max(load(largest_ + i), l));
    });
    for (int i = 0; i < kSpan; i += kLanes<T>)
      store(shift_ + i, logsumexp_shift(load(largest_ + i)));
    for_each_class(row, at, n, [&](Vec<T> l, Vec<T> k, std::int64_t i) ELBOKIT_INLINE_LAMBDA {
      const Vec<T> e = exp_nonpositive(l - load(shift_ + i));
      store(rest_ + i, load(rest_ + i) + select(load(target_ + i) == k, Vec<T>{}, e));
    });
    for (int i = 0; i < n; ++i) rest_[i] = static_cast<T>(rests_[i] + rest_[i]);
    Vec<T> loss{};
    for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
      const auto term =
          categorical_term<Vec<T>>(load(logit_ + i), load(largest_ + i), load(rest_ + i));
      const auto counts = load(counts_ + i) != Vec<T>{};
      loss += first_lanes<T>(select(counts, term.loss, Vec<T>{}), count);
      store(inverse_ + i, term.inverse * broadcast<T>(factor_));
      store(share_ + i, -term.share * broadcast<T>(factor_));
    });
    if (args_.grad) write_piece(row, at, n);
    return reduce_add<T>(loss);
  }

  void write_piece(std::int64_t row, std::int64_t at, int n) {
    for (std::int64_t k = 0; k < args_.classes; ++k) {
      const std::int64_t col = k * args_.inner + at;
      const T* const l = logits_(row, col, n);
      const Vec<T> number = broadcast<T>(static_cast<T>(k));
      grad_.write(row, col, n, [&](int i, int count) ELBOKIT_INLINE_LAMBDA {
        const Vec<T> e = exp_nonpositive(read_or_lowest(l + i, count) - load(shift_ + i));
        const Vec<T> slope =
            select(load(target_ + i) == number, load(share_ + i), e * load(inverse_ + i));
        return select(load(counts_ + i) != Vec<T>{}, slope, Vec<T>{});
      });
    }
  }

  const CategoricalArgs<T>& args_;
  SpanReader<T> logits_;
  SpanWriter<T> grad_;
  T factor_ = 1;
  CategoricalTotals totals_;
  // Of each class of a span, or of each position of a piece.
  alignas(kVectorBytes) T powers_[kSpan];
  alignas(kVectorBytes) T counts_[kSpan], target_[kSpan], largest_[kSpan], logit_[kSpan];
  alignas(kVectorBytes) T shift_[kSpan], rest_[kSpan], inverse_[kSpan], share_[kSpan];
  alignas(kVectorBytes) double rests_[kSpan];
};

}  // namespace

template <class T>
CategoricalTotals categorical_loss(const CategoricalArgs<T>& args, std::int64_t begin,
                                   std::int64_t end) {
  return CategoricalRows<T>(args).run(begin, end);
}

template CategoricalTotals categorical_loss(const CategoricalArgs<float>&, std::int64_t,
                                            std::int64_t);
template CategoricalTotals categorical_loss(const CategoricalArgs<double>&, std::int64_t,
                                            std::int64_t);

}  // namespace elbokit::ELBOKIT_LEVEL
