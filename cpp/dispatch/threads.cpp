#include "dispatch/threads.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <list>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#include "dispatch/sleeper.h"

namespace elbokit::dispatch {

namespace {

// How long a thread that has nothing to do looks out for work before it sleeps. Waking it takes 30
// to 50 us, and between two loops of an EM in Python, chunk by chunk, lie some 100.
constexpr std::chrono::microseconds kLookout{200};

// Keeping a sleeper off a processor takes some us: only the first ones are.
constexpr std::size_t kMostKeptOff = 8;

using Clock = std::chrono::steady_clock;

// After this time without work the threads of a lent team may sleep (libgomp's look out for some
// ms).
constexpr std::chrono::milliseconds kTeamRest{1};

// Whether ready() came true in that time.
template <class F>
bool look_out(F&& ready) {
  const auto end = Clock::now() + kLookout;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (Clock::now() < end);
  return false;
}

// The tasks that one thread begins with, one after the other from the front. Others who have none
// left take them from the back.
class Stretch {
 public:
  static constexpr std::int64_t kMost = 0xffffffff;

  void assign(std::int64_t begin, std::int64_t end) { span_.store(span(begin, end)); }
  bool is_empty() const { return is_empty(span_.load(std::memory_order_relaxed)); }

  // The task, or -1 if there are none.
  std::int64_t take_first() {
    const std::uint64_t found = take([](std::uint64_t span) { return span + 1; });
    return is_empty(found) ? -1 : begin_of(found);
  }
  std::int64_t take_last() {
    const std::uint64_t found = take([](std::uint64_t span) { return span - (kMost + 1); });
    return is_empty(found) ? -1 : end_of(found) - 1;
  }

 private:
  static std::uint64_t span(std::int64_t begin, std::int64_t end) {
    return static_cast<std::uint64_t>(end) << 32 | static_cast<std::uint64_t>(begin);
  }
  static std::int64_t begin_of(std::uint64_t span) {
    return static_cast<std::int64_t>(span & kMost);
  }
  static std::int64_t end_of(std::uint64_t span) { return static_cast<std::int64_t>(span >> 32); }
  static bool is_empty(std::uint64_t span) { return begin_of(span) >= end_of(span); }

  // Puts less(span) in the place of a span that is not empty; returns what was there.
  template <class F>
  std::uint64_t take(F&& less) {
    std::uint64_t found = span_.load(std::memory_order_relaxed);
    while (!is_empty(found) &&
           !span_.compare_exchange_weak(found, less(found), std::memory_order_relaxed)) {
    }
    return found;
  }

  alignas(64) std::atomic<std::uint64_t> span_;  // the end in the upper half
};

// Each thread has a stretch of the tasks to itself: two that stream through memory in turn, piece
// by piece, fetch ahead what is the other's. On 16,384 x 784 that took a tenth to a quarter longer.
struct Job {
  Job(Task task, void* context, std::int64_t count, int slots)
      : task(task), context(context), slots(std::max(slots, 1)) {
    if (count > Stretch::kMost) throw std::length_error("more than 2^32 - 1 tasks");
    for (std::int64_t i = 0; i < this->slots; ++i)
      stretches[i].assign(count * i / this->slots, count * (i + 1) / this->slots);
  }

  Task task;
  void* context;
  int slots;  // threads that may take part
  Stretch stretches[kMaxThreads];
  int taken = 1;               // slots in use; the caller has slot 0. Guarded by the pool's mutex.
  std::atomic<int> active{0};  // workers inside; changed with the pool's mutex held
  std::mutex failure_mutex;
  std::exception_ptr failure;  // the first; what is left of the job is then dropped

  void work(int slot) noexcept {
    try {
      for (std::int64_t i; (i = stretches[slot].take_first()) >= 0;) task(context, i, slot);
      for (int away = 1; away < slots; ++away)
        for (std::int64_t i; (i = stretches[(slot + away) % slots].take_last()) >= 0;)
          task(context, i, slot);
    } catch (...) {
      for (int i = 0; i < slots; ++i) stretches[i].assign(0, 0);
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  }
  bool wants_help() const {
    const auto has_some = [](const Stretch& stretch) { return !stretch.is_empty(); };
    return taken < slots && std::any_of(stretches, stretches + slots, has_some);
  }
};

struct Pool {
  std::mutex mutex;
  std::condition_variable wake, done;
  std::list<Job*> jobs;  // of all callers
  int workers = 0;
  std::vector<Sleeper*> sleepers;        // has room for all
  int posted_on = -1;                    // the processor of whoever posted the last job
  bool stacked = false;                  // whether a thread was ever woken up there
  std::atomic<std::uint64_t> posted{0};  // jobs so far; changed with the mutex held

  Pool() { sleepers.reserve(kMaxThreads); }

  void grow(int wanted) {  // with the mutex held
    try {
      for (; workers < wanted; ++workers) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      // No more threads to be had: those that there are do the work.
    }
  }

  [[noreturn]] void serve() {
    Sleeper self;
    std::unique_lock<std::mutex> lock(mutex);
    for (;;) {
      const auto found =
          std::find_if(jobs.begin(), jobs.end(), [](Job* job) { return job->wants_help(); });
      if (found == jobs.end()) {
        const std::uint64_t seen = posted.load();
        const auto more = [&] { return posted.load() != seen; };
        lock.unlock();
        look_out(more);
        lock.lock();
        sleepers.push_back(&self);
        wake.wait(lock, more);
        sleepers.erase(std::find(sleepers.begin(), sleepers.end(), &self));
        self.awake();
        stacked |= Sleeper::current_processor() == posted_on;
        continue;
      }
      Job& job = **found;
      const int slot = job.taken++;
      ++job.active;
      lock.unlock();
      job.work(slot);
      lock.lock();
      if (--job.active == 0) done.notify_all();
    }
  }

  void run(Job& job) {
    std::unique_lock<std::mutex> lock(mutex);
    grow(job.slots - 1);
    jobs.push_back(&job);
    ++posted;
    const bool asleep = !sleepers.empty();
    if (asleep) {
      posted_on = Sleeper::current_processor();
      for (std::size_t i = 0; stacked && i < std::min(sleepers.size(), kMostKeptOff); ++i)
        sleepers[i]->keep_off(posted_on);
    }
    lock.unlock();
    if (asleep) wake.notify_all();
    job.work(0);
    lock.lock();
    jobs.remove(&job);  // nobody comes in any more
    lock.unlock();
    const auto left = [&] { return job.active.load() == 0; };
    if (look_out(left)) return;
    lock.lock();
    done.wait(lock, left);
  }
};

// The other threads of a lent team, as they were in its last run; kept by the team's caller.
class TeamMates {
 public:
  // Before a run: keeps those that may sleep off the caller's processor, where that was seen to be
  // needed.
  void wake() {
    posted_on_ = Sleeper::current_processor();
    if (!stacked_ || Clock::now() - last_ < kTeamRest) return;
    for (std::size_t i = 0; i < std::min(mates_.size(), kMostKeptOff); ++i)
      mates_[i].keep_off(posted_on_);
  }

  // By each thread, the caller too, as it begins.
  void arrived(int slot) {
    const Sleeper::Id self = Sleeper::current();
    here_[slot] = self;
    if (self == caller_) return;
    if (Sleeper::current_processor() == posted_on_) stacked_ = true;
    for (Sleeper& mate : mates_)
      if (mate.id() == self) mate.awake();
  }

  // After the run, in which so many threads were.
  void left(int count) {
    last_ = Clock::now();
    bool same = static_cast<std::size_t>(count) == mates_.size() + 1;
    for (Sleeper& mate : mates_) {
      mate.awake();  // one that did not come
      same = same && std::count(here_, here_ + count, mate.id()) == 1;
    }
    if (same) return;
    mates_.clear();
    for (int slot = 0; slot < count; ++slot)
      if (here_[slot] != caller_) mates_.push_back(Sleeper(here_[slot]));
  }

 private:
  const Sleeper::Id caller_ = Sleeper::current();
  std::vector<Sleeper> mates_;
  Sleeper::Id here_[kMaxThreads];
  int posted_on_ = -1;
  std::atomic<bool> stacked_{false};
  Clock::time_point last_{};
};

// Never destroyed: its threads may outlive the other statics. A forked child has none of its
// parent's threads and gets a pool of its own.
std::atomic<Pool*> pool{nullptr};
std::atomic<int> requested{0};
std::atomic<TeamRun> team{nullptr};
std::atomic<TeamSize> team_size{nullptr};

Pool& get_pool() {
  static const bool registered = [] {
    pool.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] {
      pool.store(new Pool);
      team.store(nullptr);
    });
    return true;
  }();
  (void)registered;
  return *pool.load();
}

int default_thread_count() {
  for (const char* name : {"ELBOKIT_NUM_THREADS", "OMP_NUM_THREADS"})
    if (const char* value = std::getenv(name))
      if (const int count = std::atoi(value); count > 0) return count;
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

int thread_count() {
  int count = requested.load(std::memory_order_relaxed);
  if (count == 0) {
    count = std::min(default_thread_count(), kMaxThreads);
    requested.store(count, std::memory_order_relaxed);
  }
  return count;
}

void set_thread_count(int count) { requested.store(std::min(count, kMaxThreads)); }

void run_tasks(std::int64_t count, Task task, void* context) {
  const int slots = static_cast<int>(std::min<std::int64_t>(thread_count(), count));
  Job job(task, context, count, slots);
  if (slots <= 1)
    job.work(0);
  else
    get_pool().run(job);
  if (job.failure) std::rethrow_exception(job.failure);
}

void lend_team(TeamRun run, TeamSize size) {
  get_pool();  // for what happens in a fork
  team_size.store(size);
  team.store(run);
}

void run_in_team(std::int64_t count, Task task, void* context) {
  const TeamRun run = team.load();
  if (run == nullptr) return run_tasks(count, task, context);
  const int threads = std::min(thread_count(), std::max(1, team_size.load()()));
  const int slots = static_cast<int>(std::min<std::int64_t>(threads, count));
  thread_local TeamMates mates;  // of this caller: each has a team of its own
  struct TeamJob : Job {
    using Job::Job;
    TeamMates* mates = nullptr;
    std::atomic<int> next_slot{0};
  } job(task, context, count, slots);
  const auto member = [](void* data) {
    TeamJob& job = *static_cast<TeamJob*>(data);
    // However many threads come, also one alone in a team within a team, they do all tasks.
    const int slot = job.next_slot.fetch_add(1, std::memory_order_relaxed);
    job.mates->arrived(slot);
    job.work(slot);
  };
  if (slots <= 1) {
    job.work(0);
  } else {
    job.mates = &mates;
    mates.wake();
    run(member, &job, static_cast<unsigned>(slots), 0);
    mates.left(job.next_slot.load(std::memory_order_relaxed));
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

}  // namespace elbokit::dispatch
