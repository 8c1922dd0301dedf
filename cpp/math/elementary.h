// exp, expm1, exp2, log and log1p for every value type, without branches.
//
// The polynomials are minimax fits; tools/minimax.py prints them with the error that they leave.
// Largest errors in units in the last place (tests/test_elementary.py): 1.5 for exp and exp2, 3.5
// for float's log1p, 2.2 for the others. On a GPU float has the machine's own powers of two and
// reciprocals where the losses and mixtures need them; their errors are stated beside them.
#pragma once

#include <iterator>

#include "math/value.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class V>
ELBOKIT_INLINE V constant(Lane<V> value) {
  return value - V{};
}

// c + x (c1 + x (c2 + ...)).
template <class V, class T>
ELBOKIT_INLINE V horner(V, T c) {
  return constant<V>(c);
}

template <class V, class T, class... More>
ELBOKIT_INLINE V horner(V x, T c, More... more) {
  return horner(x, more...) * x + c;
}

template <class T>
struct Format;

template <>
struct Format<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr std::uint32_t bias = 127;
  static constexpr std::uint32_t sqrt_half = 0x3f3504f3u;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  // The bits of 2^(j/16).
  static constexpr std::uint32_t roots[16] = {0x3f800000, 0x3f85aac3, 0x3f8b95c2, 0x3f91c3d3,
                                              0x3f9837f0, 0x3f9ef532, 0x3fa5fed7, 0x3fad583f,
                                              0x3fb504f3, 0x3fbd08a4, 0x3fc5672a, 0x3fce248c,
                                              0x3fd744fd, 0x3fe0ccdf, 0x3feac0c7, 0x3ff5257d};
  static constexpr float ln2_high = 0.693359375f;
  static constexpr float ln2_low = -2.12194440e-4f;
  static constexpr float ln2 = 0.693147182f, ln2_rest = -1.90465421e-9f;
  static constexpr float exp_low = -104.0f, exp_normal = -87.33f, exp_high = 89.0f;
  static constexpr float exp2_zero = -126.0f;

  template <class V>  // (e^x - 1 - x) / x^2
  static ELBOKIT_INLINE V expm1(V x) {
    return horner(x, 0.500000005f, 0.166666668f, 0.0416663547f, 0.00833327305f, 0.00139410083f,
                  0.000199141698f);
  }

  template <class V>  // e^x, |x| <= ln(2) / 2
  static ELBOKIT_INLINE V exp(V x) {
    return horner(x, 1.0f, 1.0f, 0.499999934f, 0.166665206f, 0.041668388f, 0.00836871689f,
                  0.0013814599f);
  }

  template <class V>  // (1 + u) log(1 + u) / u in x = u - 1/2, 0 <= u <= 1
  static ELBOKIT_INLINE V log1p(V x) {
    return horner(x, 1.21639535f, 0.378139382f, -0.0896158342f, 0.0310840968f, -0.0127043893f,
                  0.00570875489f, -0.00321015968f, 0.00173867633f);
  }

  template <class V>  // (2^x - 1) / x
  static ELBOKIT_INLINE V exp2(V x) {
    return horner(x, 0.693147206f, 0.240226513f, 0.0555032778f, 0.00961800388f, 0.00134002723f,
                  0.000154763027f);
  }

  template <int Roots, class V>  // the same for |x| <= 1 / (2 Roots)
  static ELBOKIT_INLINE V exp2_rest(V x) {
    if constexpr (Roots == 16) return horner(x, 0.69314718f, 0.240234289f, 0.0555059503f);
    return horner(x, 0.693147172f, 0.240257634f, 0.0555114751f);
  }

  template <int Roots, class V>  // (e^x - 1) / x for |x| <= ln(2) / (2 Roots)
  static ELBOKIT_INLINE V exp_rest(V x) {
    if constexpr (Roots == 16) return horner(x, 1.0f, 0.500016161f, 0.166667185f);
    return horner(x, 1.0f, 0.500000013f, 0.166680261f, 0.0416604307f);
  }

  template <class V>  // (2 atanh(s) - 2 s) / s^3 in x = s^2
  static ELBOKIT_INLINE V atanh(V x) {
    return horner(x, 0.666667767f, 0.399774956f, 0.298730732f);
  }
};

template <>
struct Format<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr std::uint64_t bias = 1023;
  static constexpr std::uint64_t sqrt_half = 0x3fe6a09e667f3bcdull;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  // The bits of 2^(j/8).
  static constexpr std::uint64_t roots[8] = {
      0x3ff0000000000000, 0x3ff172b83c7d517b, 0x3ff306fe0a31b715, 0x3ff4bfdad5362a27,
      0x3ff6a09e667f3bcd, 0x3ff8ace5422aa0db, 0x3ffae89f995ad3ad, 0x3ffd5818dcfba487};
  static constexpr double ln2_high = 6.93147180369123816490e-01;
  static constexpr double ln2_low = 1.90821492927058770002e-10;
  static constexpr double exp_low = -746.0, exp_normal = -708.39, exp_high = 710.0;
  static constexpr double exp2_zero = -1022.0;

  template <class V>  // (e^x - 1 - x) / x^2
  static ELBOKIT_INLINE V expm1(V x) {
    return horner(x, 0.5, 0.166666666666666766, 0.0416666666666667014, 0.00833333333332161574,
                  0.00138888888888668295, 0.000198412698861587186, 0.000024801587360569571,
                  2.75572441817440845e-6, 2.75572427497864159e-7, 2.51090449506914658e-8,
                  2.09244460453700504e-9);
  }

  template <class V>  // e^x, |x| <= ln(2) / 2
  static ELBOKIT_INLINE V exp(V x) {
    return x * x * expm1(x) + x + 1.0;
  }

  template <class V>  // (2^x - 1) / x
  static ELBOKIT_INLINE V exp2(V x) {
    return horner(x, 0.693147180559945308, 0.240226506959101332, 0.0555041086648217417,
                  0.00961812910759332758, 0.00133335581463790518, 0.000154035304580860003,
                  0.0000152527338675205123, 1.32154348133790059e-6, 1.01780464713268039e-7,
                  7.07386083758058771e-9, 4.45738559675419023e-10);
  }

  template <int Roots, class V>  // the same for |x| <= 1/16
  static ELBOKIT_INLINE V exp2_rest(V x) {
    return horner(x, 0.693147180559945308, 0.240226506959115167, 0.055504108664825237,
                  0.00961812908517279274, 0.00133335581154011334, 0.000154045220612334982,
                  0.0000152537042770401355);
  }

  template <int Roots, class V>  // (e^x - 1) / x for |x| <= ln(2) / 16
  static ELBOKIT_INLINE V exp_rest(V x) {
    return horner(x, 1.0, 0.500000000000029618, 0.166666666666637242, 0.0416666665700735341,
                  0.00833333337112830548, 0.00138897806729877625, 0.000198405657331639803);
  }

  template <class V>  // (2 atanh(s) - 2 s) / s^3 in x = s^2
  static ELBOKIT_INLINE V atanh(V x) {
    return horner(x, 0.66666666666667349, 0.39999999999411091, 0.285714287432629665,
                  0.222221984759588482, 0.181835697411200491, 0.153139032156990251,
                  0.147975079955722681);
  }
};

// The larger and the smaller of the two; b if either is NaN.
template <class V>
ELBOKIT_INLINE V max(V a, V b) {
  return select(a > b, a, b);
}

template <class V>
ELBOKIT_INLINE V min(V a, V b) {
  return select(a < b, a, b);
}

template <class V>
ELBOKIT_INLINE V abs(V x) {
  return bit_cast<V>(bit_cast<Bits<V>>(x) & (~Bits<V>{} >> 1));
}

// The nearest integer, for |x| < 2^21.
template <class V>
ELBOKIT_INLINE V round(V x) {
  return (x + Format<Lane<V>>::round) - Format<Lane<V>>::round;
}

// 2^n for an integral n in the range of normal exponents.
template <class V>
ELBOKIT_INLINE V power_of_two(V n) {
  using F = Format<Lane<V>>;
  return bit_cast<V>((bit_cast<Bits<V>>(n + F::round) + F::bias) << F::mantissa_bits);
}

// How many roots 2^(j/n) one instruction looks up in a register: with them the exponential's
// polynomial is half as long. 0 where there is no such instruction.
#if defined(__AVX2__) && !defined(__CUDACC__)
template <class V>
inline constexpr int kRoots =
    sizeof(V) == kVectorBytes && kLanes<Lane<V>> >= 8 ? kLanes<Lane<V>> : 0;
#else
template <class V>
inline constexpr int kRoots = 0;
#endif

// The bits of 2^(j/n), less those of j that are shifted into the mantissa with the exponent.
template <class T, int Count>
struct Roots {
  static constexpr int kShift = Format<T>::mantissa_bits - (Count == 16 ? 4 : 3);
  static constexpr T round = Format<T>::round / Count;  // adding it rounds to a multiple of 1/n
  Bits<T> bits[Count] = {};

  constexpr Roots() {
    constexpr int kStep = std::size(Format<T>::roots) / Count;
    for (int j = 0; j < Count; ++j) bits[j] = Format<T>::roots[j * kStep] - (Bits<T>(j) << kShift);
  }
};

template <class V>
inline constexpr Roots<Lane<V>, kRoots<V>> kRootTable;

// x 2^n for an integral n; overflows to infinity and underflows through the subnormals to 0.
template <class V>
ELBOKIT_INLINE V scale(V x, V n) {
#if defined(__AVX512F__)
  // The maskz forms: GCC 12 warns of its own header's undefined operand in the plain ones.
  if constexpr (sizeof(V) == 64 && sizeof(Lane<V>) == 4)
    return bit_cast<V>(_mm512_maskz_scalef_ps(0xffff, bit_cast<__m512>(x), bit_cast<__m512>(n)));
  else if constexpr (sizeof(V) == 64)
    return bit_cast<V>(_mm512_maskz_scalef_pd(0xff, bit_cast<__m512d>(x), bit_cast<__m512d>(n)));
  else
#endif
  {
    const V half = round(n * Lane<V>(0.5));
    return x * power_of_two(half) * power_of_two(n - half);
  }
}

#if defined(__AVX2__)
// 2^x (1 + e) for a multiple x of 1/n, and 0 where `none`; `shifted` is x + Roots::round, which has
// n x in its low bits. No number on the way is subnormal: those are slow.
template <class V, class Mask>
ELBOKIT_INLINE V tabled_power(V shifted, V e, Mask none) {
  const Bits<V> bits = bit_cast<Bits<V>>(select(none, V{}, shifted));
  const V power = bit_cast<V>(lookup(kRootTable<V>.bits, bits) + (bits << kRootTable<V>.kShift));
  return select(none, V{}, e * power + power);
}
#endif

// x = n ln 2 + r with |r| <= ln(2) / 2, after Cody and Waite (1980); p = e^r - 1.
template <class V>
struct ReducedExp {
  V n, p;
};

template <class V>
ELBOKIT_INLINE ReducedExp<V> reduce_exp(V x, Lane<V> low) {
  using F = Format<Lane<V>>;
  constexpr Lane<V> log2_e = Lane<V>(1.4426950408889634074);
  x = min(constant<V>(F::exp_high), max(constant<V>(low), x));  // NaN passes
  const V n = round(x * log2_e);
  const V r = (x - n * F::ln2_high) - n * F::ln2_low;
  return {n, r + r * r * F::expm1(r)};
}

template <class V>
ELBOKIT_INLINE V exp(V x) {
  const ReducedExp<V> e = reduce_exp(x, Format<Lane<V>>::exp_low);
  return scale(e.p + Lane<V>(1), e.n);
}

template <class V>
ELBOKIT_INLINE V expm1(V x) {
  const ReducedExp<V> e = reduce_exp(x, Lane<V>(-80));  // far below where the result rounds to -1
  const V half = power_of_two(e.n - Lane<V>(1));        // 2^n may overflow where e^x does not
  return (e.p * half + (half - Lane<V>(0.5))) * Lane<V>(2);
}

#if defined(__CUDA_ARCH__)
// 2^x and 1 / x in one instruction of the GPU's special functions. The PTX ISA says that they are
// within 2 and 1 units in the last place of the correctly rounded result, so within 2.5 and 1.5 of
// the true one; a result below the normal numbers is 0.
ELBOKIT_INLINE float device_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
ELBOKIT_INLINE float device_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
#endif

// e^x for x <= 0, in fewer operations than exp: what would be less than a normal number is 0.
template <class V>
ELBOKIT_INLINE V exp_nonpositive(V x) {
  using F = Format<Lane<V>>;
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(V) == 4) {
    // e^x = 2^y e^r: y is x log2(e) rounded, and r what the rounding left out, less than 2^-17.
    // r is the difference of two numbers nearly equal, taken by fused products, so it is as good as
    // exact; 1 + r leaves out r^2 / 2. In all an error of 3 units at most: 2.5 of 2^y, half a unit
    // of rounding; 3.5 just below 1, since the units above it are twice as large.
    const float y = x * 1.44269504f;
    const float r = fmaf(-y, F::ln2_rest, fmaf(-y, F::ln2, x));
    const float power = device_exp2(y);
    return select(x < F::exp_normal, 0.0f, fmaf(power, r, power));
  }
#endif
  constexpr Lane<V> log2_e = Lane<V>(1.4426950408889634074);
  if constexpr (kRoots<V> > 0) {
    constexpr Lane<V> magic = kRootTable<V>.round;
    const V shifted = x * log2_e + magic, n = shifted - magic;
    const V r = (x - n * F::ln2_high) - n * F::ln2_low;
    return tabled_power(shifted, r * F::template exp_rest<kRoots<V>>(r), x < F::exp_normal);
  }
  const V shifted = x * log2_e + F::round;
  const V n = shifted - F::round;  // the nearest integer; it is in the low bits of `shifted` too
  const V power = F::exp((x - n * F::ln2_high) - n * F::ln2_low);
  const V scale = bit_cast<V>((bit_cast<Bits<V>>(shifted) + F::bias) << F::mantissa_bits);
  return select(x < F::exp_normal, V{}, power * scale);  // a product, for NaN to stay NaN
}

// 2^x for x <= 0, and exactly 0 for x < exp2_zero, -inf among them; that select also discards what
// the steps before it make of such an x.
template <class V>
ELBOKIT_INLINE V exp2_nonpositive(V x) {
  using F = Format<Lane<V>>;
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(V) == 4) return device_exp2(x);  // below 2^-126 it is 0 by itself
#endif
  if constexpr (kRoots<V> > 0) {
    constexpr Lane<V> magic = kRootTable<V>.round;
    const V shifted = x + magic, f = x - (shifted - magic);
    return tabled_power(shifted, f * F::template exp2_rest<kRoots<V>>(f), x < F::exp2_zero);
  }
  const V shifted = x + F::round;  // its low bits are the integer nearest to x
  const V f = x - (shifted - F::round);
  const V power = bit_cast<V>((bit_cast<Bits<V>>(shifted) + F::bias) << F::mantissa_bits);
  return select(x < F::exp2_zero, V{}, (f * F::exp2(f) + Lane<V>(1)) * power);
}

// a / b, for b and 1 / b normal. A GPU's division in float is a call with a slow path, which zeros
// take too; the reciprocal's 1.5 units in the last place, up to 3 of the quotient's, come on
// top of the product's rounding instead: 3.5 units at most.
template <class V>
ELBOKIT_INLINE V quotient(V a, V b) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(V) == 4) return a * device_reciprocal(b);
#endif
  return a / b;
}

// 2 atanh(s) = log((1 + s) / (1 - s)) for |s| <= 3 - 2 sqrt(2).
template <class V>
ELBOKIT_INLINE V twice_atanh(V s) {
  const V z = s * s;
  return s * z * Format<Lane<V>>::atanh(z) + (s + s);
}

// log x for a positive, normal, finite x.
template <class V>
ELBOKIT_INLINE V log(V x) {
  using F = Format<Lane<V>>;
  // x = 2^e m with m in [sqrt(1/2), sqrt(2)).
  const Bits<V> u = bit_cast<Bits<V>>(x) - F::sqrt_half + (F::bias << F::mantissa_bits);
  const Bits<V> exponent = (u >> F::mantissa_bits) - F::bias;
  const Bits<V> mantissa = (u & ((decltype(F::bias)(1) << F::mantissa_bits) - 1)) + F::sqrt_half;
  const Bits<V> magic = bit_cast<Bits<V>>(constant<V>(F::round));
  const V e = bit_cast<V>(exponent + magic) - F::round;
  const V f = bit_cast<V>(mantissa) - Lane<V>(1);
  return e * F::ln2_high + (twice_atanh(quotient(f, f + Lane<V>(2))) + e * F::ln2_low);
}

template <class V>
struct Logistic {
  V share, log;  // u / (1 + u) and log(1 + u)
};

// u / (1 + u) for u in [0, 1]. With the rounding of 1 + u, 3.75 units on a GPU in float.
template <class V>
ELBOKIT_INLINE V logistic_share(V u) {
  return quotient(u, u + Lane<V>(1));
}

// For u in [0, 1]. float has a polynomial that makes use of the quotient; for double the argument
// is halved above sqrt(2) - 1, so that one short series serves the whole interval.
template <class V>
ELBOKIT_INLINE Logistic<V> logistic(V u) {
  const V share = logistic_share(u);
  if constexpr (sizeof(Lane<V>) == 4) {
    return {share, share * Format<float>::log1p(u - 0.5f)};
  } else {
    const auto large = u > constant<V>(Lane<V>(0.41421356237309504880));
    const V numerator = select(large, u - Lane<V>(1), u);
    const V denominator = select(large, u + Lane<V>(3), u + Lane<V>(2));
    const V shift = select(large, constant<V>(Lane<V>(0.69314718055994530942)), V{});
    return {share, shift + twice_atanh(numerator / denominator)};
  }
}

// log(1 + u) for u in [0, 1].
template <class V>
ELBOKIT_INLINE V log1p_unit(V u) {
  return logistic(u).log;
}

// log(1 + x) for x >= 0, finite.
template <class V>
ELBOKIT_INLINE V log1p(V x) {
  const V one = constant<V>(1);
  const auto large = x > one;  // false for NaN, which the first of the two passes on
  return select(large, log(select(large, x, one) + one), log1p_unit(select(large, one, x)));
}

}  // namespace elbokit::ELBOKIT_LEVEL
