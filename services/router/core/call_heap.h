// CallHeap: calls ordered by a time and then by arrival. It notes in each call where that stands,
// so any call can be taken out. Four children a node: fewer cache misses than two.
#pragma once

#include <cstdint>
#include <vector>

#include "common/base/assert.h"
#include "services/router/core/call_table.h"

namespace dray {

template <uint32_t CallRecord::*Pos>
class CallHeap {
 public:
  struct Entry {
    Time at{};
    uint64_t order = 0;
    CallIndex call = kNoSlot;
    bool operator<(const Entry& o) const { return at != o.at ? at < o.at : order < o.order; }
  };

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  const Entry& top() const { return entries_.front(); }
  Time next() const { return entries_.empty() ? kNever : entries_.front().at; }
  const std::vector<Entry>& entries() const { return entries_; }  // heap order

  void push(Slab<CallRecord>& calls, Time at, CallIndex call) {
    entries_.push_back({at, calls[call].order, call});
    rise(calls, static_cast<uint32_t>(entries_.size() - 1));
  }
  void remove(Slab<CallRecord>& calls, CallIndex call) {
    const uint32_t at = calls[call].*Pos;
    DRAY_ASSERT(at < entries_.size() && entries_[at].call == call);
    calls[call].*Pos = kNoSlot;
    const Entry last = entries_.back();
    entries_.pop_back();
    if (at == entries_.size()) return;
    entries_[at] = last;
    if (at > 0 && last < entries_[(at - 1) / 4])
      rise(calls, at);
    else
      sink(calls, at);
  }

 private:
  void put(Slab<CallRecord>& calls, uint32_t at, const Entry& e) {
    entries_[at] = e;
    calls[e.call].*Pos = at;
  }
  void rise(Slab<CallRecord>& calls, uint32_t at) {
    const Entry e = entries_[at];
    for (; at > 0; at = (at - 1) / 4) {
      const uint32_t parent = (at - 1) / 4;
      if (!(e < entries_[parent])) break;
      put(calls, at, entries_[parent]);
    }
    put(calls, at, e);
  }
  void sink(Slab<CallRecord>& calls, uint32_t at) {
    const Entry e = entries_[at];
    const auto n = static_cast<uint32_t>(entries_.size());
    for (uint32_t child = 4 * at + 1; child < n; child = 4 * at + 1) {
      uint32_t least = child;
      for (uint32_t c = child + 1; c < child + 4 && c < n; ++c)
        if (entries_[c] < entries_[least]) least = c;
      if (!(entries_[least] < e)) break;
      put(calls, at, entries_[least]);
      at = least;
    }
    put(calls, at, e);
  }

  std::vector<Entry> entries_;
};

}  // namespace dray
