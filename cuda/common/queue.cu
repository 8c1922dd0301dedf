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

std::string version_of(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

// Why there is no GPU to be had, for those who have to make it good.
std::string missing_driver() {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0)
    return "no NVIDIA driver was found (libcuda.so.1): install one, and give a container its GPUs "
           "(such as by docker run --gpus all)";
  return "the NVIDIA driver is too old: it runs CUDA " + version_of(driver) +
         ", and these kernels were built with CUDA " + version_of(CUDART_VERSION) +
         "; update the driver, or build elbokit with an older toolkit";
}

std::string missing_kernels() {
  std::string text = "this build of elbokit has kernels for " ELBOKIT_CUDA_ARCHITECTURES
                     ", and none that runs on this GPU";
  int device = 0, major = 0, minor = 0;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess)
    text += ", whose compute capability is " + std::to_string(major) + "." + std::to_string(minor) +
            ": build it with -Ccmake.define.CMAKE_CUDA_ARCHITECTURES=" + std::to_string(major) +
            std::to_string(minor);
  return text;
}

std::string reason_of(cudaError_t error) {
  switch (error) {
    case cudaErrorInsufficientDriver:
      return missing_driver();
    case cudaErrorNoDevice:
      return "the NVIDIA driver sees no GPU; CUDA_VISIBLE_DEVICES may hide it";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
      return missing_kernels();
    default:
      return cudaGetErrorString(error);
  }
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that it is not reported once more
  throw std::runtime_error(std::string(what) + ": " + reason_of(error));
}

// Of which the run-time says what the kernels for a GPU were compiled for.
__global__ void probe() {}

Device read_properties(const Queue& queue) {
  const int device = queue.device;
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "reading the properties of the GPU");
    return value;
  };
  int count = 0;
  check(cudaGetDeviceCount(&count), "looking for a GPU");
  if (device < 0 || device >= count)
    throw std::runtime_error("there is no GPU " + std::to_string(device) + ": the driver sees " +
                             std::to_string(count) + ", counted from 0");
  const DeviceGuard guard(queue);
  cudaFuncAttributes code;
  check(cudaFuncGetAttributes(&code, reinterpret_cast<const void*>(&probe)), "looking for a GPU");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "reading the properties of the GPU");
  return {properties.name,
          10 * attribute(cudaDevAttrComputeCapabilityMajor) +
              attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount),
          static_cast<std::size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)),
          code.ptxVersion};
}

}  // namespace

const Device& device_of(const Queue& queue) {
  static std::mutex mutex;
  static std::map<int, Device> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = devices.find(queue.device);
  if (found != devices.end()) return found->second;
  return devices.emplace(queue.device, read_properties(queue)).first->second;
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
  if (shared_bytes > kSharedByDefault) {
    const std::size_t most = device_of(queue).shared_bytes;
    if (shared_bytes > most)
      throw std::runtime_error("a kernel needs " + std::to_string(shared_bytes) +
                               " bytes of shared memory, and this GPU has " + std::to_string(most) +
                               " for a block");
    // All there is: another thread may be about to launch the same kernel with more than this.
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(most)),
          "asking for shared memory");
  }
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
  const emulation::Machine& machine = emulation::machine();
  device = {"a model on the CPU", machine.capability, machine.multiprocessors, machine.shared_bytes,
            machine.capability};
  return device;
}

DeviceGuard::DeviceGuard(const Queue&) {}
DeviceGuard::~DeviceGuard() = default;

void clear(const Queue&, void* memory, std::size_t bytes) { __builtin_memset(memory, 0, bytes); }

#endif

}  // namespace elbokit::cuda
