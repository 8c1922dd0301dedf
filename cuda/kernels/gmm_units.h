// Constants of the units in which the mixtures' kernels compute: log2, as in elbokit/gmm.h.
#pragma once

namespace elbokit::cuda {

inline constexpr double kLog2E = 1.44269504088896340736;
inline constexpr double kLn2 = 0.69314718055994530942;
inline constexpr double kLog2Pi = 1.83787706640934548356;  // natural logarithm of 2 pi

// Distances are scaled so that logits come out in log2 units: sqrt(log2(e) / 2).
inline constexpr double kScale = 0.84932180028801904272;

}  // namespace elbokit::cuda
