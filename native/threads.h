// A persistent team of threads. Work is cut by number of threads, never by who is free, so results repeat bit for bit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

namespace longshort {

// Runs f(0) .. f(n - 1) at the same time and returns when all have returned; f(0) runs on the caller. Barriers among them are safe.
// Callers that come while the team is busy wait their turn. Safe after fork: a child starts its own team.
void team_run(int n, const std::function<void(int)>& f);

// Asks the kernel for large pages under a large block of fresh memory: a fault for every 4 KB costs more than the arithmetic there.
void large_pages(void* p, size_t bytes);

// Memory that is kept and lent again (at most KEPT bytes of it), so that its pages stay mapped. Contents are not cleared.
inline constexpr size_t KEPT = size_t(1) << 30;
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data() const { return data_; }
  static void poison(bool on);  // for tests: memory is lent full of NaN

 private:
  char* data_;
  size_t bytes_;
};

}  // namespace longshort
