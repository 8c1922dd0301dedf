// Lloyd's iterations with bounds (after Hamerly 2010) that spare rows whose label cannot change.
#pragma once

#include <vector>

#include "dispatch/kmeans_tasks.h"

namespace elbokit::cpu {

template <class T>
class KMeansLloyd {
 public:
  // `bounds` is scratch for a value per row.
  KMeansLloyd(const KMeansRowTasks<T>& tasks, std::int64_t n_clusters, std::int32_t* labels,
              T* bounds);

  void start(const std::int64_t* seeds);

  // Iterates until no label changes, or the squared shift of the centers is at most `tol`; labels
  // are those of the last centers. Returns the number of iterations.
  std::int64_t run(std::int64_t max_iter, double tol, KMeansCheck check);

  void write_centers(double* centers) const;
  double inertia();

 private:
  KMeansPass<T> pass() const;
  std::int64_t assign();  // how many labels changed
  void merge(std::int64_t task);
  double move_centers();  // by how much, squared, in all
  void average();
  void relocate_empty();
  void add_drift(const std::vector<T>& before);

  const KMeansRowTasks<T>& tasks_;
  std::int64_t k_, d_;
  std::int32_t* labels_;
  T* bounds_;
  bool all_ = true;             // the bounds say nothing yet
  std::int64_t computed_ = 0;   // rows whose distances the last pass computed
  std::vector<T> rounded_;      // centers less pivot, as the kernels read them
  std::vector<double> center_;  // and before rounding
  std::vector<double> drift_;
  std::vector<T> drift_rounded_;       // upwards
  std::vector<double> high_, low_;     // (k, d + 1): sums of w (x - pivot), then of w
  std::vector<double> total_;          // their sum, and what relocation makes of it
  std::vector<std::int64_t> members_;  // rows of positive weight
  std::vector<double> chunk_memory_;
  std::vector<std::int64_t> chunk_members_;
  std::vector<KMeansSums> chunk_sums_;
};

}  // namespace elbokit::cpu
