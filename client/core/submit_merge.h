// SubmitMerge: small submits with equal options leave as one message. Why: a message costs every
// process on its way some microseconds, a row in it next to nothing.
//
// Nothing waits for company unless the caller says that it is busy: then a message that is less
// than half full waits for the next answer (as small segments do in TCP, RFC 896). The caller
// bounds it.
#pragma once

#include <string>
#include <vector>

#include "client/core/client_core.h"
#include "common/base/limits.h"

namespace dray {

constexpr size_t kMergeBytesMax = 64 * 1024;
constexpr Duration kMergeDeadlines = 10ms;  // deadlines that count as equal; the later one holds

struct SubmitMessage {
  SubmitCmd cmd;
  size_t parts = 1;  // how many submits it was made of
};

class SubmitMerge {
 public:
  // `alone`: never merged, because the broker may refuse it for a reason of its own.
  void add(SubmitCmd&& cmd, bool alone);
  // What leaves now, in the order of add(). `busy`: what can still grow stays.
  std::vector<SubmitMessage> take(bool busy);
  bool empty() const { return messages_.empty(); }

 private:
  struct Open {
    SubmitMessage message;
    bool alone = false;
    std::vector<SubmitCmd> more;  // joined to message.cmd by take()
    size_t rows = 0;
    size_t bytes = 0;
  };
  static void join(Open& open);
  static bool is_full(const Open& open) {
    return open.alone || open.rows >= kMergeRowsMax / 2 || open.bytes >= kMergeBytesMax / 2;
  }
  std::vector<Open> messages_;
};

}  // namespace dray
