// Loops over all cores.
#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

namespace sotto::core {

// How many threads a loop that starts now would use.
inline int max_workers() { return omp_get_max_threads(); }

// Calls f(i, worker) for each i of [0, n), in about ascending order, from at most `workers`
// threads; worker < workers is the same for all calls of a thread: an index into per-thread memory.
// The first exception is thrown again on the caller's thread after the loop; which of the other
// calls ran is open then.
template <class F>
void parallel_for(std::int64_t n, int workers, F&& f) {
  std::exception_ptr error;
#pragma omp parallel for schedule(dynamic) num_threads(workers) if (n > 1)
  for (std::int64_t i = 0; i < n; ++i) {
    try {
      f(i, omp_get_thread_num());
    } catch (...) {
#pragma omp critical(sotto_parallel_for)
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

// The same for an f(i) that needs no memory of its own.
template <class F>
void parallel_for(std::int64_t n, F&& f) {
  parallel_for(n, max_workers(), [&](std::int64_t i, int) { f(i); });
}

}  // namespace sotto::core
