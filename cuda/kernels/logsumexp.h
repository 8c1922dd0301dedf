// The kernels of log-sum-exp over one axis of a strided array.
#pragma once

#include "common/queue.h"
#include "elbokit/logsumexp.h"

namespace elbokit::cuda {

// Bytes that logsumexp needs, whatever the shape.
std::size_t logsumexp_workspace();

template <class T>
void logsumexp(const Queue& queue, const LogsumexpArgs<T>& args);
template <class T>
void logsumexp_backward(const Queue& queue, const LogsumexpBackwardArgs<T>& args);

}  // namespace elbokit::cuda
