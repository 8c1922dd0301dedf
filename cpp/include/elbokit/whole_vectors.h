// The size of scratch that kernels write in whole vectors.
#pragma once

#include <cstdint>

namespace elbokit {

// So many elements fill whole vectors at every CPU level.
constexpr std::int64_t in_whole_vectors(std::int64_t count) { return (count + 15) / 16 * 16; }

}  // namespace elbokit
