#include "broker/core/known_ids.h"

#include <algorithm>

namespace dray::broker {

void KnownIds::add(TaskId id, TaskState state, uint64_t fingerprint) {
  auto it = pages_.find(id.page());
  if (it == pages_.end()) {
    it = pages_.emplace(id.page(), Page{}).first;
    order_.push_back(id.page());
  }
  Page& page = it.value();
  page.have[id.slot() / 64] |= uint64_t{1} << (id.slot() % 64);
  auto& entries = page.entries;
  if (entries.size() == 8) entries.reserve(256);  // a page in regular use
  entries.push_back({id.slot(), state, static_cast<uint32_t>(fingerprint)});
  ++size_;
}

std::optional<KnownEnd> KnownIds::find(TaskId id) const {
  auto it = pages_.find(id.page());
  if (it == pages_.end()) return std::nullopt;
  const Page& page = it->second;
  if (!(page.have[id.slot() / 64] >> (id.slot() % 64) & 1)) return std::nullopt;
  for (const Entry& e : page.entries)
    if (e.slot == id.slot()) return KnownEnd{e.state, e.fingerprint};
  return std::nullopt;
}

uint64_t KnownIds::trim() {
  uint64_t newest = 0;
  while (size_ > max_ && !order_.empty()) {
    TaskId page = order_.front();
    order_.pop_front();
    size_ -= pages_[page].entries.size();
    pages_.erase(page);
    newest = std::max(newest, page.wall_ms());
  }
  return newest;
}

}  // namespace dray::broker
