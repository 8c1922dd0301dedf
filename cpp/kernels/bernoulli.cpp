#include "elbokit/bernoulli.h"

#include "kernels/rows.h"
#include "math/bernoulli.h"

namespace elbokit::ELBOKIT_LEVEL {

template <class T>
double bernoulli_loss(const BernoulliArgs<T>& args, std::int64_t begin, std::int64_t end) {
  const Vec<T> one = broadcast<T>(1);
  double total = 0;
  for (std::int64_t row = begin; row < end; ++row) {
    const RowReader<T> logits(args.logits, row), target(args.target, row);
    const RowReader<T> weight(args.weight, row), pos_weight(args.pos_weight, row);
    T* const elementwise = args.elementwise ? args.elementwise.row(row) : nullptr;
    T* const grad = args.grad ? args.grad.row(row) : nullptr;
    Sum<T> sum;
    for_each_vector<T>(args.cols, [&](std::int64_t col, int count) ELBOKIT_INLINE_LAMBDA {
      const Vec<T> t = target(col, count);
      const Vec<T> on = pos_weight.data ? pos_weight(col, count) * t : t;
      BernoulliTerm<Vec<T>> term = bernoulli_term<Vec<T>>(logits(col, count), one - t, on);
      if (weight.data) {
        const Vec<T> w = weight(col, count);
        term = {term.loss * w, term.grad * w};
      }
      sum.add(first_lanes<T>(term.loss, count));
      if (elementwise) write<T>(elementwise + col, term.loss, count);
      if (grad) write<T>(grad + col, term.grad * args.scale, count);
    });
    const double row_loss = sum.total();
    if (args.row_loss) args.row_loss[row] = static_cast<T>(row_loss);
    total += row_loss;
  }
  return total;
}

template double bernoulli_loss(const BernoulliArgs<float>&, std::int64_t, std::int64_t);
template double bernoulli_loss(const BernoulliArgs<double>&, std::int64_t, std::int64_t);

}  // namespace elbokit::ELBOKIT_LEVEL
