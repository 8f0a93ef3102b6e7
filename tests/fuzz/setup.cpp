// Once, before the first input of any target.
#include <omp.h>

#include "sotto/log.h"
#include "target.h"

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  omp_set_num_threads(1);  // inputs are small: more threads would only wait for each other
  sotto::set_log_callback([](sotto::LogLevel, std::string_view) {});
  return 0;
}
