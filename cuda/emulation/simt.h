// A small model of a GPU on the CPU, for tests: blocks one after the other, the threads of a block
// as fibers that take turns at barriers and warp operations, shared memory that starts as NaN.
//
// Kernels are compiled for it unchanged (cuda/common/simt.h). What it finds: wrong indices and
// tails, barriers or warp operations that not all threads reach, shared memory that is read before
// it is written or overrun, and, by running the threads in other orders, missing barriers. What it
// cannot find: races between instructions that lie between two barriers in one order of threads,
// and anything about speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#define __global__
#define __device__
#define __launch_bounds__(...)

namespace elbokit::emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Machine {
  unsigned schedule =
      0;  // 0: threads and blocks in order; 1: reversed; else: the seed of a shuffle
  int multiprocessors = 3;
  std::size_t shared_bytes = 65536;  // what a block may ask for
  int capability = 75;
};
Machine& machine();

// Runs `thread` once for every thread of the grid. Throws std::runtime_error for a deadlock and for
// writes past the end of shared memory.
void run(Index grid, unsigned block, std::size_t shared_bytes, const std::function<void()>& thread);

void* shared_memory();
void block_barrier();

inline constexpr int kSlot = 64;  // bytes that a lane can show the others

// Waits for all 32 lanes, and returns what they deposited: 32 slots of kSlot bytes, valid until the
// next call but one. All lanes must come from the same operation, which `tag` names.
const unsigned char* exchange(const void* value, std::size_t size, const char* tag);

// The float next to a number on the side of zero, or the number itself.
inline float towards_zero(double value) {
  const auto nearest = static_cast<float>(value);
  const bool beyond = value < 0 ? nearest < value : nearest > value;
  if (!beyond) return nearest;
  std::uint32_t bits;
  __builtin_memcpy(&bits, &nearest, sizeof(bits));
  --bits;
  float result;
  __builtin_memcpy(&result, &bits, sizeof(result));
  return result;
}

}  // namespace elbokit::emulation

extern elbokit::emulation::Index threadIdx, blockIdx, blockDim, gridDim;
