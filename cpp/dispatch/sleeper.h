// A thread that sleeps until there is work, and the processor on which it wakes up.
#pragma once

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace elbokit::dispatch {

// Linux may wake a thread on the processor of the one that woke it although another is idle, and
// leave both there for milliseconds (seen on virtual machines that have rested for 50 ms). A
// sleeping thread can be kept off that processor until it is awake. Nothing happens where the
// system does not allow it.
class Sleeper {
 public:
#if defined(__linux__)
  using Id = pid_t;

  explicit Sleeper(Id thread = current()) : thread_(thread) {}

  Id id() const { return thread_; }

  // While the thread sleeps. Asked for again before it is awake, it changes nothing: the thread may
  // run anywhere it might before.
  void keep_off(int processor) {
    if (kept_off_) return;
    if (processor < 0 || processor >= CPU_SETSIZE || !is_ours()) return;
    if (sched_getaffinity(thread_, sizeof(allowed_), &allowed_) != 0) return;
    cpu_set_t others = allowed_;
    CPU_CLR(processor, &others);
    kept_off_ = CPU_COUNT(&others) > 0 && sched_setaffinity(thread_, sizeof(others), &others) == 0;
  }

  // By the thread itself, or whoever kept it off.
  void awake() {
    if (kept_off_) sched_setaffinity(thread_, sizeof(allowed_), &allowed_);
    kept_off_ = false;
  }

  static Id current() {
    thread_local const Id id = static_cast<Id>(syscall(SYS_gettid));
    return id;
  }
  static int current_processor() { return sched_getcpu(); }

 private:
  // A thread of a lent team may have ended, and its number be that of another program's.
  bool is_ours() const { return syscall(SYS_tgkill, getpid(), thread_, 0) == 0; }

  Id thread_;
  cpu_set_t allowed_;
  bool kept_off_ = false;
#else
  using Id = int;

  explicit Sleeper(Id = 0) {}
  Id id() const { return 0; }
  void keep_off(int) {}
  void awake() {}
  static Id current() { return 0; }
  static int current_processor() { return -1; }
#endif
};

}  // namespace elbokit::dispatch
