// DRAY_ASSERT: always-on check of our own invariants. It never judges input from a peer.
#pragma once

namespace dray {
[[noreturn]] void assert_failed(const char* expr, const char* file, int line);
}

#define DRAY_ASSERT(cond) \
  (__builtin_expect(!!(cond), 1) ? (void)0 : ::dray::assert_failed(#cond, __FILE__, __LINE__))
