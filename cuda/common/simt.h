// What kernels need of the machine they run on: a GPU, or its model on the CPU (cuda/emulation).
// Blocks are whole warps, and every lane of a warp takes part in a warp operation.
#pragma once

#include "math/value.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define ELBOKIT_DEVICE __device__ __forceinline__
#else
#include "emulation/simt.h"
#define ELBOKIT_DEVICE inline __attribute__((always_inline))
#endif

namespace elbokit::cuda {

namespace math = elbokit::ELBOKIT_LEVEL;

inline constexpr int kWarp = 32;

ELBOKIT_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
ELBOKIT_DEVICE int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }

#ifdef __CUDACC__

// The block's shared memory, aligned to 16 bytes.
template <class T>
ELBOKIT_DEVICE T* shared_memory() {
  extern __shared__ uint4 elbokit_shared[];
  return reinterpret_cast<T*>(elbokit_shared);
}

ELBOKIT_DEVICE void block_barrier() { __syncthreads(); }
ELBOKIT_DEVICE void warp_barrier() { __syncwarp(); }

// The value of lane (own lane ^ mask).
template <class T>
ELBOKIT_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// The value of that lane.
template <class T>
ELBOKIT_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

// Bit i: the predicate of lane i.
ELBOKIT_DEVICE unsigned ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }

// Integers alone: their sum does not depend on the order. The last returns what was there before.
ELBOKIT_DEVICE void atomic_add(unsigned long long* to, unsigned long long value) {
  atomicAdd(to, value);
}
ELBOKIT_DEVICE void atomic_or(unsigned* to, unsigned value) { atomicOr(to, value); }
ELBOKIT_DEVICE unsigned atomic_next(unsigned* counter) { return atomicAdd(counter, 1u); }

// The number of bits that are set, and the place of the lowest one; there must be one.
ELBOKIT_DEVICE int count_bits(unsigned bits) { return __popc(bits); }
ELBOKIT_DEVICE int count_bits(std::uint64_t bits) { return __popcll(bits); }
ELBOKIT_DEVICE int lowest_bit(unsigned bits) { return __ffs(static_cast<int>(bits)) - 1; }
ELBOKIT_DEVICE int lowest_bit(std::uint64_t bits) {
  return __ffsll(static_cast<long long>(bits)) - 1;
}

#else

template <class T>
ELBOKIT_DEVICE T* shared_memory() {
  return static_cast<T*>(emulation::shared_memory());
}

ELBOKIT_DEVICE void block_barrier() { emulation::block_barrier(); }
ELBOKIT_DEVICE void warp_barrier() { emulation::exchange("", 0, "warp_barrier"); }

template <class T>
ELBOKIT_DEVICE T shown_by(const unsigned char* slots, int lane) {
  T value;
  __builtin_memcpy(&value, slots + lane * emulation::kSlot, sizeof(T));
  return value;
}

template <class T>
ELBOKIT_DEVICE T shuffle_xor(T value, int mask) {
  return shown_by<T>(emulation::exchange(&value, sizeof(T), "shuffle_xor"), lane_index() ^ mask);
}

template <class T>
ELBOKIT_DEVICE T shuffle(T value, int lane) {
  return shown_by<T>(emulation::exchange(&value, sizeof(T), "shuffle"), lane);
}

ELBOKIT_DEVICE unsigned ballot(bool predicate) {
  const unsigned char* const slots = emulation::exchange(&predicate, sizeof(bool), "ballot");
  unsigned bits = 0;
  for (int lane = 0; lane < kWarp; ++lane)
    bits |= static_cast<unsigned>(shown_by<bool>(slots, lane)) << lane;
  return bits;
}

ELBOKIT_DEVICE void atomic_add(unsigned long long* to, unsigned long long value) { *to += value; }
ELBOKIT_DEVICE void atomic_or(unsigned* to, unsigned value) { *to |= value; }
ELBOKIT_DEVICE unsigned atomic_next(unsigned* counter) { return (*counter)++; }

ELBOKIT_DEVICE int count_bits(unsigned bits) { return __builtin_popcount(bits); }
ELBOKIT_DEVICE int count_bits(std::uint64_t bits) { return __builtin_popcountll(bits); }
ELBOKIT_DEVICE int lowest_bit(unsigned bits) { return __builtin_ctz(bits); }
ELBOKIT_DEVICE int lowest_bit(std::uint64_t bits) { return __builtin_ctzll(bits); }

#endif

}  // namespace elbokit::cuda
