#include "kernels/gaussian_loss.h"

#include "kernels/gaussian_loss_rows.h"

namespace elbokit::cuda {

namespace {

template <class T, class Rows>
__global__ void __launch_bounds__(kLossThreads)
    gaussian_kernel(GaussianLossArgs<T> args, std::int64_t last, LossSums* all) {
  LossSums sums;
  Rows::run(args, last, sums);
  store_sums(sums, all);
}

// The sums of the gradient in logvar down a chunk of the rows. A thread has a column, blockIdx.y a
// chunk.
template <class T>
__global__ void __launch_bounds__(kLossThreads)
    columns_kernel(GaussianLossArgs<T> args, double* partial) {
  const std::int64_t col = std::int64_t{blockIdx.x} * kLossThreads + threadIdx.x;
  if (col >= args.cols) return;
  const std::int64_t begin = args.rows * blockIdx.y / gridDim.y;
  const std::int64_t end = args.rows * (blockIdx.y + 1) / gridDim.y;
  const AnyElement<T> element(args);
  double sum = 0;
  for (std::int64_t row = begin; row < end; ++row)
    sum += static_cast<double>(element(row, col, factor_of(args, row)).grad_logvar);
  partial[blockIdx.y * args.cols + col] = sum;
}

// Operands of which every row may be read in whole vectors of `width` elements.
template <class T>
struct Plain {
  GaussianLossArgs<T> args;
  std::int64_t last;  // columns of the last row
};

bool varies(const Operand& logvar) { return logvar && logvar.col_stride != 0; }

// The same elements in stretches, if there is no row to tell apart.
template <class T>
Plain<T> reshaped(GaussianLossArgs<T> args, int width) {
  const std::int64_t n = args.rows * args.cols;
  const auto is_flat = [&](const auto& m) { return contiguous(m, args.rows, args.cols); };
  const Operand& v = args.logvar;
  const bool flat = is_flat(args.mean) && is_flat(args.target) && is_flat(args.grad_mean) &&
                    is_flat(args.grad_logvar) &&
                    (varies(v) ? is_flat(v) : !v || args.rows == 1 || v.row_stride == 0);
  if (!flat || args.row_loss || args.row_weight || args.row_grad_logvar || n % width)
    return {args, args.cols};
  const Stretches stretches(n, width);
  args.rows = stretches.rows;
  args.cols = stretches.cols;
  args.mean.row_stride = args.target.row_stride = stretches.cols;
  args.grad_mean.row_stride = args.grad_logvar.row_stride = stretches.cols;
  args.logvar.row_stride = varies(v) ? stretches.cols : 0;
  return {args, stretches.last};
}

template <class T>
bool is_plain(const GaussianLossArgs<T>& args, int width) {
  const Operand& v = args.logvar;
  return !args.mask && args.cols % width == 0 && aligned(args.mean, width, args.rows) &&
         aligned(args.target, width, args.rows) && aligned(args.grad_mean, width, args.rows) &&
         aligned(args.grad_logvar, width, args.rows) &&
         (varies(v) ? v.element == args.mean.element && aligned(v, width, args.rows)
                    : !args.grad_logvar);
}

template <class T, class Rows>
std::int64_t launch_rows(const Queue& queue, const GaussianLossArgs<T>& args, std::int64_t last,
                         LossSums* sums) {
  const std::int64_t blocks = loss_blocks(queue, args.rows, args.cols);
  launch(queue, {blocks}, kLossThreads, kLossShared, gaussian_kernel<T, Rows>, args, last, sums);
  return blocks;
}

template <class T, class L, class X, class G, bool kVaries>
std::int64_t launch_plain(const Queue& queue, const Plain<T>& plain, LossSums* sums) {
  if (plain.args.cols <= kShortRow)
    return launch_rows<T, PlainRows<T, L, X, G, kVaries, kWarp>>(queue, plain.args, plain.last,
                                                                 sums);
  return launch_rows<T, PlainRows<T, L, X, G, kVaries, kLossThreads>>(queue, plain.args, plain.last,
                                                                      sums);
}

template <class T, class L, class X, class G>
std::int64_t launch_plain(const Queue& queue, const Plain<T>& plain, LossSums* sums) {
  return varies(plain.args.logvar) ? launch_plain<T, L, X, G, true>(queue, plain, sums)
                                   : launch_plain<T, L, X, G, false>(queue, plain, sums);
}

template <class T>
std::int64_t launch_any(const Queue& queue, const GaussianLossArgs<T>& args, LossSums* sums) {
  if (args.cols <= kShortRow)
    return launch_rows<T, AnyRows<T, kWarp>>(queue, args, args.cols, sums);
  return launch_rows<T, AnyRows<T, kLossThreads>>(queue, args, args.cols, sums);
}

std::int64_t launch_all(const Queue& queue, const GaussianLossArgs<double>& given, LossSums* sums) {
  constexpr int width = 2;
  const Plain<double> plain = reshaped(given, width);
  if (is_plain(plain.args, width) && given.target.element == Element::kFloat64)
    return launch_plain<double, double, double, double>(queue, plain, sums);
  return launch_any(queue, given, sums);
}

std::int64_t launch_all(const Queue& queue, const GaussianLossArgs<float>& given, LossSums* sums) {
  const Element m = given.mean.element, x = given.target.element;
  const Element usual = m == Element::kFloat16 ? Element::kFloat32 : m;
  const auto usual_or_none = [&](const Result& r) { return !r || r.element == usual; };
  const int width = static_cast<int>(16 / size_of(m));
  const Plain<float> plain = reshaped(given, width);
  if (is_plain(plain.args, width) && usual_or_none(given.grad_mean) &&
      usual_or_none(given.grad_logvar)) {
    if (m == Element::kFloat32) {
      if (x == m) return launch_plain<float, float, float, float>(queue, plain, sums);
      if (x == Element::kUint8)
        return launch_plain<float, float, std::uint8_t, float>(queue, plain, sums);
    }
    if (m == Element::kBfloat16) {
      if (x == m) return launch_plain<float, BFloat16, BFloat16, BFloat16>(queue, plain, sums);
      if (x == Element::kFloat32)
        return launch_plain<float, BFloat16, float, BFloat16>(queue, plain, sums);
      if (x == Element::kUint8)
        return launch_plain<float, BFloat16, std::uint8_t, BFloat16>(queue, plain, sums);
    }
    if (m == Element::kFloat16) {
      if (x == m) return launch_plain<float, Float16, Float16, float>(queue, plain, sums);
      if (x == Element::kFloat32)
        return launch_plain<float, Float16, float, float>(queue, plain, sums);
      if (x == Element::kUint8)
        return launch_plain<float, Float16, std::uint8_t, float>(queue, plain, sums);
    }
  }
  return launch_any(queue, given, sums);
}

}  // namespace

std::size_t gaussian_loss_workspace(std::int64_t cols, bool by_column) {
  Workspace counted;
  counted.take<double>(by_column ? kColumnChunks * cols : 0);
  return loss_workspace() + counted.used();
}

template <class T>
void gaussian_loss(const Queue& queue, const GaussianLossArgs<T>& args,
                   const LossOutputs<T>& outputs) {
  const bool by_column = args.col_grad_logvar != nullptr;
  expect_workspace(queue, gaussian_loss_workspace(args.cols, by_column));
  const DeviceGuard guard(queue);
  Workspace workspace(queue);
  auto* const sums = workspace.take<LossSums>(kMostLossBlocks);
  const std::int64_t blocks = launch_all(queue, args, sums);
  finish_loss(queue, sums, blocks, outputs);
  if (!by_column) return;
  auto* const partial = workspace.take<double>(kColumnChunks * args.cols);
  const int chunks = column_chunks(args.rows);
  launch(queue, {blocks_of(args.cols), chunks}, kLossThreads, 0, columns_kernel<T>, args, partial);
  add_chunks(queue, partial, chunks, args.cols, args.col_grad_logvar);
}

template void gaussian_loss(const Queue&, const GaussianLossArgs<float>&,
                            const LossOutputs<float>&);
template void gaussian_loss(const Queue&, const GaussianLossArgs<double>&,
                            const LossOutputs<double>&);

}  // namespace elbokit::cuda
