#include "elbokit/logsumexp.h"

#include "dispatch/cpu_level.h"
#include "dispatch/loss_outputs.h"
#include "dispatch/row_tasks.h"

namespace elbokit::cpu {

template <class T>
void logsumexp(const LogsumexpArgs<T>& args) {
  const auto kernel = ELBOKIT_KERNEL(logsumexp<T>);
  dispatch::RowTasks(args.outer, args.n * args.inner)
      .run([&](std::int64_t begin, std::int64_t end, std::int64_t) { kernel(args, begin, end); });
}

template <class T>
void logsumexp_backward(const LogsumexpBackwardArgs<T>& given) {
  const auto kernel = ELBOKIT_KERNEL(logsumexp_backward<T>);
  LogsumexpBackwardArgs<T> args = given;
  args.stream = ready_to_stream(
      args.out, static_cast<std::size_t>(args.outer * args.n * args.inner) * sizeof(T));
  dispatch::RowTasks(args.outer, args.n * args.inner)
      .run([&](std::int64_t begin, std::int64_t end, std::int64_t) { kernel(args, begin, end); });
}

template void logsumexp(const LogsumexpArgs<float>&);
template void logsumexp(const LogsumexpArgs<double>&);
template void logsumexp_backward(const LogsumexpBackwardArgs<float>&);
template void logsumexp_backward(const LogsumexpBackwardArgs<double>&);

}  // namespace elbokit::cpu
