// One pass over one mixture's rows, for its statistics. Keeps its memory from pass to pass.
#pragma once

#include <vector>

#include "dispatch/gmm_model.h"
#include "dispatch/workspaces.h"
#include "elbokit/gmm.h"

namespace elbokit::cpu {

struct RowRange {
  std::int64_t begin, end;
};

// n rows in at most `most` chunks: the units of work and of summation. They depend on the shape
// alone, so that the bits do not depend on the threads.
std::vector<RowRange> plan_chunks(std::int64_t n, std::int64_t block_rows, std::int64_t most);

// What a pass over n rows costs one thread, in ns, roughly: from the shape alone.
double estimated_cost(const GmmParameters& shape, std::int64_t n, std::size_t item_size);

// Where sums of one chunk lie in its memory.
struct SumsLayout {
  std::int64_t k, d, second;  // second: per component
  explicit SumsLayout(const GmmParameters& p) : k(p.n_components), d(p.n_features) {
    const bool full = p.covariance == Covariance::full || p.covariance == Covariance::tied;
    second = full ? d * d : d;
  }
  std::int64_t size() const { return k * (1 + d + second); }
  GmmSums at(double* base) const { return {base, base + k, base + k * (1 + d), 0.0}; }
};

template <class T>
class GmmPass {
 public:
  // mass: the sum of the sample weights. threads: whether others than the calling one may help.
  void run(const GmmRows<T>& rows, const GmmParameters& parameters, double mass, bool threads,
           const GmmStatistics& out);

 private:
  void plan(std::int64_t n, const GmmParameters& parameters, std::int64_t block_rows);
  void add_chunks(const GmmRows<T>& rows, const GmmParameters& parameters, double drop_scale,
                  bool threads);
  bool kept_enough(const GmmParameters& parameters, double mass) const;

  PreparedGmm<T> prepared_;
  std::int64_t planned_rows_ = -1, planned_block_ = 0;
  std::vector<RowRange> chunks_;
  std::vector<double> memory_;  // of all chunks' sums
  std::vector<GmmSums> sums_;
  dispatch::Workspaces<T> workspaces_;
};

}  // namespace elbokit::cpu
