#include "broker/core/ready_lanes.h"

namespace dray::broker {

ReadyLanes::Lane& ReadyLanes::lane(const Task& t) {
  uint32_t index = specs_[t.spec].lane;
  if (index >= lanes_.size()) lanes_.resize(specs_.lanes());
  return lanes_[index];
}

bool ReadyLanes::stale(const Entry& e) const {
  const Task& t = tasks_[e.handle];
  return !t.in_use || t.order != e.order || t.state != TaskState::queued;
}

void ReadyLanes::push(Handle h, bool front) {
  const Task& t = tasks_[h];
  Lane& l = lane(t);
  if (front) {
    l.entries.push_front({h, t.order});
  } else {
    l.entries.push_back({h, t.order});
  }
  ++l.live;
  if (!l.listed || front) relist(specs_[t.spec].lane, l);
}

void ReadyLanes::relist(uint32_t index, Lane& l) {
  if (l.listed) heads_.erase(l.head);
  l.listed = !l.entries.empty();
  if (!l.listed) return;
  uint8_t band = specs_.lane(index).band;
  l.head = {static_cast<uint8_t>(255 - band), l.entries.front().order, index};
  heads_.insert(l.head);
}

void ReadyLanes::note_gone(Handle h) {
  Lane& l = lane(tasks_[h]);
  --l.live;
  if (l.entries.size() < 2 * l.live + 1024) return;
  // The task itself is still queued here: its entry goes when it is popped or at the next time.
  std::erase_if(l.entries, [this](const Entry& e) { return stale(e); });
  relist(specs_[tasks_[h].spec].lane, l);
}

Handle ReadyLanes::pop(uint32_t index) {
  Lane& l = lanes_[index];
  Handle found = kNil;
  while (!l.entries.empty() && found == kNil) {
    Entry e = l.entries.front();
    l.entries.pop_front();
    if (!stale(e)) found = e.handle;
  }
  if (found != kNil) --l.live;
  relist(index, l);
  return found;
}

uint64_t ReadyLanes::total() const {
  uint64_t n = 0;
  for (const Lane& l : lanes_) n += l.live;
  return n;
}

}  // namespace dray::broker
