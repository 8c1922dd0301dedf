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

// Copies of n floats to shared memory, zeros from nowhere, that are done when their group is
// awaited; until then there is NaN. All are aligned to the size of what is copied.
void copy_later(float* to, const float* from, std::size_t n);
void commit_copies();
void await_copies(std::size_t pending);

// A float and kCount products added up as matrix units do, of which those of an A100 cut off most:
// half of the products at a time, each cut off at one bit below a float of the largest one's
// exponent, and the sum at a float. An H200's take all at once, with one more bit. (Fasi et al.
// 2021, "Numerical behavior of NVIDIA tensor cores", and the models of later ones at
// github.com/north-numerical-computing/MATLAB-tensor-core.)
template <int kCount, class Product>
float unit_sum(float sum, Product&& product) {
  constexpr int half = kCount / 2;
  for (int first = 0; first < kCount; first += half) {
    double terms[half + 1], largest = 0, total = 0;
    for (int k = 0; k < half; ++k) terms[k] = product(first + k);
    terms[half] = sum;
    for (const double term : terms) {
      const double size = __builtin_fabs(term);
      if (!(size <= largest)) largest = size;
    }
    if (!(largest > 0 && largest < 0x1p127)) {
      for (const double term : terms) total += term;
      sum = static_cast<float>(total);
      continue;
    }
    const double unit = __builtin_ldexp(1.0, __builtin_ilogb(largest) - 24);
    for (const double term : terms) total += __builtin_trunc(term / unit) * unit;
    const double last = __builtin_ldexp(1.0, (total == 0 ? 0 : __builtin_ilogb(total)) - 23);
    sum = static_cast<float>(__builtin_trunc(total / last) * last);
  }
  return sum;
}

}  // namespace elbokit::emulation

extern elbokit::emulation::Index threadIdx, blockIdx, blockDim, gridDim;
