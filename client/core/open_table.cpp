// Index of OpenTable: linear probing with backward-shift deletion, at most three quarters full.
#include "client/core/open_table.h"

#include "common/base/assert.h"

namespace dray {

size_t OpenTable::home(uint64_t hi, uint64_t lo) const {
  return mix64(hi * 0x9e3779b97f4a7c15ULL + lo) & (slots_.size() - 1);
}

size_t OpenTable::slot_of(uint64_t hi, uint64_t lo) const {
  size_t mask = slots_.size() - 1;
  size_t s = home(hi, lo);
  while (slots_[s] != 0) {
    const Block& b = blocks_[slots_[s] - 1];
    if (b.lo == lo && b.hi == hi) break;
    s = (s + 1) & mask;
  }
  return s;
}

OpenTable::Index OpenTable::find(TaskId id) const {
  if (slots_.empty()) return kNone;
  uint32_t v = slots_[slot_of(id.hi, key_lo(id))];
  return v == 0 ? kNone : v - 1;
}

void OpenTable::grow() {
  slots_.assign(slots_.empty() ? 64 : slots_.size() * 2, 0);
  for (Index i = 0; i < blocks_.size(); ++i) {
    const Block& b = blocks_[i];
    if (b.hi == 0 && b.lo == 0) continue;
    slots_[slot_of(b.hi, b.lo)] = i + 1;
  }
}

OpenTable::Index OpenTable::find_or_add(TaskId id) {
  if ((used_ + 1) * 4 > slots_.size() * 3) grow();
  size_t s = slot_of(id.hi, key_lo(id));
  if (slots_[s] != 0) return slots_[s] - 1;
  Index i = free_;
  if (i != kNone) {
    free_ = blocks_[i].next_free;
  } else {
    i = static_cast<Index>(blocks_.size());
    blocks_.emplace_back();
  }
  blocks_[i] = Block{};
  blocks_[i].hi = id.hi;
  blocks_[i].lo = key_lo(id);
  slots_[s] = i + 1;
  ++used_;
  return i;
}

void OpenTable::release_if_idle(Index i) {
  Block& b = blocks_[i];
  if (b.open != 0 || b.queued != 0) return;
  size_t mask = slots_.size() - 1;
  size_t hole = slot_of(b.hi, b.lo);
  DRAY_ASSERT(slots_[hole] == i + 1);
  for (size_t s = (hole + 1) & mask; slots_[s] != 0; s = (s + 1) & mask) {
    const Block& other = blocks_[slots_[s] - 1];
    size_t distance = (s - home(other.hi, other.lo)) & mask;
    if (distance < ((s - hole) & mask)) continue;  // it would move before its home
    slots_[hole] = slots_[s];
    hole = s;
  }
  slots_[hole] = 0;
  b = Block{};
  b.next_free = free_;
  free_ = i;
  --used_;
}

bool OpenTable::close(TaskId id) {
  Index i = find(id);
  if (i == kNone || !(blocks_[i].open & bit(id))) return false;
  Block& b = blocks_[i];
  b.open &= ~bit(id);
  b.accepted &= b.open;
  b.covered &= b.open;
  release_if_idle(i);
  return true;
}

bool OpenTable::check() const {
  size_t seen = 0;
  for (Index i = 0; i < blocks_.size(); ++i) {
    const Block& b = blocks_[i];
    if (b.hi == 0 && b.lo == 0) continue;
    ++seen;
    if (find({b.hi, b.lo}) != i) return false;
    if ((b.accepted | b.covered) & ~b.open) return false;
    if (b.open == 0 && b.queued == 0) return false;
  }
  return seen == used_;
}

}  // namespace dray
