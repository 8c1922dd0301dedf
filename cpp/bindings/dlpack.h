// What DLPack 1 calls its exchange table: functions in C that a library of tensors puts at their
// type, `__dlpack_c_exchange_api__` (https://dmlc.github.io/dlpack/latest/c_api.html). Only what is
// used here has a name; the layout is the standard's.
#pragma once

#include <cstdint>

namespace elbokit::bindings::dlpack {

inline constexpr const char* kCapsule = "dlpack_exchange_api";
inline constexpr std::uint32_t kMajorVersion = 1;
inline constexpr std::int32_t kCpu = 1;
inline constexpr std::uint8_t kInt = 0, kUint = 1, kFloat = 2, kBool = 6;

struct Tensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t dimensions;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  const std::int64_t *shape, *strides;  // in elements
  std::uint64_t byte_offset;

  void* first_element() const { return static_cast<char*>(data) + byte_offset; }
};

struct ExchangeTable {
  std::uint32_t major, minor;
  const ExchangeTable* previous;
  void* others[3];
  // What the Python object at the first argument is: 0, or else an exception is set. Borrowed, and
  // null where the library has no such function.
  int (*describe)(void*, Tensor*);
  void* stream;
};

}  // namespace elbokit::bindings::dlpack
