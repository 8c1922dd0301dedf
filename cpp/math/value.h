// The value types that the formulas of cpp/math are written for: a scalar, a CPU vector, a CUDA
// lane. Each gives the same few primitives; everything else is arithmetic operators.
#pragma once

#ifdef __CUDACC__
#define ELBOKIT_INLINE __host__ __device__ __forceinline__
#else
#define ELBOKIT_INLINE inline __attribute__((always_inline))
#endif

// For lambdas that must be expanded where they are called, so that constant arguments fold.
#define ELBOKIT_INLINE_LAMBDA __attribute__((always_inline))

// Code compiled for a CPU level lives in that level's namespace, so that no object file can
// borrow another level's instructions through a shared inline function.
#ifndef ELBOKIT_LEVEL
#define ELBOKIT_LEVEL portable
#endif

#include <cstdint>

namespace elbokit::ELBOKIT_LEVEL {

// Lane: the arithmetic type. Bits: an unsigned integer (vector) of the same width.
template <class V>
struct Value;

template <>
struct Value<float> {
  using Lane = float;
  using Bits = std::uint32_t;
  static constexpr int lanes = 1;
};

template <>
struct Value<double> {
  using Lane = double;
  using Bits = std::uint64_t;
  static constexpr int lanes = 1;
};

template <class V>
using Lane = typename Value<V>::Lane;

template <class V>
using Bits = typename Value<V>::Bits;

ELBOKIT_INLINE float select(bool mask, float a, float b) { return mask ? a : b; }
ELBOKIT_INLINE double select(bool mask, double a, double b) { return mask ? a : b; }

template <class To, class From>
ELBOKIT_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace elbokit::ELBOKIT_LEVEL

#ifndef __CUDACC__
#include "simd/vec.h"
#endif
