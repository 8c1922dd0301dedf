#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "dispatch/cpu_level.h"
#include "dispatch/threads.h"

namespace elbokit::bindings {

namespace py = pybind11;

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
  m.def("get_num_threads", &dispatch::thread_count);
  m.def(
      "set_num_threads",
      [](int n) {
        if (n < 1) throw py::value_error("`n` is " + std::to_string(n) + ", expected at least 1");
        dispatch::set_thread_count(n);
      },
      "n"_a);
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
