// Copies from the GPU's memory to shared memory that the thread does not wait for. For devices of
// kTensorCoreCapability and later ones.
#pragma once

#include "common/simt.h"

namespace elbokit::cuda {

// kFloats floats, aligned to their size, once they are awaited; zeros unless `there`.
template <int kFloats>
ELBOKIT_DEVICE void copy_async(float* to, const float* from, bool there) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  constexpr int bytes = kFloats * static_cast<int>(sizeof(float));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at), "l"(from), "n"(bytes),
               "r"(there ? bytes : 0)
               : "memory");
#elif defined(__CUDACC__)
  __trap();  // the host does not choose such a kernel for this device
#else
  emulation::copy_later(to, there ? from : nullptr, kFloats);
#endif
}

// Makes a group of the thread's copies since the last one.
ELBOKIT_DEVICE void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(__CUDACC__)
  emulation::commit_copies();
#endif
}

// Waits for the thread's own copies of all groups but the last kPending.
template <int kPending>
ELBOKIT_DEVICE void await_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#elif !defined(__CUDACC__)
  emulation::await_copies(kPending);
#endif
}

}  // namespace elbokit::cuda
