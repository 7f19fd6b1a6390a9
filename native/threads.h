// A persistent team of threads. Work is cut by number of threads, never by who is free, so results repeat bit for bit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

namespace longshort {

// Runs f(0) .. f(n - 1) at the same time and returns when all have returned; f(0) runs on the caller. Barriers among them are safe.
// Callers that come while the team is busy wait their turn. Safe after fork: a child starts its own team.
void team_run(int n, const std::function<void(int)>& f);

// Memory that is kept and lent again (at most KEPT bytes of it), so that its pages stay mapped: a fault for every 4 KB of fresh memory
// costs more than the arithmetic there. Contents are not cleared.
inline constexpr size_t KEPT = size_t(1) << 30;
class Scratch {
 public:
  // A kept block may serve if it is at most `slack` times what is asked for: little where the memory may be held for long.
  explicit Scratch(size_t bytes, double slack = 4);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  char* data() const { return data_; }
  size_t bytes() const { return asked_; }
  static void poison(bool on);  // for tests: memory is lent full of NaN

 private:
  char* data_;
  size_t bytes_, asked_;
};

}  // namespace longshort
