#include "common/base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace dray {
void assert_failed(const char* expr, const char* file, int line) {
  std::fprintf(stderr, "assertion failed: %s (%s:%d)\n", expr, file, line);
  std::abort();
}
}  // namespace dray
