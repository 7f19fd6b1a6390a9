#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "lstm.h"

namespace longshort {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int SPINS = 4000;  // about 50 us: longer than the gap between two calls of a training loop, shorter than a time slice

// Waits until `word` is no longer `old`: spins, then sleeps.
void await(std::atomic<int>& word, int old) {
  for (int i = 0; i < SPINS; i++) {
    if (word.load(std::memory_order_acquire) != old) return;
    relax();
  }
  word.wait(old, std::memory_order_acquire);
}

constexpr int MEMBERS = 128;  // more than a team ever has

struct Team {
  std::atomic<int> epoch{0}, left{0};  // epoch: how many members are wanted, and above MEMBERS a count of the calls
  int started = 1;
  const std::function<void(int)>* work = nullptr;

  void start(int id, int seen) {
    std::thread([this, id, seen]() mutable {
      for (;;) {
        await(epoch, seen);
        seen = epoch.load(std::memory_order_acquire);
        if (id >= seen % MEMBERS) continue;
        (*work)(id);
        if (left.fetch_sub(1, std::memory_order_acq_rel) == 1) left.notify_all();
      }
    }).detach();
  }
  void run(int n, const std::function<void(int)>& f) {
    for (; started < n; started++) start(started, epoch.load());
    work = &f;
    left.store(n - 1, std::memory_order_release);
    const unsigned calls = unsigned(epoch.load()) / MEMBERS + 1;
    epoch.store(int((calls * MEMBERS + unsigned(n)) & 0x7fffffff), std::memory_order_release);
    epoch.notify_all();
    f(0);
    for (int seen = left.load(std::memory_order_acquire); seen; seen = left.load(std::memory_order_acquire)) await(left, seen);
  }
};

// The OpenMP team of this process, if it has one (torch brings it). Its threads keep spinning for milliseconds after each of torch's
// operations; a team of our own would share the cores with them, and this one is at hand at once.
struct OpenMP {
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  using Number = int (*)();
  const Parallel parallel = (Parallel)dlsym(RTLD_DEFAULT, "GOMP_parallel");
  const Number rank = (Number)dlsym(RTLD_DEFAULT, "omp_get_thread_num"), size = (Number)dlsym(RTLD_DEFAULT, "omp_get_num_threads");

  // False if there is none, or it gives fewer threads than asked for (inside another parallel region, say): then nothing has run.
  bool run(int n, const std::function<void(int)>& f) const {
    if (!parallel || !rank || !size) return false;
    struct Call {
      const OpenMP& omp;
      int n;
      const std::function<void(int)>& f;
      bool done;
    } call{*this, n, f, true};
    parallel([](void* data) {
      auto& c = *(Call*)data;
      const int id = c.omp.rank();
      if (c.omp.size() == c.n) c.f(id);
      else if (id == 0) c.done = false;
    }, &call, unsigned(n), 0);
    return call.done;
  }
};

struct Pool {
  std::mutex lock;
  std::vector<std::pair<char*, size_t>> free;  // oldest first
  size_t bytes = 0;
  bool poison = false;
};
constexpr size_t PAGE = size_t(2) << 20;  // a large one

// Neither is ever destroyed: members may still wait at exit. A forked child has none of the members, and locks in unknown states.
// Nor does a child have the threads of OpenMP.
Team* team = nullptr;
Pool* pool = nullptr;
std::mutex* turn = nullptr;
bool child = false;
void fresh() { team = new Team, pool = new Pool, turn = new std::mutex; }
const bool ready = (fresh(), pthread_atfork(nullptr, nullptr, [] { fresh(), child = true; }), true);

}  // namespace

void team_run(int n, const std::function<void(int)>& f) {
  if (n <= 1) return f(0);
  static const OpenMP omp;
  const std::lock_guard<std::mutex> lock(*turn);
  if (child || !omp.run(n, f)) team->run(n, f);
}

static void large_pages(void* p, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t from = ((uintptr_t)p + PAGE - 1) & ~(PAGE - 1), to = ((uintptr_t)p + bytes) & ~(PAGE - 1);
  if (p && to > from) madvise((void*)from, to - from, MADV_HUGEPAGE);
#endif
}

Scratch::Scratch(size_t bytes, [[maybe_unused]] double slack) : asked_(bytes) {
#if defined(__SANITIZE_ADDRESS__)
  data_ = (char*)std::aligned_alloc(64, bytes_ = (bytes + 63) & ~size_t(63));  // no slack, and none is kept
  std::memset(data_, 0xff, bytes_);
#else
  const size_t unit = bytes < PAGE ? 4096 : PAGE;
  bytes_ = (bytes + unit) / unit * unit;
  {
    const std::lock_guard<std::mutex> lock(pool->lock);
    auto best = pool->free.end();  // the smallest that fits; of several the last used, which may still be in cache
    for (auto i = pool->free.begin(); i != pool->free.end(); ++i)
      if (i->second >= bytes_ && double(i->second) <= slack * double(bytes_) && (best == pool->free.end() || i->second <= best->second)) best = i;
    if (best != pool->free.end()) {
      data_ = best->first, bytes_ = best->second;
      pool->bytes -= bytes_;
      pool->free.erase(best);
    } else {
      data_ = nullptr;
    }
  }
  if (!data_) {
    data_ = (char*)std::aligned_alloc(unit, bytes_);
    if (!data_) throw std::bad_alloc();
    large_pages(data_, bytes_);
  }
  if (pool->poison) std::memset(data_, 0xff, bytes_);
#endif
}

Scratch::~Scratch() {
#if defined(__SANITIZE_ADDRESS__)
  std::free(data_);
#else
  const std::lock_guard<std::mutex> lock(pool->lock);
  pool->free.emplace_back(data_, bytes_);
  pool->bytes += bytes_;
  while (pool->bytes > KEPT || pool->free.size() > 64) {
    pool->bytes -= pool->free.front().second;
    std::free(pool->free.front().first);
    pool->free.erase(pool->free.begin());
  }
#endif
}

void Scratch::poison(bool on) { pool->poison = on; }

void Barrier::wait() {
  std::atomic_ref<int> here(arrived), turn(epoch);
  const int now = turn.load(std::memory_order_acquire);
  if (here.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
    here.store(0, std::memory_order_relaxed);
    turn.store(now + 1, std::memory_order_release);
    return;
  }
  for (int i = 0; turn.load(std::memory_order_acquire) == now; i++)
    if (i < 1000) relax();
    else std::this_thread::yield();
}

}  // namespace longshort
