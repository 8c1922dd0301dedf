// Fused multiply-adds a second where nothing but the registers takes part: prints GFLOP/s of float
// and of double, all threads together. Chains enough to hide the latency, and no memory.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kBytes = 64, kChains = 24;
#elif defined(__AVX__)
constexpr int kBytes = 32, kChains = 12;
#else
constexpr int kBytes = 16, kChains = 12;
#endif

// Returns a sum of what it computed, which the compiler may not leave out.
template <class T>
T chains(long rounds, T factor, T term) {
  typedef T Vec __attribute__((vector_size(kBytes)));
  Vec sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = Vec{} + T(c);  // else they are one and the same
  const Vec f = Vec{} + factor, t = Vec{} + term;
  for (long i = 0; i < rounds; ++i)
#pragma GCC unroll 24
    for (int c = 0; c < kChains; ++c) sum[c] = sum[c] * f + t;
  T total = 0;
  for (const Vec& each : sum) total += each[0];
  return total;
}

template <class T>
double rate(int threads) {
  constexpr long rounds = 20'000'000;
  volatile T factor = T(0.5), term = T(1);
  std::vector<T> sums(threads);
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i)
    others.emplace_back([&, i] { sums[i] = chains<T>(rounds, factor, term); });
  sums[0] = chains<T>(rounds, factor, term);
  for (std::thread& other : others) other.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  for (const T sum : sums)
    if (!(sum > 0)) std::abort();
  const double operations = 2.0 * rounds * kChains * (kBytes / sizeof(T)) * threads;
  return operations / seconds.count() / 1e9;
}

int main(int, char** arguments) {
  const int threads = std::atoi(arguments[1]);
  std::printf("%.6g %.6g\n", rate<float>(threads), rate<double>(threads));
}
