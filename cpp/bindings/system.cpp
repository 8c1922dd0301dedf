#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/bindings.h"
#include "dispatch/cpu_level.h"
#include "dispatch/threads.h"

namespace elbokit::bindings {

namespace py = pybind11;

namespace {

constexpr char kGetNumThreads[] = R"(Return how many threads the kernels run on.

Returns
-------
n : int
    ``ELBOKIT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the processors that the process may
    use, unless :func:`set_num_threads` was called.
)";

constexpr char kSetNumThreads[] =
    R"(Set how many threads the kernels run on. Results do not depend on it.

Parameters
----------
n : int
    At least 1; more than 256 count as 256. Small work stays on the calling thread.

Raises
------
TypeError
    `n` is no integer.
ValueError
    `n` is below 1.

Notes
-----
Losses on torch's CPU tensors run on torch's threads, of which they take at most `n`.
)";

}  // namespace

void register_system(py::module_& m) {
  using namespace py::literals;
  m.attr("version") = ELBOKIT_VERSION;
  m.attr("compiler") = ELBOKIT_COMPILER;
  m.attr("build_type") = ELBOKIT_BUILD_TYPE;
  m.attr("without_cuda") = ELBOKIT_WITHOUT_CUDA;  // why this build has no CUDA kernels, or empty
  m.def("built_cpu_levels", &dispatch::built_levels);
  m.def("cpu_levels", [] {
    std::vector<std::string> names;
    for (dispatch::Level level : dispatch::available_levels())
      names.push_back(dispatch::name_of(level));
    return names;
  });
  m.def("cpu_level", [] { return dispatch::name_of(dispatch::level()); });
  m.def("set_cpu_level", &dispatch::set_level, "level"_a);
  m.def("get_num_threads", &dispatch::thread_count, kGetNumThreads);
  m.def(
      "set_num_threads",
      [](const py::object& n) {
        if (!PyIndex_Check(n.ptr()) || PyBool_Check(n.ptr()))
          throw py::type_error("`n` is " + py::repr(n).cast<std::string>() +
                               ", expected an integer");
        // What no integer of C++ can hold becomes the largest one.
        const Py_ssize_t count = PyNumber_AsSsize_t(n.ptr(), nullptr);
        if (count == -1 && PyErr_Occurred()) throw py::error_already_set();
        if (count < 1)
          throw py::value_error("`n` is " + py::repr(n).cast<std::string>() +
                                ", expected at least 1");
        dispatch::set_thread_count(
            static_cast<int>(std::min<Py_ssize_t>(count, dispatch::kMaxThreads)));
      },
      "n"_a, kSetNumThreads);
  // Addresses of functions, as ctypes has them.
  m.def(
      "lend_team",
      [](std::uintptr_t run, std::uintptr_t size) {
        dispatch::lend_team(reinterpret_cast<dispatch::TeamRun>(run),
                            reinterpret_cast<dispatch::TeamSize>(size));
      },
      "run"_a, "size"_a);
}

}  // namespace elbokit::bindings
