#include "elbokit/categorical.h"

#include "kernels/rows.h"
#include "kernels/spans.h"
#include "math/categorical.h"
#include "math/logsumexp.h"

namespace elbokit::ELBOKIT_LEVEL {

namespace {

// The powers of so many classes and positions are kept for the gradient.
constexpr int kKept = 1 << 15;

// Up to so many classes, the lanes run across rows of one position.
constexpr int kFewClasses = 80;
static_assert(kFewClasses % kLanes<float> == 0, "transposed rows end with whole vectors");

// Below so many positions a plane's stretch is not worth its start.
constexpr int kLeastWidth = 64;

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
    const bool across = args_.inner == 1 && args_.classes <= kFewClasses;
    const int together = across ? piece_width() : 1;
    at_ = {begin / args_.rows_per_sample, begin % args_.rows_per_sample};
    for (std::int64_t row = begin; row < end; row += together) {
      if (!across) {
        add(args_.inner == 1 ? classes_together(row) : classes_apart(row));
        continue;
      }
      const int n = static_cast<int>(end - row < together ? end - row : together);
      const double loss = rows_across(row, n);
      if (args_.weight || args_.sample_loss)
        for (int i = 0; i < n; ++i) add(loss_[i]);
      else
        totals_.loss += loss;
    }
    totals_.loss += of_sample_;  // of a sample that goes on behind `end`
    if (args_.stream) stream_fence();
    return totals_;
  }

 private:
  // A row's place: its sample, and its number in it.
  struct Place {
    std::int64_t sample, row;
    void next(std::int64_t rows_per_sample) {
      if (++row < rows_per_sample) return;
      row = 0;
      ++sample;
    }
  };

  T weight(const Place& place) const { return args_.weight ? args_.weight[place.sample] : T(1); }

  // The loss of the next row.
  void add(double loss) {
    of_sample_ += weight(at_) * loss;
    const std::int64_t sample = at_.sample;
    at_.next(args_.rows_per_sample);
    if (at_.sample == sample) return;
    if (args_.sample_loss) args_.sample_loss[sample] = static_cast<T>(of_sample_);
    totals_.loss += of_sample_;
    of_sample_ = 0;
  }

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
    const bool kept = args_.classes <= kKept;
    double rest = 0;
    for_each_span(row, [&](const T* l, std::int64_t first, int n) ELBOKIT_INLINE_LAMBDA {
      T* const powers = powers_ + (kept ? first : 0);
      Vec<T> sum{};
      for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
        const Vec<T> e = exp_nonpositive(read_or_lowest(l + i, count) - shift);
        store(powers + i, e);
        sum += e;
      });
      rest += reduce_add<T>(has(first, n, t) ? sum_without(powers, n, t - first) : sum);
    });
    const T logit = *logits_(row, t < 0 ? 0 : static_cast<std::int64_t>(t), 1);
    const auto term = categorical_term<T>(logit, reduce_max<T>(largest), static_cast<T>(rest));
    if (args_.grad) {
      const T factor = args_.scale * weight(at_);
      const Vec<T> inverse = broadcast<T>(term.inverse * factor);
      const Vec<T> own = broadcast<T>(-term.share * factor);
      for_each_span(row, [&](const T* l, std::int64_t first, int n) ELBOKIT_INLINE_LAMBDA {
        const T own_class = has(first, n, t) ? t - first : T(-1);
        grad_.write(row, first, n, [&](int i, int count) ELBOKIT_INLINE_LAMBDA {
          const Vec<T> e = kept ? load(powers_ + first + i)
                                : exp_nonpositive(read_or_lowest(l + i, count) - shift);
          return select(is_class<T>(i, own_class), own, e * inverse);
        });
      });
    }
    return term.loss;
  }

  static bool has(std::int64_t first, int n, T t) { return t >= first && t < first + n; }

  // The sum of a span's powers but for that of class t.
  static Vec<T> sum_without(const T* powers, int n, T t) {
    Vec<T> sum{};
    for (int i = 0; i < n; i += kLanes<T>)
      sum += select(is_class<T>(i, t), Vec<T>{}, load(powers + i));
    return sum;
  }

  // Positions whose classes lie in planes or were put there: the lanes run across the positions.

  // As many as stay in the first cache with all of their classes, if that is not too few.
  int piece_width() const {
    const std::int64_t fit = kKept / 4 / args_.classes / kLanes<T> * kLanes<T>;
    return static_cast<int>(fit < kLeastWidth ? kLeastWidth : fit > kSpan ? kSpan : fit);
  }

  // From plane to plane, with a line more: powers of two would share few sets of the cache.
  int plane_stride(int n) const {
    return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T> + 64 / static_cast<int>(sizeof(T));
  }

  // A class is a plane of the logits.
  double classes_apart(std::int64_t row) {
    double loss = 0;
    const int width = piece_width();
    for (std::int64_t at = 0; at < args_.inner; at += width) {
      const std::int64_t left = args_.inner - at;
      const int n = static_cast<int>(left < width ? left : width);
      const T factor = args_.scale * weight(at_);
      for (int i = 0; i < n; ++i) factor_[i] = factor;
      start(row * args_.inner + at, n);
      // The next piece's planes are stretches too short for the processor to see them coming.
      const bool ends = at + width >= args_.inner;
      const std::ptrdiff_t ahead = ends ? args_.logits.row_stride - at : width;
      const auto read = [&](std::int64_t k, T* to) ELBOKIT_INLINE_LAMBDA {
        const T* const l = logits_(row, k * args_.inner + at, n);
        if (logits_.direct())
          for (int i = 0; i < n; i += 64 / static_cast<int>(sizeof(T)))
            __builtin_prefetch(l + ahead + i, 0, 2);
        const Vec<T> number = broadcast<T>(static_cast<T>(k)), lowest = broadcast<T>(kLowest<T>);
        for_each_vector<T>(n, [&](std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
          const Vec<T> v = read_or_lowest(l + i, count);
          const auto own = load(target_ + i) == number;
          store(logit_ + i, select(own, v, load(logit_ + i)));
          store(to + i, select(own, lowest, v));
        });
      };
      loss += terms(n, read);
      if (args_.grad)
        for (std::int64_t k = 0; k < args_.classes; ++k) {
          const T* const e = powers(n, k, read);
          grad_.write(row, k * args_.inner + at, n,
                      [&](int i, int) ELBOKIT_INLINE_LAMBDA { return slope(e, k, i); });
        }
    }
    return loss;
  }

  // Rows of one position and few classes: tiles of them are transposed on the way in and out.
  // Returns the sum of their losses.
  double rows_across(std::int64_t row, int n) {
    Place place = at_;
    for (int i = 0; i < n; ++i) {
      factor_[i] = args_.scale * weight(place);
      if (args_.weight) place.next(args_.rows_per_sample);
    }
    start(row, n);
    const int stride = plane_stride(n), classes = static_cast<int>(args_.classes);
    for_each_tile(n, [&](int i, int height, int k, int width) ELBOKIT_INLINE_LAMBDA {
      Vec<T> tile[kLanes<T>];
      for (int r = 0; r < kLanes<T>; ++r)
        tile[r] = r < height ? read(logits_(row + i + r, k, width), width) : Vec<T>{};
      transpose<T>(tile);
      for (int c = 0; c < width; ++c) store(powers_ + (k + c) * stride + i, tile[c]);
    });
    for (int i = 0; i < n; ++i) {
      if (target_[i] < 0) continue;
      T& own = powers_[static_cast<int>(target_[i]) * stride + i];
      logit_[i] = own;
      own = kLowest<T>;
    }
    const auto there = [](std::int64_t, T*) ELBOKIT_INLINE_LAMBDA {};
    const double loss = terms(n, there);
    if (!args_.grad) return loss;
    T rows[kLanes<T> * kFewClasses];
    for_each_tile(n, [&](int i, int height, int k, int width) ELBOKIT_INLINE_LAMBDA {
      Vec<T> tile[kLanes<T>];
      for (int c = 0; c < kLanes<T>; ++c)
        tile[c] = c < width ? slope(powers_ + (k + c) * stride, k + c, i) : Vec<T>{};
      transpose<T>(tile);
      for (int r = 0; r < kLanes<T>; ++r) store(rows + r * kFewClasses + k, tile[r]);
      if (k + width < classes) return;
      for (int r = 0; r < height; ++r)
        grad_.write(row + i + r, 0, classes, [&](int c, int) ELBOKIT_INLINE_LAMBDA {
          return load(rows + r * kFewClasses + c);
        });
    });
    return loss;
  }

  // f(first position, positions, first class, classes) for each tile, the classes innermost.
  template <class F>
  ELBOKIT_INLINE void for_each_tile(int n, F&& f) {
    const int classes = static_cast<int>(args_.classes);
    for (int i = 0; i < n; i += kLanes<T>)
      for (int k = 0; k < classes; k += kLanes<T>)
        f(i, n - i < kLanes<T> ? n - i : kLanes<T>, k,
          classes - k < kLanes<T> ? classes - k : kLanes<T>);
  }

  // What is known before the classes are read.
  void start(std::int64_t position, int n) {
    for (int i = 0; i < n; ++i) {
      const bool given = counts(position + i);
      counts_[i] = given ? T(1) : T(0);
      target_[i] = given ? target(position + i) : T(-1);
    }
    for (int i = n; i % kLanes<T> != 0; ++i) {
      counts_[i] = factor_[i] = 0;
      target_[i] = -1;
    }
    for (int i = 0; i < n; i += kLanes<T>) {
      store(largest_ + i, broadcast<T>(kLowest<T>));
      store(logit_ + i, Vec<T>{});
      store(rest_ + i, Vec<T>{});
    }
    if (args_.classes >= kRun)
      for (int i = 0; i < n; ++i) rests_[i] = 0;
  }

  bool kept(int n) const { return args_.classes * plane_stride(n) <= kKept; }

  // The logits of class k as read(k, to) puts them there: those of targets, which go to logit_, are
  // -inf, and those of positions that do not count are replaced.
  template <class Read>
  ELBOKIT_INLINE T* logits(int n, std::int64_t k, Read read) {
    T* const to = powers_ + (kept(n) ? k * plane_stride(n) : 0);
    read(k, to);
    if (args_.mask)
      for (int i = 0; i < n; i += kLanes<T>)
        store(to + i, select(load(counts_ + i) == Vec<T>{}, Vec<T>{}, load(to + i)));
    return to;
  }

  // e^(l_k - largest), read again if they were not kept.
  template <class Read>
  ELBOKIT_INLINE T* powers(int n, std::int64_t k, Read read) {
    if (kept(n)) return powers_ + k * plane_stride(n);
    T* const to = logits(n, k, read);
    for (int i = 0; i < n; i += kLanes<T>)
      store(to + i, exp_nonpositive(load(to + i) - load(shift_ + i)));
    return to;
  }

  // Sum of the losses; leaves them and the factors of the gradient.
  template <class Read>
  double terms(int n, Read read) {
    for (std::int64_t k = 0; k < args_.classes; ++k) {
      const T* const l = logits(n, k, read);
      for (int i = 0; i < n; i += kLanes<T>)
        store(largest_ + i, max(load(largest_ + i), load(l + i)));
    }
    for (int i = 0; i < n; i += kLanes<T>) {
      const auto has_target = load(target_ + i) >= Vec<T>{};
      const Vec<T> own = select(has_target, load(logit_ + i), broadcast<T>(kLowest<T>));
      const Vec<T> largest = max(load(largest_ + i), own);
      store(largest_ + i, largest);
      store(shift_ + i, logsumexp_shift(largest));
    }
    for (std::int64_t k = 0; k < args_.classes; ++k) {
      T* const to = kept(n) ? powers_ + k * plane_stride(n) : logits(n, k, read);
      for (int i = 0; i < n; i += kLanes<T>) {
        const Vec<T> e = exp_nonpositive(load(to + i) - load(shift_ + i));
        store(to + i, e);
        store(rest_ + i, load(rest_ + i) + e);
      }
      if (k % kRun == kRun - 1) widen_sums(n);
    }
    if (args_.classes >= kRun)
      for (int i = 0; i < n; ++i) rest_[i] = static_cast<T>(rests_[i] + rest_[i]);
    Vec<T> loss{};
    for (int i = 0; i < n; i += kLanes<T>) {
      const auto term =
          categorical_term<Vec<T>>(load(logit_ + i), load(largest_ + i), load(rest_ + i));
      const auto counts = load(counts_ + i) != Vec<T>{};
      const Vec<T> factor = load(factor_ + i);
      store(loss_ + i, select(counts, term.loss, Vec<T>{}));
      store(inverse_ + i, select(counts, term.inverse * factor, Vec<T>{}));
      store(share_ + i, select(counts, -term.share * factor, Vec<T>{}));
      loss += load(loss_ + i);
    }
    return reduce_add_wide(loss);
  }

  // Sums over a run of classes join the others in double.
  void widen_sums(int n) {
    for (int i = 0; i < n; ++i) {
      rests_[i] += rest_[i];
      rest_[i] = 0;
    }
  }

  ELBOKIT_INLINE Vec<T> slope(const T* powers, std::int64_t k, int i) const {
    return select(load(target_ + i) == broadcast<T>(static_cast<T>(k)), load(share_ + i),
                  load(powers + i) * load(inverse_ + i));
  }

  const CategoricalArgs<T>& args_;
  SpanReader<T> logits_;
  SpanWriter<T> grad_;
  Place at_{};
  double of_sample_ = 0;
  CategoricalTotals totals_;
  // Of a row's classes, or of a piece's classes and positions.
  alignas(kVectorBytes) T powers_[kKept + kSpan];
  // Of each position of a piece.
  alignas(kVectorBytes) T counts_[kSpan], target_[kSpan], largest_[kSpan], logit_[kSpan];
  alignas(kVectorBytes) T shift_[kSpan], rest_[kSpan], inverse_[kSpan], share_[kSpan];
  alignas(kVectorBytes) T factor_[kSpan], loss_[kSpan];
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
