// Sums of exponentials over a team, relative to the largest value: what log-sum-exp and softmax
// need.
#pragma once

#include "common/teams.h"
#include "math/logsumexp.h"

namespace elbokit::cuda {

template <class T>
inline constexpr T kLowest = -static_cast<T>(__builtin_huge_val());

template <class T>
struct Exponentials {
  T largest, shift;
  double sum;  // of e^(value - shift)
};

// The sum relative to another shift. 0 stays 0 whatever the factor, which may overflow.
ELBOKIT_DEVICE double rescaled(double sum, double from, double to) {
  return sum != 0 && from != to ? sum * math::exp<double>(from - to) : sum;
}

// The team's sum from that of each thread.
template <class Team, class T>
ELBOKIT_DEVICE Exponentials<T> joined(const Exponentials<T>& mine) {
  const T largest = team_largest<Team>(mine.largest), shift = math::logsumexp_shift(largest);
  const double sum =
      rescaled(mine.sum, static_cast<double>(mine.shift), static_cast<double>(shift));
  return {largest, shift, team_total<Team>(sum)};
}

// Of read(i), begin <= i < end, all but `skip` in the sum, in one sweep. power(x) is e^x for x <=
// 0. Elements are spread over the team, and each thread has several of them in flight. A sum that
// came before a larger value is rescaled in double: there may be many such steps.
template <class T, class Team, class Read, class Power>
ELBOKIT_DEVICE Exponentials<T> sweep(std::int64_t begin, std::int64_t end, std::int64_t skip,
                                     Read&& read, Power&& power) {
  constexpr int unroll = 8;
  Exponentials<T> mine{kLowest<T>, T(0), 0};
  for (std::int64_t at = begin + Team::lane(); at < end; at += unroll * Team::kSize) {
    T value[unroll];
    T largest = mine.largest;
#pragma unroll
    for (int u = 0; u < unroll; ++u) {
      const std::int64_t i = at + u * Team::kSize;
      value[u] = i < end ? read(i) : kLowest<T>;
    }
#pragma unroll
    for (int u = 0; u < unroll; ++u) largest = larger(largest, value[u]);
    if (largest > mine.largest) {
      const T shift = math::logsumexp_shift(largest);
      mine.sum = rescaled(mine.sum, static_cast<double>(mine.shift), static_cast<double>(shift));
      mine.largest = largest;
      mine.shift = shift;
    }
    T run = 0;
#pragma unroll
    for (int u = 0; u < unroll; ++u)
      run += at + u * Team::kSize == skip ? T(0) : power(value[u] - mine.shift);
    mine.sum += static_cast<double>(run);
  }
  return joined<Team>(mine);
}

// The same for at most kEach elements per thread, read(i), 0 <= i < n. They stay in registers:
// value[j] becomes the exponential of element lane + j * Team::kSize.
template <class Team, class T, int kEach, class Read, class Power>
ELBOKIT_DEVICE Exponentials<T> keep(int n, int skip, T (&value)[kEach], Read&& read,
                                    Power&& power) {
  const int lane = Team::lane();
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int i = lane + j * Team::kSize;
    value[j] = i < n ? read(i) : kLowest<T>;
  }
  T largest = kLowest<T>;
#pragma unroll
  for (int j = 0; j < kEach; ++j) largest = larger(largest, value[j]);
  largest = team_largest<Team>(largest);
  const T shift = math::logsumexp_shift(largest);
  T sum = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    value[j] = power(value[j] - shift);
    sum += lane + j * Team::kSize == skip ? T(0) : value[j];
  }
  return {largest, shift, team_total<Team>(static_cast<double>(sum))};
}

}  // namespace elbokit::cuda
