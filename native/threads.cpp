#include "threads.h"

#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
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
  std::mutex busy;
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
    const std::lock_guard<std::mutex> lock(busy);
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

struct Pool {
  std::mutex lock;
  std::vector<std::pair<char*, size_t>> free;
};

// Neither is ever destroyed: members may still wait at exit. A forked child has none of the members, and locks in unknown states.
Team* team = nullptr;
Pool* pool = nullptr;
void fresh() { team = new Team, pool = new Pool; }
const bool ready = (fresh(), pthread_atfork(nullptr, nullptr, fresh), true);

}  // namespace

void team_run(int n, const std::function<void(int)>& f) {
  if (n <= 1) f(0);
  else team->run(n, f);
}

Scratch::Scratch(size_t bytes) {
  constexpr size_t page = size_t(2) << 20;
  bytes = bytes < page ? (bytes + 4095) & ~size_t(4095) : (bytes + page - 1) & ~(page - 1);
  {
    const std::lock_guard<std::mutex> lock(pool->lock);
    auto best = pool->free.end();
    for (auto i = pool->free.begin(); i != pool->free.end(); ++i)
      if (i->second >= bytes && (best == pool->free.end() || i->second < best->second)) best = i;
    if (best != pool->free.end() && best->second <= 4 * bytes + (1 << 16)) {
      data_ = best->first, bytes_ = best->second;
      pool->free.erase(best);
      return;
    }
  }
  bytes_ = bytes;
  data_ = (char*)std::aligned_alloc(bytes < page ? 4096 : page, bytes ? bytes : 4096);
  if (!data_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (bytes >= page) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

Scratch::~Scratch() {
  const std::lock_guard<std::mutex> lock(pool->lock);
  pool->free.emplace_back(data_, bytes_);
  if (pool->free.size() > 32) {  // the oldest goes
    std::free(pool->free.front().first);
    pool->free.erase(pool->free.begin());
  }
}

void Barrier::wait() {
  std::atomic_ref<int> here(arrived), turn(epoch);
  const int now = turn.load(std::memory_order_acquire);
  if (here.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
    here.store(0, std::memory_order_relaxed);
    turn.store(now + 1, std::memory_order_release);
    return;
  }
  for (int i = 0; turn.load(std::memory_order_acquire) == now; i++)
    if (i < 20000) relax();
    else std::this_thread::yield();
}

}  // namespace longshort
