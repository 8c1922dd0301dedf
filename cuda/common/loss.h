// What the losses share: how rows are given to threads, and the sums over all of them.
#pragma once

#include "common/elements.h"
#include "common/queue.h"
#include "common/reduce.h"

namespace elbokit::cuda {

inline constexpr int kLossThreads = 256;

// Blocks of one launch, at most: their sums are added up by one block.
inline constexpr std::int64_t kMostLossBlocks = 4096;

// Rows up to this length are given to a warp, longer ones to a block.
inline constexpr std::int64_t kShortRow = 512;

// The sums of one block. Not every loss has all of them.
struct LossSums {
  double loss = 0, kl = 0, charged = 0, grad_logvar = 0;
  std::int64_t out_of_range = 0;
};

inline std::size_t loss_workspace() {
  Workspace counted;
  counted.take<LossSums>(kMostLossBlocks);
  return counted.used();
}

// As many blocks as are wanted, and as the device holds at once; two terms of a loss have room.
inline std::int64_t loss_blocks(const Queue& queue, std::int64_t wanted) {
  constexpr std::int64_t per_multiprocessor = 8;
  const std::int64_t room = std::int64_t{device_of(queue).multiprocessors} * per_multiprocessor;
  const std::int64_t most = room < kMostLossBlocks / 2 ? room : kMostLossBlocks / 2;
  return wanted < most ? wanted : most;
}

// The same for `rows` rows of `cols` elements.
inline std::int64_t loss_blocks(const Queue& queue, std::int64_t rows, std::int64_t cols) {
  const std::int64_t each = cols <= kShortRow ? kLossThreads / kWarp : 1;
  return loss_blocks(queue, (rows + each - 1) / each);
}

// The rows of one team of kTeam threads, of all teams of `blocks` blocks.
template <int kTeam, class F>
ELBOKIT_DEVICE void for_each_row(std::int64_t rows, std::int64_t block, std::int64_t blocks,
                                 F&& f) {
  constexpr int teams = kLossThreads / kTeam;
  for (std::int64_t row = block * teams + static_cast<int>(threadIdx.x) / kTeam; row < rows;
       row += blocks * teams)
    f(row);
}

// The place of a thread in its team.
template <int kTeam>
ELBOKIT_DEVICE int team_lane() {
  return static_cast<int>(threadIdx.x) % kTeam;
}

// The sum over a team, which is a warp or the block; every thread gets it.
template <int kTeam>
ELBOKIT_DEVICE double team_sum(double value, double* scratch) {
  if constexpr (kTeam == kWarp)
    return warp_sum(value);
  else
    return block_sum<kLossThreads>(value, scratch);
}

// Bytes of shared memory that team_sum and store_sums use.
inline constexpr std::size_t kLossShared = sizeof(double) * kLossThreads / kWarp;

// The block's sums, to its place among those of all blocks.
ELBOKIT_DEVICE void store_sums(const LossSums& mine, LossSums* all) {
  auto* const scratch = shared_memory<double>();
  const double loss = block_sum<kLossThreads>(mine.loss, scratch);
  const double kl = block_sum<kLossThreads>(mine.kl, scratch);
  const double charged = block_sum<kLossThreads>(mine.charged, scratch);
  const double grad_logvar = block_sum<kLossThreads>(mine.grad_logvar, scratch);
  const std::int64_t out_of_range = block_sum<kLossThreads>(
      static_cast<long long>(mine.out_of_range), reinterpret_cast<long long*>(scratch));
  if (threadIdx.x == 0) all[blockIdx.x] = {loss, kl, charged, grad_logvar, out_of_range};
}

// Where the sums go, times `scale` (the gradient in logvar has it already); a null output is not
// written. total: loss + beta * charged, or charged alone without `weighed`.
template <class T>
struct LossOutputs {
  double scale = 1;
  bool weighed = false;
  T beta = 0;
  T *total = nullptr, *loss = nullptr, *kl = nullptr, *charged = nullptr, *grad_logvar = nullptr;
  std::int64_t* out_of_range = nullptr;
};

// Adds up the sums of `blocks` blocks.
template <class T>
void finish_loss(const Queue& queue, const LossSums* sums, std::int64_t blocks,
                 const LossOutputs<T>& outputs);

// Sums down columns are taken by chunks of the rows, which add_chunks adds up.
inline constexpr std::int64_t kColumnChunks = 64;

inline int column_chunks(std::int64_t rows) {
  return static_cast<int>(rows < kColumnChunks ? rows : kColumnChunks);
}

// Blocks for one thread each.
inline std::int64_t blocks_of(std::int64_t threads) {
  return (threads + kLossThreads - 1) / kLossThreads;
}

// sums[i] += partial[0, i] + partial[1, i] + ... for a partial of (chunks, n).
void add_chunks(const Queue& queue, const double* partial, int chunks, std::int64_t n,
                double* sums);

}  // namespace elbokit::cuda
