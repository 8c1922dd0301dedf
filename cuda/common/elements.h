// Elements as they lie in memory, and reading and writing several of them at once.
#pragma once

#include <type_traits>

#include "common/simt.h"
#include "elbokit/matrix.h"

namespace elbokit::cuda {

struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

// One element in the type that is computed in.
template <class T, class S>
ELBOKIT_DEVICE T widened(S element) {
  return static_cast<T>(element);
}
template <class T>
ELBOKIT_DEVICE T widened(BFloat16 element) {
  return static_cast<T>(math::bit_cast<float>(std::uint32_t{element.bits} << 16));
}
template <class T>
ELBOKIT_DEVICE T widened(Float16 element) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(element.bits));
  return static_cast<T>(value);
#else
  // The bits of a half, moved to a float's places, are it times 2^-112, subnormals included.
  const std::uint32_t sign = (element.bits & 0x8000u) << 16, size = (element.bits & 0x7fffu) << 13;
  const float finite = math::bit_cast<float>(size) * 0x1p112f;
  const std::uint32_t bits =
      size >= (0x7c00u << 13) ? size | 0x7f800000u : math::bit_cast<std::uint32_t>(finite);
  return static_cast<T>(math::bit_cast<float>(bits | sign));
#endif
}

// Rounded to the nearest, ties to even; NaN stays NaN.
ELBOKIT_DEVICE BFloat16 to_bfloat16(float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  BFloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const auto bits = math::bit_cast<std::uint32_t>(value);
  if ((bits << 1) > 0xff000000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}

ELBOKIT_DEVICE Float16 to_float16(float value) {
#ifdef __CUDA_ARCH__
  Float16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const auto bits = math::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
  std::uint32_t half;
  if (size > 0x7f800000u)
    half = 0x7e00u;
  else if (size >= 0x47800000u)
    half = 0x7c00u;
  else if (size <
           0x38800000u)  // adding 0.5 shifts a subnormal's digits to the lowest bits, rounded
    half = math::bit_cast<std::uint32_t>(math::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
  else
    half = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
  return {static_cast<std::uint16_t>(half | sign)};
#endif
}

template <class S, class T>
ELBOKIT_DEVICE S narrowed(T value) {
  if constexpr (std::is_same_v<S, BFloat16>)
    return to_bfloat16(static_cast<float>(value));
  else if constexpr (std::is_same_v<S, Float16>)
    return to_float16(static_cast<float>(value));
  else
    return static_cast<S>(value);
}

// N elements that one thread reads or writes at once, in accesses of up to 16 bytes.
template <class S, int N>
struct alignas(sizeof(S) * N < 16 ? sizeof(S) * N : 16) Pack {
  S at[N];
};

// An operand of any element type and stride, one element at a time; 1 everywhere if it is null.
template <class T>
struct Reader {
  Operand operand;
  T scale;

  ELBOKIT_DEVICE T operator()(std::int64_t row, std::int64_t col) const {
    if (!operand.data) return T(1);
    const std::int64_t i = row * operand.row_stride + col * operand.col_stride;
    switch (operand.element) {
      case Element::kFloat32:
        return scale * static_cast<T>(static_cast<const float*>(operand.data)[i]);
      case Element::kFloat64:
        return scale * static_cast<T>(static_cast<const double*>(operand.data)[i]);
      case Element::kBfloat16:
        return scale * widened<T>(static_cast<const BFloat16*>(operand.data)[i]);
      case Element::kFloat16:
        return scale * widened<T>(static_cast<const Float16*>(operand.data)[i]);
      default:
        return scale * static_cast<T>(static_cast<const std::uint8_t*>(operand.data)[i]);
    }
  }
};

// A result of any element type, one element at a time; nothing if it is null.
template <class T>
ELBOKIT_DEVICE void write(const Result& result, std::int64_t row, std::int64_t col, T value) {
  if (!result.data) return;
  const std::int64_t i = row * result.row_stride + col;
  switch (result.element) {
    case Element::kFloat32:
      static_cast<float*>(result.data)[i] = static_cast<float>(value);
      return;
    case Element::kFloat64:
      static_cast<double*>(result.data)[i] = static_cast<double>(value);
      return;
    case Element::kBfloat16:
      static_cast<BFloat16*>(result.data)[i] = to_bfloat16(static_cast<float>(value));
      return;
    case Element::kFloat16:
      static_cast<Float16*>(result.data)[i] = to_float16(static_cast<float>(value));
      return;
    default:
      return;
  }
}

// Calls f(S{}) with the type of the element.
template <class F>
auto with_element(Element element, F&& f) {
  switch (element) {
    case Element::kFloat64:
      return f(double{});
    case Element::kBfloat16:
      return f(BFloat16{});
    case Element::kFloat16:
      return f(Float16{});
    case Element::kUint8:
      return f(std::uint8_t{});
    default:
      return f(float{});
  }
}

}  // namespace elbokit::cuda
