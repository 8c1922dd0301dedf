#include "common/queue.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace elbokit::cuda {

void expect_workspace(const Queue& queue, std::size_t bytes) {
  if (queue.workspace_bytes < bytes)
    throw std::invalid_argument("the workspace has " + std::to_string(queue.workspace_bytes) +
                                " bytes, expected at least " + std::to_string(bytes));
}

#ifdef __CUDACC__

namespace {

constexpr std::size_t kSharedByDefault = 48 * 1024;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that it is not reported once more
  std::string text = std::string(what) + ": " + cudaGetErrorString(error);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
    text += "; this build has kernels for the architectures " ELBOKIT_CUDA_ARCHITECTURES
            ": build elbokit with CMAKE_CUDA_ARCHITECTURES for this device";
  throw std::runtime_error(text);
}

Device read_properties(int device) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "reading the properties of the GPU");
    return value;
  };
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for a GPU");
  if (device < 0 || device >= count)
    throw std::runtime_error("there is no GPU " + std::to_string(device) + ", only " +
                             std::to_string(count));
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "reading the properties of the GPU");
  return {properties.name,
          10 * attribute(cudaDevAttrComputeCapabilityMajor) +
              attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount),
          static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))};
}

}  // namespace

const Device& device_of(const Queue& queue) {
  static std::mutex mutex;
  static std::map<int, Device> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = devices.find(queue.device);
  if (found != devices.end()) return found->second;
  return devices.emplace(queue.device, read_properties(queue.device)).first->second;
}

DeviceGuard::DeviceGuard(const Queue& queue) {
  int current = 0;
  check(cudaGetDevice(&current), "asking for the current GPU");
  if (current == queue.device) return;
  check(cudaSetDevice(queue.device), "choosing a GPU");
  before_ = current;
}

DeviceGuard::~DeviceGuard() {
  if (before_ >= 0) cudaSetDevice(before_);
}

void detail::launch(const Queue& queue, const void* kernel, Grid grid, int threads,
                    std::size_t shared_bytes, void** arguments) {
  if (shared_bytes > kSharedByDefault)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "asking for shared memory");
  const dim3 size(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                  static_cast<unsigned>(grid.z));
  check(cudaLaunchKernel(kernel, size, dim3(static_cast<unsigned>(threads)), arguments,
                         shared_bytes, static_cast<cudaStream_t>(queue.stream)),
        "launching a kernel");
}

void clear(const Queue& queue, void* memory, std::size_t bytes) {
  check(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(queue.stream)),
        "clearing memory");
}

#else

const Device& device_of(const Queue&) {
  static Device device;
  device = {"a model on the CPU", 75, emulation::machine().multiprocessors,
            emulation::machine().shared_bytes};
  return device;
}

DeviceGuard::DeviceGuard(const Queue&) {}
DeviceGuard::~DeviceGuard() = default;

void clear(const Queue&, void* memory, std::size_t bytes) { __builtin_memset(memory, 0, bytes); }

#endif

}  // namespace elbokit::cuda
