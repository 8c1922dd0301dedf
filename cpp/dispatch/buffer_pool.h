// Memory of large outputs, kept for the next ones.
//
// The pages of fresh memory are cleared when they are first touched, which takes longer than a loss
// takes to write them; a training loop asks for the same sizes over and over.
#pragma once

#include <cstddef>

namespace elbokit::dispatch {

struct Block {
  void* data = nullptr;
  std::size_t bytes = 0;
};

// A block of at least `bytes`, aligned to huge pages. Throws std::bad_alloc.
Block take_block(std::size_t bytes);

// Keeps the block; the blocks kept longest are freed while they exceed the limit.
void give_block(Block block) noexcept;

void set_pool_limit(std::size_t bytes);
std::size_t pool_limit();
std::size_t pooled_bytes();

}  // namespace elbokit::dispatch
