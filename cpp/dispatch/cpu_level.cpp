#include "dispatch/cpu_level.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace elbokit::dispatch {

namespace {

#if defined(__x86_64__)
const Level kBuilt[] = {Level::v2, Level::v3, Level::v4};
bool supported(Level candidate) {
  switch (candidate) {
    case Level::v4:
#if defined(ELBOKIT_SPLIT_VECTORS)
      return __builtin_cpu_supports("fma");
#else
      return __builtin_cpu_supports("x86-64-v4");
#endif
    case Level::v3:
      return __builtin_cpu_supports("x86-64-v3");
    default:
      return __builtin_cpu_supports("x86-64-v2");
  }
}
#else
const Level kBuilt[] = {Level::baseline};
bool supported(Level) { return true; }
#endif

std::string joined(const std::vector<Level>& levels) {
  std::string names;
  for (Level each : levels) names += (names.empty() ? "" : ", ") + name_of(each);
  return names;
}

Level parse(const std::string& name, const std::string& source) {
  const std::vector<Level> levels = available_levels();
  for (Level each : levels)
    if (name_of(each) == name) return each;
  throw std::invalid_argument(
      source + " is '" + name +
      "', expected one of the levels that this machine runs: " + joined(levels));
}

Level initial_level() {
  if (const char* name = std::getenv("ELBOKIT_CPU_LEVEL"); name && *name)
    return parse(name, "ELBOKIT_CPU_LEVEL");
  const std::vector<Level> levels = available_levels();
  if (levels.empty())
    throw std::runtime_error("elbokit needs an x86-64-v2 processor (SSE4.2) or newer");
  return levels.back();
}

std::atomic<Level>& current() {
  static std::atomic<Level> level{initial_level()};
  return level;
}

}  // namespace

std::string name_of(Level level) {
#if defined(__x86_64__)
  return level == Level::v4 ? "v4" : level == Level::v3 ? "v3" : "v2";
#else
  (void)level;
  return "baseline";
#endif
}

std::vector<Level> available_levels() {
  std::vector<Level> levels;
  for (Level each : kBuilt)
    if (supported(each)) levels.push_back(each);
  return levels;
}

std::vector<std::string> built_levels() {
  std::vector<std::string> names;
  for (Level each : kBuilt) names.push_back(name_of(each));
  return names;
}

Level level() { return current().load(std::memory_order_relaxed); }

void set_level(const std::string& name) { current().store(parse(name, "level")); }

}  // namespace elbokit::dispatch
