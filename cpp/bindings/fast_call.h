// Functions that are called more often than they take long: with Python's own calling convention,
// positional arguments alone, in place of pybind11's, which takes a microsecond for eight.
#pragma once

#include <pybind11/pybind11.h>

#include <new>
#include <string>
#include <type_traits>
#include <utility>

namespace elbokit::bindings {

namespace py = pybind11;

template <class T>
T fast_argument(PyObject* given) {
  if constexpr (std::is_same_v<T, bool>) {
    return given == Py_True;
  } else if constexpr (std::is_same_v<T, double>) {
    const double value = PyFloat_AsDouble(given);
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
  } else {
    return given;
  }
}

template <auto Function>
struct FastCall;

template <class... Args, py::object (*Function)(Args...)>
struct FastCall<Function> {
  static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t count) {
    try {
      if (count != sizeof...(Args))
        throw py::type_error("got " + std::to_string(count) + " arguments, expected " +
                             std::to_string(sizeof...(Args)));
      return with(given, std::index_sequence_for<Args...>()).release().ptr();
    } catch (py::error_already_set& error) {
      error.restore();
    } catch (const py::builtin_exception& error) {
      error.set_error();
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
  }

 private:
  template <std::size_t... I>
  static py::object with(PyObject* const* given, std::index_sequence<I...>) {
    return Function(fast_argument<std::decay_t<Args>>(given[I])...);
  }
};

// Adds Function to the module.
template <auto Function>
void define_fast(py::module_& m, const char* name) {
  static PyMethodDef method{};
  method.ml_name = name;
  method.ml_meth =
      reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&FastCall<Function>::call));
  method.ml_flags = METH_FASTCALL;
  const auto made = py::reinterpret_steal<py::object>(PyCFunction_New(&method, nullptr));
  if (!made) throw py::error_already_set();
  m.add_object(name, made);
}

}  // namespace elbokit::bindings
