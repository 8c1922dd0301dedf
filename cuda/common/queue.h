// Where kernels are launched: a device, a stream of it, and memory to work in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "common/simt.h"

namespace elbokit::cuda {

struct Device {
  std::string name;
  int capability;  // 10 * major + minor
  int multiprocessors;
  std::size_t shared_bytes;  // what a block may ask for
  int compiled;              // the capability its kernels are for: PTX may be of an older one
};

// The workspace comes from the caller, whose library knows when it may be used again. It is aligned
// to 256 bytes, and belongs to the calls on this stream alone until they are done.
struct Queue {
  int device = 0;
  void* stream = nullptr;
  std::byte* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

// Cached. Throws std::runtime_error if there is no such device, or no driver.
const Device& device_of(const Queue& queue);

// Throws std::invalid_argument if the workspace is smaller.
void expect_workspace(const Queue& queue, std::size_t bytes);

// Cuts a workspace into arrays. Without memory it only counts.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(const Queue& queue) : begin_(queue.workspace) {}

  template <class T>
  T* take(std::int64_t n) {
    T* const array = reinterpret_cast<T*>(begin_ + used_);
    used_ += (static_cast<std::size_t>(n) * sizeof(T) + 255) / 256 * 256;
    return array;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* begin_ = nullptr;
  std::size_t used_ = 0;
};

// Makes the queue's device the current one while it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Queue& queue);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = -1;
};

struct Grid {
  std::int64_t x = 1;
  int y = 1, z = 1;
};

// A parameter that does not take part in deducing a template's arguments.
template <class T>
struct Same {
  using type = T;
};

#ifdef __CUDACC__

namespace detail {
void launch(const Queue& queue, const void* kernel, Grid grid, int threads,
            std::size_t shared_bytes, void** arguments);
}

// Throws std::runtime_error if the launch fails. An error of the kernel itself shows in a later
// call, as is usual.
template <class... Parameters>
void launch(const Queue& queue, Grid grid, int threads, std::size_t shared_bytes,
            void (*kernel)(Parameters...), typename Same<Parameters>::type... arguments) {
  void* pointers[] = {&arguments...};
  detail::launch(queue, reinterpret_cast<const void*>(kernel), grid, threads, shared_bytes,
                 pointers);
}

#else

template <class... Parameters>
void launch(const Queue&, Grid grid, int threads, std::size_t shared_bytes,
            void (*kernel)(Parameters...), typename Same<Parameters>::type... arguments) {
  const emulation::Index size{static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                              static_cast<unsigned>(grid.z)};
  emulation::run(size, static_cast<unsigned>(threads), shared_bytes, [&] { kernel(arguments...); });
}

#endif

// Clears memory in the order of the stream.
void clear(const Queue& queue, void* memory, std::size_t bytes);

}  // namespace elbokit::cuda
