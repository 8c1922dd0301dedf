// The elementary functions by the names that the bindings of both back ends take.
#pragma once

#include <pybind11/pybind11.h>

#include <map>
#include <string>

#include "elbokit/elementary.h"

namespace elbokit::bindings {

inline Elementary elementary_of(const std::string& function) {
  static const std::map<std::string, Elementary> functions{
      {"exp", Elementary::exp},
      {"expm1", Elementary::expm1},
      {"exp_nonpositive", Elementary::exp_nonpositive},
      {"exp2_nonpositive", Elementary::exp2_nonpositive},
      {"log", Elementary::log},
      {"log1p", Elementary::log1p},
      {"log1p_unit", Elementary::log1p_unit},
      {"logistic_share", Elementary::logistic_share}};
  const auto found = functions.find(function);
  if (found == functions.end())
    throw pybind11::value_error("`function` is '" + function +
                                "', which is not an elementary function");
  return found->second;
}

}  // namespace elbokit::bindings
