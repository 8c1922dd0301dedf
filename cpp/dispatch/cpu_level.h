// The CPU level in force, and the choice of a kernel by it.
#pragma once

#include <string>
#include <vector>

#include "elbokit/level.h"

namespace elbokit::dispatch {

#if defined(__x86_64__)
enum class Level { v2, v3, v4 };
#else
enum class Level { baseline };
#endif

// Levels that were built and that this machine can run, ascending.
std::vector<Level> available_levels();
std::vector<std::string> built_levels();

// Chosen at the first use: the highest available one, or ELBOKIT_CPU_LEVEL.
Level level();
// Throws std::invalid_argument for a name that is not available.
void set_level(const std::string& name);
std::string name_of(Level level);

// ELBOKIT_KERNEL(f<T>) is the function f<T> of the level in force.
#if defined(__x86_64__)
template <class F>
F* choose(F* v2, F* v3, F* v4) {
  switch (level()) {
    case Level::v4:
      return v4;
    case Level::v3:
      return v3;
    default:
      return v2;
  }
}
#define ELBOKIT_KERNEL(...) \
  ::elbokit::dispatch::choose(v2::__VA_ARGS__, v3::__VA_ARGS__, v4::__VA_ARGS__)
#else
#define ELBOKIT_KERNEL(...) (&baseline::__VA_ARGS__)
#endif

}  // namespace elbokit::dispatch
