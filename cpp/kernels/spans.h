// Walks a row in spans: pieces short enough for the first cache, in which every operand is a run of
// contiguous elements of the type that is computed in, whatever its own type and strides.
#pragma once

#include "elbokit/matrix.h"
#include "simd/narrow.h"

namespace elbokit::ELBOKIT_LEVEL {

inline constexpr int kSpan = 512;

// Calls f(col, n) for each span of a row.
template <class F>
ELBOKIT_INLINE void for_each_span(std::int64_t cols, F&& f) {
  for (std::int64_t col = 0; col < cols; col += kSpan)
    f(col, static_cast<int>(cols - col < kSpan ? cols - col : kSpan));
}

// to[i] = convert(from[i]) for n elements, whole vectors at a time: `to` has room for kSpan.
template <class U, class F>
ELBOKIT_INLINE void widen_span(const void* data, int n, float* to, F convert) {
  const U* const from = static_cast<const U*>(data);
  int i = 0;
  for (; i + kLanes<float> <= n; i += kLanes<float>) store(to + i, convert(load_narrow(from + i)));
  if (i == n) return;
  U rest[kLanes<float>] = {};
  __builtin_memcpy(rest, from + i, (n - i) * sizeof(U));
  store(to + i, convert(load_narrow(rest)));
}

inline void widen_span(const void* from, Element element, int n, float* to) {
  switch (element) {
    case Element::kBfloat16:
      return widen_span<std::uint16_t>(from, n, to, from_bfloat16);
    case Element::kFloat16:
      return widen_span<std::uint16_t>(from, n, to, from_float16);
    case Element::kUint8:
      return widen_span<std::uint8_t>(from, n, to, from_uint8);
    default:
      __builtin_memcpy(to, from, n * sizeof(float));
  }
}

inline void widen_span(const void* from, Element element, int n, double* to) {
  if (element == Element::kFloat64) {
    __builtin_memcpy(to, from, n * sizeof(double));
    return;
  }
  float narrow[kSpan];
  // Floats are read where they lie: GCC copies so few by `rep movs`, which takes some 100 cycles.
  const bool copied = element != Element::kFloat32;
  if (copied) widen_span(from, element, n, narrow);
  const float* const floats = copied ? narrow : static_cast<const float*>(from);
  for (int i = 0; i < n; ++i) to[i] = floats[i];
}

// An operand's rows, span by span. A null operand is 1 everywhere.
template <class T>
class SpanReader {
 public:
  explicit SpanReader(const Operand& operand, T factor = 1)
      : operand_(operand),
        factor_(factor),
        constant_(!operand || operand.col_stride == 0),
        direct_(!constant_ && operand.element == kElement<T> && factor == 1) {}

  // Whether the elements are read where they lie.
  bool direct() const { return direct_; }

  // Elements [col, col + n) of the row, n <= kSpan; valid until the next call.
  ELBOKIT_INLINE const T* operator()(std::int64_t row, std::int64_t col, int n) {
    if (direct_) return static_cast<const T*>(operand_.at(row, col));
    convert(row, col, n);
    return buffer_;
  }

 private:
  void convert(std::int64_t row, std::int64_t col, int n) {
    if (constant_) {
      const bool same = !operand_ || operand_.row_stride == 0 || row == filled_row_;
      if (filled_row_ >= 0 && same) return;
      filled_row_ = row;
      buffer_[0] = 1;
      if (operand_) widen_span(operand_.at(row, 0), operand_.element, 1, buffer_);
      fill(buffer_[0] * factor_);
      return;
    }
    widen_span(operand_.at(row, col), operand_.element, n, buffer_);
    if (factor_ != 1)
      for (int i = 0; i < n; ++i) buffer_[i] *= factor_;
  }
  void fill(T value) {
    for (int i = 0; i < kSpan; ++i) buffer_[i] = value;
  }

  const Operand& operand_;
  T factor_;
  bool constant_, direct_;
  std::int64_t filled_row_ = -1;
  alignas(kVectorBytes) T buffer_[kSpan];
};

// An output's rows, span by span.
template <class T>
class SpanWriter {
 public:
  SpanWriter(const Result& result, bool stream)
      : result_(result), direct_(result.element == kElement<T>), stream_(stream && direct_) {}

  // Writes f(i, count), for each vector i of the span; count < lanes only for the last.
  template <class F>
  ELBOKIT_INLINE void write(std::int64_t row, std::int64_t col, int n, F&& f) {
    T* const to = direct_ ? static_cast<T*>(result_.at(row, col)) : buffer_;
    int i = 0;
    if (stream_ && reinterpret_cast<std::uintptr_t>(to) % kVectorBytes == 0)
      for (; i + kLanes<T> <= n; i += kLanes<T>)
        elbokit::ELBOKIT_LEVEL::stream(to + i, f(i, kLanes<T>));
    else
      for (; i + kLanes<T> <= n; i += kLanes<T>) store(to + i, f(i, kLanes<T>));
    if (i < n) store_partial(to + i, f(i, n - i), n - i);
    if (!direct_) narrow(result_.at(row, col), n);
  }

  // Writes second(v, i, count), after first(v, i, count) as of for_each_ahead.
  template <class First, class Second>
  ELBOKIT_INLINE void write_ahead(std::int64_t row, std::int64_t col, int n, First&& first,
                                  Second&& second) {
    T* const to = direct_ ? static_cast<T*>(result_.at(row, col)) : buffer_;
    const auto run = [&](auto put) ELBOKIT_INLINE_LAMBDA {
      for_each_ahead<T>(n, first, [&](int v, std::int64_t i, int count) ELBOKIT_INLINE_LAMBDA {
        const Vec<T> value = second(v, i, count);
        if (count == kLanes<T>)
          put(to + i, value);
        else
          store_partial(to + i, value, count);
      });
    };
    if (stream_ && reinterpret_cast<std::uintptr_t>(to) % kVectorBytes == 0)
      run([](T* at, Vec<T> v) ELBOKIT_INLINE_LAMBDA { elbokit::ELBOKIT_LEVEL::stream(at, v); });
    else
      run([](T* at, Vec<T> v) ELBOKIT_INLINE_LAMBDA { store(at, v); });
    if (!direct_) narrow(result_.at(row, col), n);
  }

 private:
  void narrow(void* data, int n) const {
    if constexpr (sizeof(T) == 4) {
      auto* const to = static_cast<std::uint16_t*>(data);
      for (int i = 0; i < n; i += kLanes<float>) {
        const Vec<float> v = load(buffer_ + i);
        const auto bits = result_.element == Element::kBfloat16 ? to_bfloat16(v) : to_float16(v);
        const int count = n - i < kLanes<float> ? n - i : kLanes<float>;
        __builtin_memcpy(to + i, &bits, count * sizeof(std::uint16_t));
      }
    }
  }

  const Result& result_;
  bool direct_, stream_;
  alignas(kVectorBytes) T buffer_[kSpan];
};

}  // namespace elbokit::ELBOKIT_LEVEL
