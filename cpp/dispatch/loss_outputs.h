// What a loss writes, made ready for writing.
#pragma once

#include "dispatch/huge_pages.h"
#include "elbokit/bernoulli.h"

namespace elbokit::cpu {

// Outputs beyond this are written past the caches: they would only drive out what is read next.
inline constexpr std::size_t kStreamed = std::size_t{8} << 20;

template <class T>
BernoulliArgs<T> with_outputs_ready(BernoulliArgs<T> args) {
  const auto bytes = [&](std::ptrdiff_t row_stride, std::ptrdiff_t size) {
    return static_cast<std::size_t>(args.rows * row_stride * size);
  };
  if (args.elementwise)
    dispatch::advise_huge_pages(args.elementwise.data,
                                bytes(args.elementwise.row_stride, sizeof(T)));
  if (args.grad) {
    const std::size_t size = bytes(args.grad.row_stride, size_of(args.grad.element));
    dispatch::advise_huge_pages(args.grad.data, size);
    args.stream = size > kStreamed && args.grad.data != args.logits.data;
  }
  return args;
}

}  // namespace elbokit::cpu
