// The CPU vector type, over the compiler's vector extensions: one width per CPU level.
#pragma once

#include "math/value.h"

#include <cstddef>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace elbokit::ELBOKIT_LEVEL {

#if defined(__AVX512F__) || defined(ELBOKIT_SPLIT_VECTORS)
inline constexpr int kVectorBytes = 64;
inline constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kVectorRegisters = 16;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kVectorRegisters = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Vec = typename VectorOf<T>::type;

template <>
struct Value<Vec<float>> {
  using Lane = float;
  using Bits = Vec<std::uint32_t>;
  static constexpr int lanes = kVectorBytes / 4;
};

template <>
struct Value<Vec<double>> {
  using Lane = double;
  using Bits = Vec<std::uint64_t>;
  static constexpr int lanes = kVectorBytes / 8;
};

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// Calls f for 0, 1, ..., N - 1 as constants: loops whose inner bounds depend on the outer index
// stay in registers.
template <class F, int... I>
ELBOKIT_INLINE void unrolled(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}

template <int N, class F>
ELBOKIT_INLINE void unrolled(F&& f) {
  unrolled(std::make_integer_sequence<int, N>{}, f);
}

template <class Mask, class V>
ELBOKIT_INLINE V select(Mask mask, V a, V b) {
  return mask ? a : b;
}

// max() and min() of math/elementary.h where they are one instruction: GCC makes two of the select.
#if defined(__AVX512F__)
ELBOKIT_INLINE Vec<float> max(Vec<float> a, Vec<float> b) {
  return bit_cast<Vec<float>>(
      _mm512_maskz_max_ps(0xffff, bit_cast<__m512>(a), bit_cast<__m512>(b)));
}

ELBOKIT_INLINE Vec<double> max(Vec<double> a, Vec<double> b) {
  return bit_cast<Vec<double>>(
      _mm512_maskz_max_pd(0xff, bit_cast<__m512d>(a), bit_cast<__m512d>(b)));
}

ELBOKIT_INLINE Vec<float> min(Vec<float> a, Vec<float> b) {
  return bit_cast<Vec<float>>(
      _mm512_maskz_min_ps(0xffff, bit_cast<__m512>(a), bit_cast<__m512>(b)));
}

ELBOKIT_INLINE Vec<double> min(Vec<double> a, Vec<double> b) {
  return bit_cast<Vec<double>>(
      _mm512_maskz_min_pd(0xff, bit_cast<__m512d>(a), bit_cast<__m512d>(b)));
}
#elif defined(__AVX2__)
ELBOKIT_INLINE Vec<float> max(Vec<float> a, Vec<float> b) {
  return bit_cast<Vec<float>>(_mm256_max_ps(bit_cast<__m256>(a), bit_cast<__m256>(b)));
}

ELBOKIT_INLINE Vec<double> max(Vec<double> a, Vec<double> b) {
  return bit_cast<Vec<double>>(_mm256_max_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b)));
}

ELBOKIT_INLINE Vec<float> min(Vec<float> a, Vec<float> b) {
  return bit_cast<Vec<float>>(_mm256_min_ps(bit_cast<__m256>(a), bit_cast<__m256>(b)));
}

ELBOKIT_INLINE Vec<double> min(Vec<double> a, Vec<double> b) {
  return bit_cast<Vec<double>>(_mm256_min_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b)));
}
#endif

template <class T>
ELBOKIT_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // the compiler turns this into one broadcast, and keeps NaN and -0
}

template <class T>
ELBOKIT_INLINE Vec<T> load(const T* from) {
  Vec<T> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <class T>
ELBOKIT_INLINE void store(T* to, Vec<T> v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

// The first `count` lanes, 0 <= count <= lanes; the others are 0. Reads nothing past them.
template <class T>
ELBOKIT_INLINE Vec<T> load_partial(const T* from, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return bit_cast<Vec<T>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from));
  else
    return bit_cast<Vec<T>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), from));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return bit_cast<Vec<T>>(
        _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane)));
  } else {
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return bit_cast<Vec<T>>(
        _mm256_maskload_pd(from, _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane)));
  }
#else
  Vec<T> v{};
  for (int i = 0; i < count; ++i) v[i] = from[i];
  return v;
#endif
}

// Writes past the caches, for outputs that exceed them: the lines need not be read first. `to` is
// aligned to the vector; stream_fence() comes before another thread may read.
template <class T>
ELBOKIT_INLINE void stream(T* to, Vec<T> v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(reinterpret_cast<float*>(to), bit_cast<__m512>(v));
#elif defined(__AVX2__)
  _mm256_stream_ps(reinterpret_cast<float*>(to), bit_cast<__m256>(v));
#elif defined(__x86_64__) && !defined(ELBOKIT_SPLIT_VECTORS)
  _mm_stream_ps(reinterpret_cast<float*>(to), bit_cast<__m128>(v));
#else
  store(to, v);
#endif
}

ELBOKIT_INLINE void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Keeps a loaded vector in its register. Without it GCC folds the load into every use and
// reads the same memory once per FMA.
template <class V>
ELBOKIT_INLINE void pin(V& v) {
#if defined(ELBOKIT_SPLIT_VECTORS)
  asm("" : "+m"(v));
#elif defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#else
  asm("" : "+w"(v));
#endif
}

// Keeps an object in memory, where it would else take registers from the loop that follows.
template <class Object>
ELBOKIT_INLINE void put_by(Object& object) {
  asm volatile("" : : "r"(&object) : "memory");
}

// Lane i of the result is table[index[i] mod n] for a table of as many values as a vector has
// lanes, eight at least.
#if defined(__AVX512F__)
ELBOKIT_INLINE Vec<std::uint32_t> lookup(const std::uint32_t (&table)[16],
                                         Vec<std::uint32_t> index) {
  __m512i lanes;
  __builtin_memcpy(&lanes, table, sizeof(lanes));
  return bit_cast<Vec<std::uint32_t>>(
      _mm512_maskz_permutexvar_epi32(0xffff, bit_cast<__m512i>(index), lanes));
}

ELBOKIT_INLINE Vec<std::uint64_t> lookup(const std::uint64_t (&table)[8],
                                         Vec<std::uint64_t> index) {
  __m512i lanes;
  __builtin_memcpy(&lanes, table, sizeof(lanes));
  return bit_cast<Vec<std::uint64_t>>(
      _mm512_maskz_permutexvar_epi64(0xff, bit_cast<__m512i>(index), lanes));
}
#elif defined(__AVX2__)
ELBOKIT_INLINE Vec<std::uint32_t> lookup(const std::uint32_t (&table)[8],
                                         Vec<std::uint32_t> index) {
  __m256i lanes;
  __builtin_memcpy(&lanes, table, sizeof(lanes));
  return bit_cast<Vec<std::uint32_t>>(_mm256_permutevar8x32_epi32(lanes, bit_cast<__m256i>(index)));
}
#endif

// Lane i of the result is lane f(i) of a and b, one behind the other. f is a lambda without state:
// the lane numbers are constants.
template <class T, int... I, class F>
ELBOKIT_INLINE Vec<T> shuffle(std::integer_sequence<int, I...>, Vec<T> a, Vec<T> b, F f) {
  return __builtin_shufflevector(a, b, f(I)...);
}

template <class T, class F>
ELBOKIT_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b, F f) {
  return shuffle<T>(std::make_integer_sequence<int, kLanes<T>>{}, a, b, f);
}

// The first `count` lanes, fewer than 2 Half: Half of them at once, then half of that, ...
// (AVX2's masked store takes 40 operations on some processors.)
template <class T, int Half>
ELBOKIT_INLINE void store_leading(T* to, Vec<T> v, int count) {
  if (count & Half) {
    __builtin_memcpy(to, &v, Half * sizeof(T));
    to += Half;
    v = shuffle<T>(v, v, [](int lane) { return (lane + Half) % kLanes<T>; });
  }
  if constexpr (Half > 1) store_leading<T, Half / 2>(to, v, count);
}

// Writes the first `count` < lanes lanes and nothing past them.
template <class T>
ELBOKIT_INLINE void store_partial(T* to, Vec<T> v, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), bit_cast<__m512>(v));
  else
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1), bit_cast<__m512d>(v));
#else
  store_leading<T, kLanes<T> / 2>(to, v, count);
#endif
}

// Adds to each lane those that differ from it in the bits of Half, Half / 2, ..., 1.
template <class T, int Half>
ELBOKIT_INLINE void fold_lanes(Vec<T>& v) {
  v += shuffle<T>(v, v, [](int lane) { return lane ^ Half; });
  if constexpr (Half > 1) fold_lanes<T, Half / 2>(v);
}

// Sum and maximum of the lanes in a fixed order: halves are joined until one lane is left.
template <class T>
ELBOKIT_INLINE T reduce_add(Vec<T> v) {
  fold_lanes<T, kLanes<T> / 2>(v);
  return v[0];
}

// The same, added in double.
ELBOKIT_INLINE double reduce_add_wide(Vec<double> v) { return reduce_add<double>(v); }
ELBOKIT_INLINE double reduce_add_wide(Vec<float> v) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  Half half[2];
  __builtin_memcpy(half, &v, sizeof(v));
  return reduce_add<double>(__builtin_convertvector(half[0], Vec<double>) +
                            __builtin_convertvector(half[1], Vec<double>));
}

template <class T, int Half = kLanes<T> / 2>
ELBOKIT_INLINE T reduce_max(Vec<T> v) {
  const Vec<T> other = shuffle<T>(v, v, [](int lane) { return lane ^ Half; });
  v = v > other ? v : other;
  if constexpr (Half > 1)
    return reduce_max<T, Half / 2>(v);
  else
    return v[0];
}

// Sums of the lanes of N vectors at once, N a power of two: neighbours are joined while their
// lanes are folded, a third of the work of N single sums.
template <class T, int N, int Half = kLanes<T> / 2>
ELBOKIT_INLINE void reduce_add_all(Vec<T> (&v)[N], T* out) {
  static_assert((N & (N - 1)) == 0, "a power of two");
  if constexpr (N > kLanes<T>) {
    for (int half = 0; half < 2; ++half)
      reduce_add_all(*reinterpret_cast<Vec<T>(*)[N / 2]>(v + half * (N / 2)), out + half * (N / 2));
  } else if constexpr (N > 1) {
    Vec<T> joined[N / 2];
    for (int i = 0; i < N / 2; ++i) {
      constexpr int n = kLanes<T>;
      const Vec<T> a = v[i], b = v[i + N / 2];
      joined[i] =
          shuffle<T>(a, b, [](int lane) { return lane & Half ? n + lane : lane; }) +
          shuffle<T>(a, b, [](int lane) { return lane & Half ? n + (lane ^ Half) : lane ^ Half; });
    }
    if constexpr (Half > 1) {
      reduce_add_all<T, N / 2, Half / 2>(joined, out);
    } else {
      store(out, joined[0]);
    }
  } else {
    // Fewer vectors than lanes: every 2 Half lanes hold parts of one sum.
    Vec<T> sum = v[0];
    fold_lanes<T, Half>(sum);
    for (int i = 0; i < kLanes<T> / (2 * Half); ++i) out[i] = sum[i * 2 * Half];
  }
}

// Bit i tells whether lane i of a is greater than that of b.
template <class T>
ELBOKIT_INLINE unsigned greater(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_cmp_ps_mask(bit_cast<__m512>(a), bit_cast<__m512>(b), _CMP_GT_OQ);
  else
    return _mm512_cmp_pd_mask(bit_cast<__m512d>(a), bit_cast<__m512d>(b), _CMP_GT_OQ);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return static_cast<unsigned>(_mm256_movemask_ps(bit_cast<__m256>(a > b)));
  else
    return static_cast<unsigned>(_mm256_movemask_pd(bit_cast<__m256d>(a > b)));
#else
  unsigned bits = 0;
  for (int i = 0; i < kLanes<T>; ++i) bits |= static_cast<unsigned>(a[i] > b[i]) << i;
  return bits;
#endif
}

template <class T>
ELBOKIT_INLINE Vec<T> sqrt(Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return bit_cast<Vec<T>>(_mm512_maskz_sqrt_ps(0xffff, bit_cast<__m512>(v)));
  else
    return bit_cast<Vec<T>>(_mm512_maskz_sqrt_pd(0xff, bit_cast<__m512d>(v)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return bit_cast<Vec<T>>(_mm256_sqrt_ps(bit_cast<__m256>(v)));
  else
    return bit_cast<Vec<T>>(_mm256_sqrt_pd(bit_cast<__m256d>(v)));
#else
  for (int i = 0; i < kLanes<T>; ++i)
    v[i] = sizeof(T) == 4 ? __builtin_sqrtf(static_cast<float>(v[i])) : __builtin_sqrt(v[i]);
  return v;
#endif
}

// Rows to columns of a lanes x lanes tile (Eklundh 1972): exchange blocks of 1, 2, 4, ... lanes.
template <class T, int Block = 1>
ELBOKIT_INLINE void transpose(Vec<T> (&row)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  for (int i = 0; i < n; ++i) {
    if (i & Block) continue;
    const Vec<T> a = row[i], b = row[i + Block];
    row[i] = shuffle<T>(a, b, [](int lane) { return lane & Block ? n + lane - Block : lane; });
    row[i + Block] =
        shuffle<T>(a, b, [](int lane) { return lane & Block ? n + lane : lane + Block; });
  }
  if constexpr (2 * Block < n) transpose<T, 2 * Block>(row);
}

}  // namespace elbokit::ELBOKIT_LEVEL
