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
  Family family;
  std::int64_t k, d, second;  // second: per component; tied: in all
  SumsLayout() = default;
  SumsLayout(Family f, std::int64_t n_components, std::int64_t n_features)
      : family(f), k(n_components), d(n_features) {
    second = f == Family::full ? d * d : f == Family::diag ? d : d * d + k * k;
  }
  std::int64_t size() const { return k * (1 + d) + (family == Family::tied ? 1 : k) * second; }
  GmmSums at(double* base) const { return {base, base + k, base + k * (1 + d), 0.0}; }
};

template <class T>
class GmmPass {
 public:
  // mass: the sum of the sample weights. threads: whether others than the calling one may help.
  void run(const GmmRows<T>& rows, const GmmParameters& parameters, double mass, bool threads,
           const GmmStatistics& out);

 private:
  void plan(std::int64_t n, const GmmParameters& parameters);
  void add_chunks(const GmmRows<T>& rows, double drop_scale, bool threads);
  bool kept_enough(const GmmParameters& parameters, double mass) const;
  void recentre(std::int64_t k) const;
  void write(const GmmParameters& parameters, const GmmStatistics& out) const;
  void write_tied(double* second) const;

  PreparedGmm<T> prepared_;
  std::int64_t planned_rows_ = -1;
  SumsLayout layout_{};
  std::vector<RowRange> chunks_;
  std::vector<double> memory_;  // of all chunks' sums
  std::vector<GmmSums> sums_;
  dispatch::Workspaces<T> workspaces_;
};

}  // namespace elbokit::cpu
