// What a loss writes, made ready for writing.
#pragma once

#include "dispatch/huge_pages.h"
#include "elbokit/bernoulli.h"

namespace elbokit::cpu {

template <class T>
void prepare_outputs(const BernoulliArgs<T>& args) {
  for (const Matrix<T>& out : {args.elementwise, args.grad})
    if (out)
      dispatch::advise_huge_pages(out.data,
                                  sizeof(T) * static_cast<std::size_t>(args.rows * out.row_stride));
}

}  // namespace elbokit::cpu
