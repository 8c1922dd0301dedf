// Products on the matrix units: one instruction of a warp, in bfloat16, float16 or TF32, with float
// sums.
#pragma once

#include "common/elements.h"

namespace elbokit::cuda {

// The least compute capability that has them.
inline constexpr int kTensorCoreCapability = 80;

// Two neighbouring elements of a row in a register.
template <class S>
ELBOKIT_DEVICE std::uint32_t packed(float low, float high) {
  return narrowed<S>(low).bits | std::uint32_t{narrowed<S>(high).bits} << 16;
}

// Registers of a lane: all that it has of one factor, or of both parts of one.
using Fragment = Pack<std::uint32_t, 4>;

// sum += a b for a (16, 16) and b (16, 8). With g = lane / 4 and t = lane % 4, a lane has (PTX ISA,
// "Matrix fragments for mma.m16n8k16"):
//   a    columns 2 t, 2 t + 1 of rows g and g + 8, then columns 2 t + 8, 2 t + 9 of the same
//   b    rows 2 t, 2 t + 1 of column g, then rows 2 t + 8, 2 t + 9
//   sum  columns 2 t, 2 t + 1 of row g, then of row g + 8
// The units align what they add up to the largest exponent, and cut off what lies beyond; some add
// up half of the products first.
// Volatile, since all lanes of the warp have to come to it: it must not move below a condition.
template <class S>
ELBOKIT_DEVICE void add_product(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define ELBOKIT_ADD_PRODUCT(type)                                                \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type            \
               ".f32 "                                                           \
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (std::is_same_v<S, BFloat16>)
    ELBOKIT_ADD_PRODUCT("bf16");
  else
    ELBOKIT_ADD_PRODUCT("f16");
#undef ELBOKIT_ADD_PRODUCT
#elif defined(__CUDACC__)
  __trap();  // the host does not choose such a kernel for this device
#else
  struct Operands {
    std::uint32_t a[4], b[2];
  };
  const Operands mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const unsigned char* const slots = emulation::exchange(&mine, sizeof(mine), "add_product");
  const auto half = [](std::uint32_t word, int index) {
    return widened<double>(S{static_cast<std::uint16_t>(word >> (16 * index))});
  };
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int i = 0; i < 4; ++i)
    sum[i] = emulation::unit_sum<16>(sum[i], [&](int k) {
      const auto of_a = shown_by<Operands>(slots, g * 4 + k % 8 / 2);
      const auto of_b = shown_by<Operands>(slots, (2 * t + i % 2) * 4 + k % 8 / 2);
      return half(of_a.a[i / 2 + 2 * (k / 8)], k % 2) * half(of_b.b[k / 8], k % 2);
    });
#endif
}

// A float as the sum of two TF32, of 11 bits each. The units cut off the last bits of the second,
// whose sign is as often the one as the other. NaN may show in the second alone.
struct Parts {
  std::uint32_t high, low;
};
ELBOKIT_DEVICE Parts split_tf32(float value) {
  const std::uint32_t high = (math::bit_cast<std::uint32_t>(value) + 0x1000u) & 0xffffe000u;
  return {high, math::bit_cast<std::uint32_t>(value - math::bit_cast<float>(high))};
}
// Finite values whose first part would be rounded to infinity, as the largest one that is not.
ELBOKIT_DEVICE float tf32_range(float value) {
  constexpr float largest = 0x1.ffcp127f;
  if (value > largest && value <= __FLT_MAX__) return largest;
  return value < -largest && value >= -__FLT_MAX__ ? -largest : value;
}

// sum += a b for a (16, 8) and b (8, 8) in TF32. With g = lane / 4 and t = lane % 4, a lane has
// (PTX ISA, "Matrix fragments for mma.m16n8k8"):
//   a    column t of rows g and g + 8, then column t + 4 of the same
//   b    row t of column g, then row t + 4
//   sum  as above
ELBOKIT_DEVICE void add_product(float (&sum)[4], const Fragment& a, std::uint32_t b0,
                                std::uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b0), "r"(b1));
#elif defined(__CUDACC__)
  __trap();  // the host does not choose such a kernel for this device
#else
  struct Operands {
    std::uint32_t a[4], b[2];
  };
  const Operands mine{{a.at[0], a.at[1], a.at[2], a.at[3]}, {b0, b1}};
  const unsigned char* const slots = emulation::exchange(&mine, sizeof(mine), "add_product");
  const auto cut = [](std::uint32_t word) {
    return static_cast<double>(math::bit_cast<float>(word & 0xffffe000u));
  };
  const int g = lane_index() / 4, t = lane_index() % 4;
  for (int i = 0; i < 4; ++i)
    sum[i] = emulation::unit_sum<8>(sum[i], [&](int k) {
      return cut(shown_by<Operands>(slots, g * 4 + k % 4).a[i / 2 + 2 * (k / 4)]) *
             cut(shown_by<Operands>(slots, (2 * t + i % 2) * 4 + k % 4).b[k / 4]);
    });
#endif
}

}  // namespace elbokit::cuda
