// Vectors of float from and to elements of fewer bits.
#pragma once

#include "simd/vec.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class U>
struct NarrowOf {
  typedef U type __attribute__((vector_size(kLanes<float> * sizeof(U))));
};

template <class U>
using Narrow = typename NarrowOf<U>::type;

template <class U>
ELBOKIT_INLINE Narrow<U> load_narrow(const U* from) {
  Narrow<U> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <class U>
ELBOKIT_INLINE Vec<std::uint32_t> widen(Narrow<U> v) {
  return __builtin_convertvector(v, Vec<std::uint32_t>);
}

ELBOKIT_INLINE Vec<float> from_uint8(Narrow<std::uint8_t> v) {
  return __builtin_convertvector(__builtin_convertvector(v, Vec<std::int32_t>), Vec<float>);
}

ELBOKIT_INLINE Vec<float> from_bfloat16(Narrow<std::uint16_t> v) {
  return bit_cast<Vec<float>>(widen<std::uint16_t>(v) << 16);
}

// To the nearest, ties to even; NaN stays NaN.
ELBOKIT_INLINE Narrow<std::uint16_t> to_bfloat16(Vec<float> v) {
  using Word = Vec<std::uint32_t>;
  const Word bits = bit_cast<Word>(v);
  const Word rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Word nan = (bits >> 16) | 0x40u;
  return __builtin_convertvector(select((bits << 1) > 0xff000000u, nan, rounded),
                                 Narrow<std::uint16_t>);
}

ELBOKIT_INLINE Vec<float> from_float16(Narrow<std::uint16_t> v) {
#if defined(__AVX512F__)
  return bit_cast<Vec<float>>(_mm512_maskz_cvtph_ps(0xffff, bit_cast<__m256i>(v)));
#elif defined(__F16C__)
  return bit_cast<Vec<float>>(_mm256_cvtph_ps(bit_cast<__m128i>(v)));
#else
  // The bits of a half, moved to a float's places, are it times 2^-112, subnormals included.
  using Word = Vec<std::uint32_t>;
  const Word h = widen<std::uint16_t>(v), sign = (h & 0x8000u) << 16, size = (h & 0x7fffu) << 13;
  const Word finite = bit_cast<Word>(bit_cast<Vec<float>>(size) * 0x1p112f);
  return bit_cast<Vec<float>>(sign | select(size >= (0x7c00u << 13), size | 0x7f800000u, finite));
#endif
}

// To the nearest, ties to even; overflows to infinity, NaN stays NaN.
ELBOKIT_INLINE Narrow<std::uint16_t> to_float16(Vec<float> v) {
  using Half = Narrow<std::uint16_t>;
#if defined(__AVX512F__)
  return bit_cast<Half>(
      _mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return bit_cast<Half>(_mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
#else
  using Word = Vec<std::uint32_t>;
  const Word bits = bit_cast<Word>(v), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  // Adding 0.5 shifts the digits of a half's subnormal to the lowest bits, rounded.
  const Word small = bit_cast<Word>(bit_cast<Vec<float>>(size) + 0.5f) - 0x3f000000u;
  const Word normal = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
  const Word large = select(size > 0x7f800000u, Word{} + 0x7e00u, Word{} + 0x7c00u);
  const Word half = select(size < 0x38800000u, small, select(size < 0x47800000u, normal, large));
  return __builtin_convertvector(half | sign, Half);
#endif
}

}  // namespace elbokit::ELBOKIT_LEVEL
