// Bookkeeping of the two record caches.
#include "common/journal/record_cache.h"

#include <algorithm>

namespace dray {

void RecentRecords::push(RecordNo no, RecentRecord record) {
  if (records_.empty()) first_ = no;
  bytes_ += cost(record);
  records_.push_back(std::move(record));
}

void RecentRecords::drop_from(RecordNo no) {
  while (!records_.empty() && first_ + records_.size() > no) {
    bytes_ -= cost(records_.back());
    records_.pop_back();
  }
}

void RecentRecords::evict_below(RecordNo committed_end) {
  while (bytes_ > limit_ && !records_.empty() && first_ < committed_end) {
    bytes_ -= cost(records_.front());
    records_.pop_front();
    ++first_;
  }
}

const RecentRecord* RecentRecords::find(RecordNo no) const {
  if (no < first_ || no - first_ >= records_.size()) return nullptr;
  return &records_[static_cast<size_t>(no - first_)];
}

std::optional<Bytes> LoadedRecords::find(RecordNo no) {
  for (Slot& s : slots_) {
    if (s.no != no) continue;
    s.used = ++clock_;
    return s.record;
  }
  return std::nullopt;
}

void LoadedRecords::put(RecordNo no, Bytes record) {
  auto older = [](const Slot& a, const Slot& b) { return a.used < b.used; };
  *std::min_element(slots_.begin(), slots_.end(), older) = Slot{no, ++clock_, std::move(record)};
}

bool LoadedRecords::seen_lately(RecordNo no) {
  if (std::find(misses_.begin(), misses_.end(), no) != misses_.end()) return true;
  misses_[next_miss_++ % misses_.size()] = no;
  return false;
}

}  // namespace dray
