// Rows sorted by a label: every label's rows are a run. One step at a time, for where the address
// of a store hangs on what was just stored processors wait: 20 cycles a row in one loop, 7 in
// three.
#pragma once

#include "simd/vec.h"

#include <algorithm>

namespace elbokit::ELBOKIT_LEVEL {

// Labels are whole numbers from 0 to n_labels - 1, in T.
struct Runs {
  std::int32_t *label, *place;  // of each row
  std::int32_t *size, *start;   // of each run

  // Integers that `rows` rows need.
  static std::int64_t size_of(std::int64_t rows, std::int64_t n_labels) {
    return 2 * (rows + n_labels);
  }

  Runs(std::int64_t rows, std::int64_t n_labels, std::int32_t* memory)
      : label(memory), place(label + rows), size(place + rows), start(size + n_labels) {}

  // Makes label and size; the place within the run comes first.
  template <class T>
  void count(const T* labels, std::int64_t rows, std::int64_t n_labels) const {
    for (std::int64_t n = 0; n < rows; ++n) label[n] = static_cast<std::int32_t>(labels[n]);
    std::fill_n(size, n_labels, 0);
    for (std::int64_t n = 0; n < rows; ++n) place[n] = size[label[n]]++;
  }

  // Runs [0, n_runs) one behind the other from `begin` on. Returns where they end.
  std::int32_t line_up(std::int64_t n_runs, std::int32_t begin) const {
    for (std::int64_t k = 0; k < n_runs; ++k) {
      start[k] = begin;
      begin += size[k];
    }
    return begin;
  }

  // Makes place of the place within the run.
  void finish(std::int64_t rows) const {
    for (std::int64_t n = 0; n < rows; ++n) place[n] += start[label[n]];
  }
};

}  // namespace elbokit::ELBOKIT_LEVEL
