// One pass over one mixture's rows, for its statistics. Keeps its memory from pass to pass.
#pragma once

#include <functional>
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
  struct Together {
    GmmPass* pass;
    GmmParameters parameters;
    GmmStatistics out;
  };

  // mass: the sum of the sample weights. threads: whether others than the calling one may help.
  // posterior: written in the same pass.
  void run(const GmmRows<T>& rows, const GmmParameters& parameters, double mass, bool threads,
           const GmmStatistics& out, const GmmPosterior<T>& posterior = {});

  // The same for several mixtures of one shape on the same rows, bit for bit: a part of the rows
  // that the cache holds is read by all of them before the next part is. pause() is called on the
  // calling thread every now and then, and may throw.
  static void run_together(const GmmRows<T>& rows, const std::vector<Together>& all, double mass,
                           const std::function<void()>& pause);

  // Bytes of the sums of one mixture's chunks.
  static std::int64_t sums_bytes(std::int64_t n, const GmmParameters& parameters);

 private:
  std::int64_t chunk_total() const { return static_cast<std::int64_t>(chunks_.size()); }
  void begin(std::int64_t n, const GmmParameters& parameters);
  void plan(std::int64_t n, const GmmParameters& parameters);
  void clear(std::int64_t chunk);
  bool add_part(const GmmRows<T>& rows, std::int64_t chunk, std::int64_t part, double drop_scale,
                dispatch::Workspaces<T>& workspaces, int slot);
  void add_chunks(const GmmRows<T>& rows, double drop_scale, bool threads);
  void merge(bool threads);
  void finish(const GmmRows<T>& rows, const GmmParameters& parameters, double mass, bool threads,
              const GmmStatistics& out);
  bool kept_enough(const GmmParameters& parameters, double mass) const;
  bool one_center_served() const;
  void recentre(std::int64_t k) const;
  void write(const GmmParameters& parameters, const GmmStatistics& out) const;
  void write_tied(double* second) const;

  PreparedGmm<T> prepared_;
  std::int64_t planned_rows_ = -1;
  SumsLayout layout_{};
  std::vector<RowRange> chunks_;
  std::int64_t part_rows_ = 0;  // of a chunk, at one go
  std::vector<double> memory_;  // of all chunks' sums
  std::vector<GmmSums> sums_;
  GmmPosterior<T> posterior_{};
  dispatch::Workspaces<T> workspaces_;
};

}  // namespace elbokit::cpu
