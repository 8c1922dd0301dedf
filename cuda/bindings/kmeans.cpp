#include "kernels/kmeans.h"

#include <limits>

#include "bindings.h"

namespace elbokit::cuda_bindings {

namespace {

// Tensors whose elements no Operand has come as their addresses; they are contiguous.
template <class T>
T* address(const py::object& given) {
  return given.is_none() ? nullptr : reinterpret_cast<T*>(given.cast<std::uintptr_t>());
}

cuda::KMeansData data_of(const py::object& X, const py::object& sample_weight) {
  const View view = view_of(X, "X", false);
  if (view.rows < 1 || view.cols < 1 || view.rows > std::numeric_limits<std::int32_t>::max())
    throw py::value_error("`X` has " + std::to_string(view.rows) + " samples and " +
                          std::to_string(view.cols) + " features, expected 1 to 2**31 - 1, and 1");
  if (view.element == Element::kUint8)
    throw py::type_error("`X` has dtype uint8 or bool, expected a floating one");
  const Operand x = operand<double>(X, "X", view.rows, view.cols);
  if (x.col_stride != 1) throw py::value_error("`X` has repeated columns");
  cuda::KMeansData data{view.rows, view.cols, x.data, x.element, x.row_stride, nullptr};
  const auto weigh = [&](auto value) {
    const auto weight = vector_of<const decltype(value)>(sample_weight, "sample_weight", view.rows);
    if (weight && view.rows > 1 && weight.stride != 1)
      throw py::value_error("`sample_weight` is not contiguous");
    data.sample_weight = weight.data;
  };
  view.element == Element::kFloat64 ? weigh(double{}) : weigh(float{});
  return data;
}

KMeansOptions options_of(std::int64_t n_clusters, std::int64_t n_trials, double tol,
                         bool weigh_tol) {
  if (n_clusters < 1 || n_trials < 1)
    throw py::value_error("`n_clusters` and `n_trials` are " + std::to_string(n_clusters) +
                          " and " + std::to_string(n_trials) + ", expected at least 1");
  return {n_clusters, n_trials, 0, tol, weigh_tol};
}

std::size_t kmeans_workspace(int device, const py::object& X, std::int64_t n_clusters,
                             std::int64_t n_trials) {
  cuda::Queue queue;
  queue.device = device;
  return cuda::kmeans_workspace(
      data_of(X, py::none()), options_of(n_clusters, n_trials, 0.0, false), cuda::device_of(queue));
}

// A run of k-means. It keeps the descriptions it was given, and they their tensors.
struct Run {
  Run(const py::tuple& given_queue, const py::object& X, const py::object& sample_weight,
      std::int64_t n_clusters, std::int64_t n_trials, double tol, bool weigh_tol,
      const py::object& seeds, const py::object& labels, const py::object& centers,
      const py::object& status)
      : queue(queue_of(given_queue)),
        data(data_of(X, sample_weight)),
        kept(py::make_tuple(given_queue, X, sample_weight, centers, status)) {
    run.options = options_of(n_clusters, n_trials, tol, weigh_tol);
    run.seeds = address<std::int64_t>(seeds);
    run.labels = address<std::int32_t>(labels);
    run.centers = matrix_of<double>(centers, "centers", n_clusters, data.n_features).data;
    run.status = reinterpret_cast<cuda::KMeansStatus*>(vector_of<double>(status, "status", 4).data);
  }

  void seed(const py::object& uniforms) const {
    const auto u = vector_of<const double>(uniforms, "uniforms", kmeans_draws(run.options));
    cuda::kmeans_seed(queue, data, run, u.data);
  }
  void start() const { cuda::kmeans_start(queue, data, run); }
  void step(bool last) const { cuda::kmeans_step(queue, data, run, last); }
  void finish(const py::object& inertia) const {
    cuda::kmeans_finish(queue, data, run, vector_of<double>(inertia, "inertia", 1).data);
  }

  cuda::Queue queue;
  cuda::KMeansData data;
  cuda::KMeansRun run{};
  py::tuple kept;
};

// Moments to be summed up. As above.
struct Moments {
  Moments(const py::object& X, const py::object& sample_weight, const py::object& labels, bool full,
          const py::object& centers, const py::object& counts, const py::object& second)
      : data(data_of(X, sample_weight)),
        kept(py::make_tuple(X, sample_weight, centers, counts, second)) {
    const std::int64_t k = view_of(counts, "counts", true).rows, d = data.n_features;
    args.n_clusters = k;
    args.labels = address<const std::int32_t>(labels);
    args.full = full;
    args.counts = vector_of<double>(counts, "counts", k).data;
    args.centers = matrix_of<double>(centers, "centers", k, d).data;
    args.second = matrix_of<double>(second, "second_moments", k, full ? d * d : d).data;
  }
  std::size_t workspace() const { return cuda::label_moments_workspace(data, args); }
  void launch(const py::tuple& queue) const { cuda::label_moments(queue_of(queue), data, args); }

  cuda::KMeansData data;
  cuda::LabelMomentsArgs args{};
  py::tuple kept;
};

}  // namespace

void register_kmeans(py::module_& m) {
  using namespace py::literals;
  m.def("kmeans_workspace", &kmeans_workspace, "device"_a, "X"_a, "n_clusters"_a, "n_trials"_a);
  py::class_<Run>(m, "KMeansRun", py::module_local())
      .def(py::init<const py::tuple&, const py::object&, const py::object&, std::int64_t,
                    std::int64_t, double, bool, const py::object&, const py::object&,
                    const py::object&, const py::object&>(),
           "queue"_a, "X"_a, "sample_weight"_a, "n_clusters"_a, "n_trials"_a, "tol"_a,
           "weigh_tol"_a, "seeds"_a, "labels"_a, "centers"_a, "status"_a)
      .def("seed", &Run::seed, "uniforms"_a)
      .def("start", &Run::start)
      .def("step", &Run::step, "last"_a)
      .def("finish", &Run::finish, "inertia"_a);
  py::class_<Moments>(m, "LabelMoments", py::module_local())
      .def(py::init<const py::object&, const py::object&, const py::object&, bool,
                    const py::object&, const py::object&, const py::object&>(),
           "X"_a, "sample_weight"_a, "labels"_a, "full"_a, "centers"_a, "counts"_a,
           "second_moments"_a)
      .def("workspace", &Moments::workspace)
      .def("launch", &Moments::launch, "queue"_a);
}

}  // namespace elbokit::cuda_bindings
