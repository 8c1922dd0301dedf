#include "emulation/simt.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

elbokit::emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace elbokit::emulation {

namespace {

constexpr std::size_t kStack = 1 << 17;
constexpr std::size_t kGuard = 256;  // bytes behind the shared memory that nothing may write
constexpr unsigned char kPoison = 0xff;
constexpr unsigned kLanes = 32;

extern "C" void elbokit_fiber_main();

#if defined(__x86_64__)
// swapcontext() asks the kernel about signals each time, which takes longer than most kernels run
// between two barriers. This keeps what a called function must keep, and the stack.
extern "C" void elbokit_fiber_switch(void** from, void* to);
asm(R"(
.text
.p2align 4
.hidden elbokit_fiber_switch
.globl elbokit_fiber_switch
.type elbokit_fiber_switch, @function
elbokit_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size elbokit_fiber_switch, .-elbokit_fiber_switch
)");

class Context {
 public:
  void prepare(unsigned char* stack) {
    auto* top = reinterpret_cast<void**>(stack + kStack) - 2;
    *top = reinterpret_cast<void*>(&elbokit_fiber_main);  // where the first switch returns to
    stack_pointer_ = top - 6;
  }
  static void swap(Context& from, Context& to) {
    elbokit_fiber_switch(&from.stack_pointer_, to.stack_pointer_);
  }

 private:
  void* stack_pointer_ = nullptr;
};
#else
class Context {
 public:
  void prepare(unsigned char* stack) {
    getcontext(&context_);
    context_.uc_stack = {stack, 0, kStack};
    makecontext(&context_, &elbokit_fiber_main, 0);
  }
  static void swap(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_;
};
#endif

struct Copy {
  float* to;
  const float* from;
  std::size_t n;
};

struct Fiber {
  Context context;
  unsigned char* stack = nullptr;
  // Waits while *generation == seen.
  const unsigned* generation = nullptr;
  unsigned seen = 0;
  bool done = false;
  std::vector<Copy> copies;                // that are not in a group yet
  std::deque<std::vector<Copy>> groups{};  // that are not awaited yet
};

struct Warp {
  unsigned arrived = 0, generation = 0;
  const char* tag = nullptr;
  unsigned char slots[2][kLanes * kSlot];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  unsigned arrived = 0, generation = 0;
  std::vector<unsigned char> shared;
  std::size_t shared_bytes = 0;
  unsigned current = 0;
  Context scheduler;
  const std::function<void()>* thread = nullptr;
  std::string error;
};

Block& block() {
  static Block b;
  return b;
}

extern "C" void elbokit_fiber_main() {
  Block& b = block();
  (*b.thread)();
  b.fibers[b.current].done = true;
  Context::swap(b.fibers[b.current].context, b.scheduler);
  __builtin_unreachable();
}

void wait_for(const unsigned& generation, unsigned seen) {
  Block& b = block();
  Fiber& fiber = b.fibers[b.current];
  fiber.generation = &generation;
  fiber.seen = seen;
  Context::swap(fiber.context, b.scheduler);
}

// The order in which threads, or blocks, run.
class Order {
 public:
  explicit Order(std::size_t n) : order_(n), random_(machine().schedule) {
    std::iota(order_.begin(), order_.end(), 0u);
    if (machine().schedule == 1) std::reverse(order_.begin(), order_.end());
  }
  const std::vector<unsigned>& next() {
    if (machine().schedule > 1) std::shuffle(order_.begin(), order_.end(), random_);
    return order_;
  }

 private:
  std::vector<unsigned> order_;
  std::mt19937 random_;
};

void make_fibers(unsigned n) {
  std::vector<Fiber>& fibers = block().fibers;
  while (fibers.size() < n) {
    void* const stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw std::bad_alloc();
    Fiber fiber;
    fiber.stack = static_cast<unsigned char*>(stack);
    fibers.push_back(fiber);
  }
}

std::string where() {
  return "block " + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
         std::to_string(blockIdx.z);
}

void run_block(unsigned n, Order& order) {
  Block& b = block();
  b.arrived = 0;
  b.warps.assign(n / kLanes, Warp{});
  std::memset(b.shared.data(), kPoison, b.shared.size());
  for (unsigned i = 0; i < n; ++i) {
    Fiber& fiber = b.fibers[i];
    fiber.context.prepare(fiber.stack);
    fiber.generation = nullptr;
    fiber.done = false;
    fiber.copies.clear();
    fiber.groups.clear();
  }
  unsigned left = n;
  while (left > 0) {
    bool moved = false;
    for (unsigned i : order.next()) {
      Fiber& fiber = b.fibers[i];
      if (fiber.done || (fiber.generation && *fiber.generation == fiber.seen)) continue;
      fiber.generation = nullptr;
      moved = true;
      b.current = i;
      threadIdx.x = i;
      Context::swap(b.scheduler, fiber.context);
      left -= fiber.done;
      if (!b.error.empty()) throw std::runtime_error(b.error + " in " + where());
    }
    if (!moved)
      throw std::runtime_error("deadlock in " + where() + ": " + std::to_string(left) +
                               " threads wait at a barrier or a warp operation for others");
  }
  for (std::size_t i = b.shared_bytes; i < b.shared.size(); ++i)
    if (b.shared[i] != kPoison)
      throw std::runtime_error("shared memory written " + std::to_string(i - b.shared_bytes) +
                               " bytes past its end in " + where());
}

}  // namespace

Machine& machine() {
  static Machine m;
  return m;
}

void run(Index grid, unsigned n, std::size_t shared_bytes, const std::function<void()>& thread) {
  if (n == 0 || n % kLanes || n > 1024)
    throw std::runtime_error("blocks of " + std::to_string(n) + " threads, expected whole warps");
  if (shared_bytes > machine().shared_bytes)
    throw std::runtime_error(std::to_string(shared_bytes) + " bytes of shared memory, expected " +
                             std::to_string(machine().shared_bytes) + " at most");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("a grid that cannot be launched");
  make_fibers(n);
  Block& b = block();
  b.error.clear();
  b.thread = &thread;
  b.shared_bytes = shared_bytes;
  b.shared.resize(shared_bytes + kGuard);
  gridDim = grid;
  blockDim = {n, 1, 1};
  threadIdx = {};
  Order threads(n), blocks(std::size_t{grid.x} * grid.y * grid.z);
  for (unsigned at : blocks.next()) {
    blockIdx = {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y};
    run_block(n, threads);
  }
}

void* shared_memory() {
  // Aligned as on a GPU, to 16 bytes at least; a vector's memory is.
  return block().shared.data();
}

void block_barrier() {
  Block& b = block();
  const unsigned seen = b.generation;
  if (++b.arrived == blockDim.x) {
    b.arrived = 0;
    ++b.generation;
    return;
  }
  wait_for(b.generation, seen);
}

void copy_later(float* to, const float* from, std::size_t n) {
  const std::size_t bytes = n * sizeof(float);
  if (reinterpret_cast<std::uintptr_t>(to) % bytes ||
      reinterpret_cast<std::uintptr_t>(from) % bytes)
    block().error = "a copy to shared memory that is not aligned";
  std::memset(to, kPoison, bytes);
  block().fibers[block().current].copies.push_back({to, from, n});
}

void commit_copies() {
  Fiber& fiber = block().fibers[block().current];
  fiber.groups.push_back(std::move(fiber.copies));
  fiber.copies.clear();
}

void await_copies(std::size_t pending) {
  auto& groups = block().fibers[block().current].groups;
  for (; groups.size() > pending; groups.pop_front())
    for (const Copy& copy : groups.front())
      for (std::size_t i = 0; i < copy.n; ++i) copy.to[i] = copy.from ? copy.from[i] : 0;
}

const unsigned char* exchange(const void* value, std::size_t size, const char* tag) {
  Block& b = block();
  const unsigned lane = threadIdx.x % kLanes, index = threadIdx.x / kLanes;
  Warp& warp = b.warps[index];
  const unsigned seen = warp.generation;
  if (warp.arrived == 0) warp.tag = tag;
  if (warp.tag != tag) b.error = std::string("lanes of one warp at ") + warp.tag + " and " + tag;
  unsigned char* const slots = warp.slots[seen % 2];
  std::memcpy(slots + lane * kSlot, value, size);
  if (++warp.arrived == kLanes) {
    warp.arrived = 0;
    ++warp.generation;
    return slots;
  }
  wait_for(warp.generation, seen);
  return block().warps[index].slots[seen % 2];
}

}  // namespace elbokit::emulation
