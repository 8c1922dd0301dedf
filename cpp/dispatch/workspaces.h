// Cache-line-aligned scratch for each thread of a parallel loop.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "dispatch/threads.h"

namespace elbokit::dispatch {

// Allocated when a slot first needs it, and kept: get() of one slot is for one thread at a time.
template <class T>
class Workspaces {
 public:
  Workspaces() : slots_(kMaxThreads) {}

  T* get(int slot, std::int64_t elements) {
    Slot& s = slots_[slot];
    if (s.elements < elements) {
      s.memory.reset(
          static_cast<T*>(::operator new(elements * sizeof(T), std::align_val_t(kAlignment))));
      s.elements = elements;
    }
    return s.memory.get();
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  struct Delete {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(kAlignment)); }
  };
  struct Slot {
    std::unique_ptr<T, Delete> memory;
    std::int64_t elements = 0;
  };
  std::vector<Slot> slots_;
};

}  // namespace elbokit::dispatch
