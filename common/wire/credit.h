// Absolute credit (T1): the receiver publishes "you may have sent N items in all in this session".
// Lost, repeated or reordered grants are harmless, and nothing is counted twice.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/base/mutant.h"

namespace dray {

// Sender's side.
class CreditTaker {
 public:
  void on_granted(uint64_t granted) { granted_ = std::max(granted_, granted); }
  uint64_t available() const {
    uint64_t granted = granted_ + DRAY_MUTANT(credit_off_by_one);
    return granted > sent_ ? granted - sent_ : 0;
  }
  void on_sent(uint64_t items) { sent_ += items; }
  uint64_t sent() const { return sent_; }

 private:
  uint64_t granted_ = 0;
  uint64_t sent_ = 0;
};

// Receiver's side: granted = received + k - held. Not finished + k: that form leaks one credit for
// every item lost on the way.
class CreditGiver {
 public:
  void on_received_upto(uint64_t n) { received_ = std::max(received_, n); }
  uint64_t received() const { return received_; }
  uint64_t granted(uint64_t k, uint64_t held) const {
    if (DRAY_MUTANT(credit_ignores_held)) return received_ + k;
    return received_ + (k > held ? k - held : 0);
  }

 private:
  uint64_t received_ = 0;
};

}  // namespace dray
