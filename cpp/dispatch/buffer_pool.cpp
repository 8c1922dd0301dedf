#include "dispatch/buffer_pool.h"

#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>

#include "dispatch/huge_pages.h"

namespace elbokit::dispatch {

namespace {

constexpr std::size_t kGrain = std::size_t{1} << 21;

struct Pool {
  std::mutex mutex;
  std::deque<Block> blocks;  // the one kept longest first
  std::size_t bytes = 0, limit = std::size_t{256} << 20;

  void shrink() {
    while (bytes > limit) {
      bytes -= blocks.front().bytes;
      std::free(blocks.front().data);
      blocks.pop_front();
    }
  }
};

// Never destroyed: tensors may outlive static objects.
Pool& pool() {
  static Pool* const pool = new Pool;
  return *pool;
}

// A block that is much larger than what is asked for is left to whom it fits.
bool fits(const Block& block, std::size_t bytes) {
  return block.bytes >= bytes && block.bytes <= bytes + bytes / 4 + kGrain;
}

}  // namespace

// The locks below are only tried: a thread that held one when the process forked does not exist in
// the child, which would wait for it for ever. Without the lock there is merely no reuse.

Block take_block(std::size_t bytes) {
  const std::size_t rounded = (bytes + kGrain - 1) / kGrain * kGrain;
  Pool& p = pool();
  if (std::unique_lock<std::mutex> lock(p.mutex, std::try_to_lock); lock) {
    for (auto it = p.blocks.rbegin(); it != p.blocks.rend(); ++it) {
      if (!fits(*it, rounded)) continue;
      const Block block = *it;
      p.blocks.erase(std::next(it).base());
      p.bytes -= block.bytes;
      return block;
    }
  }
  void* const data = std::aligned_alloc(kGrain, rounded);
  if (data == nullptr) throw std::bad_alloc();
  advise_huge_pages(data, rounded);
  return {data, rounded};
}

void give_block(Block block) noexcept {
  Pool& p = pool();
  const std::unique_lock<std::mutex> lock(p.mutex, std::try_to_lock);
  try {
    if (lock && block.bytes <= p.limit) {
      p.blocks.push_back(block);
      p.bytes += block.bytes;
      p.shrink();
      return;
    }
  } catch (const std::bad_alloc&) {
  }
  std::free(block.data);
}

void set_pool_limit(std::size_t bytes) {
  Pool& p = pool();
  const std::lock_guard<std::mutex> lock(p.mutex);
  p.limit = bytes;
  p.shrink();
}

std::size_t pool_limit() { return pool().limit; }

std::size_t pooled_bytes() { return pool().bytes; }

}  // namespace elbokit::dispatch
