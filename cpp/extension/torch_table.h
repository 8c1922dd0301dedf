// What the core asks of torch's tensors, for torch's own C++ to answer: by the extension
// (extension.cpp), where it is loaded. The core itself has no header of torch, so that one build
// serves every version of it.
#pragma once

#include <Python.h>

#include <cstdint>

namespace elbokit {

// The name of the capsule; it changes with the layout.
inline constexpr const char* kTorchTable = "elbokit.torch_table.2";

// kBytes: uint8 or bool.
enum class TorchKind : std::uint8_t { kFloat32, kFloat64, kInt64, kBytes, kOther };

struct TorchTensor {
  void* data;
  TorchKind kind;
  std::int64_t dimensions;
  const std::int64_t *shape, *strides;  // the tensor's own; strides in elements
};

struct TorchTable {
  // Whether the object is a Tensor or a Parameter, strided, in the CPU's memory and nothing else
  // besides; then it is described.
  bool (*describe)(PyObject* object, TorchTensor* tensor) noexcept;
  bool (*requires_grad)(PyObject* tensor) noexcept;
  // A new contiguous tensor of that shape and dtype, on the CPU, and its memory; or null and an
  // exception.
  PyObject* (*empty)(const std::int64_t* shape, std::int64_t dimensions, TorchKind kind,
                     void** data) noexcept;
};

}  // namespace elbokit
