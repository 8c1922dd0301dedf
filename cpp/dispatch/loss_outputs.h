// What a loss writes, made ready for writing.
#pragma once

#include "dispatch/huge_pages.h"
#include "elbokit/bernoulli.h"
#include "elbokit/gaussian_kl.h"

namespace elbokit::cpu {

// Outputs beyond this are written past the caches: they would only drive out what is read next.
inline constexpr std::size_t kStreamed = std::size_t{8} << 20;

// Whether to write so many bytes, which overlap nothing that is read, past the caches.
inline bool ready_to_stream(void* data, std::size_t size) {
  dispatch::advise_huge_pages(data, size);
  return size > kStreamed;
}

inline bool ready_to_stream(const Result& result, std::int64_t rows) {
  if (!result) return false;
  const auto size = rows * result.row_stride * static_cast<std::int64_t>(size_of(result.element));
  return ready_to_stream(result.data, static_cast<std::size_t>(size));
}

template <class T>
BernoulliArgs<T> with_outputs_ready(BernoulliArgs<T> args) {
  if (args.elementwise)
    dispatch::advise_huge_pages(
        args.elementwise.data,
        static_cast<std::size_t>(args.rows * args.elementwise.row_stride) * sizeof(T));
  args.stream = ready_to_stream(args.grad, args.rows) && args.grad.data != args.logits.data;
  return args;
}

template <class T>
GaussianKlArgs<T> with_outputs_ready(GaussianKlArgs<T> args) {
  // Not &&: all are made ready.
  args.stream =
      ready_to_stream(args.grad_mu, args.rows) & ready_to_stream(args.grad_logvar, args.rows);
  for (const Matrix<T>& prior : {args.grad_prior_mu, args.grad_prior_logvar})
    if (prior)
      dispatch::advise_huge_pages(
          prior.data, static_cast<std::size_t>(args.rows * prior.row_stride) * sizeof(T));
  return args;
}

}  // namespace elbokit::cpu
