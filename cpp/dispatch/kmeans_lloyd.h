// Lloyd's iterations with bounds (after Hamerly 2010) that spare rows whose label cannot change.
// Keeps its memory from problem to problem.
#pragma once

#include <vector>

#include "dispatch/kmeans_tasks.h"

namespace elbokit::cpu {

template <class T>
class KMeansLloyd {
 public:
  explicit KMeansLloyd(const KMeansRowTasks<T>& tasks) : tasks_(tasks) {}

  // `bounds` is scratch for a value per row.
  void start(std::int64_t n_clusters, const std::int64_t* seeds, std::int32_t* labels, T* bounds);

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
  void add_drift();

  const KMeansRowTasks<T>& tasks_;
  std::int64_t k_ = 0, d_ = 0;
  std::int32_t* labels_ = nullptr;
  T* bounds_ = nullptr;
  bool all_ = true;             // the bounds say nothing yet
  std::int64_t computed_ = 0;   // rows whose distances the last pass computed
  std::vector<T> rounded_;      // centers less pivot, as the kernels read them
  std::vector<double> center_;  // and before rounding
  std::vector<T> rounded_before_;
  std::vector<double> center_before_, shift_, drift_;
  std::vector<T> drift_rounded_;       // upwards
  std::vector<double> high_, low_;     // (k, d + 1): sums of w (x - pivot), then of w
  std::vector<double> total_;          // their sum, and what relocation makes of it
  std::vector<std::int64_t> members_;  // rows of positive weight
  std::vector<double> chunk_memory_;
  std::vector<std::int64_t> chunk_members_;
  std::vector<KMeansSums> chunk_sums_;
};

}  // namespace elbokit::cpu
