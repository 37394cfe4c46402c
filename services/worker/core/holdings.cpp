// Slab, token index and the two lists.
#include "services/worker/core/holdings.h"

#include "common/base/assert.h"

namespace dray::worker {

void Holdings::link(List& list, Index i, Index before) {
  HeldTask& t = slab_[i];
  t.next = before;
  t.prev = before == kNone ? list.tail : slab_[before].prev;
  (t.prev == kNone ? list.head : slab_[t.prev].next) = i;
  (t.next == kNone ? list.tail : slab_[t.next].prev) = i;
  ++list.size;
  if (&list == &queue_) ++count_of(t);
}

size_t& Holdings::count_of(const HeldTask& task) {
  const uint32_t handler = task.spec->handler;
  if (handler >= queued_of_.size()) queued_of_.resize(handler + 1);
  return queued_of_[handler];
}

void Holdings::unlink(List& list, Index i) {
  HeldTask& t = slab_[i];
  (t.prev == kNone ? list.head : slab_[t.prev].next) = t.next;
  (t.next == kNone ? list.tail : slab_[t.next].prev) = t.prev;
  --list.size;
  if (&list == &queue_) --count_of(t);
}

Holdings::Index Holdings::add(HeldTask task) {
  Index i;
  if (free_.empty()) {
    i = static_cast<Index>(slab_.size());
    slab_.emplace_back();
  } else {
    i = free_.back();
    free_.pop_back();
  }
  const bool fresh = by_token_.insert({task.token, i}).second;
  DRAY_ASSERT(fresh);
  payload_bytes_ += task.payload.size();
  slab_[i] = std::move(task);
  link(queue_, i, kNone);
  return i;
}

Holdings::Index Holdings::find(Token token) const {
  const auto it = by_token_.find(token);
  return it == by_token_.end() ? kNone : it->second;
}

void Holdings::start(Index i, Time now) {
  DRAY_ASSERT(!slab_[i].running);
  unlink(queue_, i);
  slab_[i].running = true;
  slab_[i].since = now;
  link(run_, i, kNone);
}

void Holdings::requeue(Index i) {
  HeldTask& t = slab_[i];
  DRAY_ASSERT(t.running && !t.reported);
  unlink(run_, i);
  t.running = false;
  t.limit_at = kNever;
  t.limit_step = 0;
  t.piece = 0;
  link(queue_, i, queue_.head);
}

void Holdings::mark_reported(Index i) {
  DRAY_ASSERT(slab_[i].running && !slab_[i].reported);
  slab_[i].reported = true;
  ++reported_;
}

void Holdings::remove(Index i) {
  HeldTask& t = slab_[i];
  unlink(t.running ? run_ : queue_, i);
  if (t.reported) --reported_;
  payload_bytes_ -= t.payload.size();
  by_token_.erase(t.token);
  t = HeldTask{};
  free_.push_back(i);
}

size_t Holdings::check_list(const List& list, bool running) const {
  size_t n = 0;
  Index prev = kNone;
  for (Index i = list.head; i != kNone; i = slab_[i].next) {
    const HeldTask& t = slab_[i];
    DRAY_ASSERT(t.prev == prev && t.running == running && find(t.token) == i);
    DRAY_ASSERT(running || (!t.revoked && !t.reported && t.limit_at == kNever));
    prev = i;
    ++n;
  }
  DRAY_ASSERT(list.tail == prev && list.size == n);
  return n;
}

void Holdings::check() const {
  const size_t n = check_list(queue_, false) + check_list(run_, true);
  DRAY_ASSERT(by_token_.size() == n && slab_.size() == n + free_.size());
  std::vector<size_t> queued(queued_of_.size(), 0);
  for (Index i = queue_.head; i != kNone; i = slab_[i].next) ++queued[slab_[i].spec->handler];
  DRAY_ASSERT(queued == queued_of_);
  size_t reported = 0;
  size_t bytes = 0;
  for (const HeldTask& t : slab_) {
    reported += t.reported;
    bytes += t.payload.size();
  }
  DRAY_ASSERT(reported == reported_ && bytes == payload_bytes_);
}

}  // namespace dray::worker
