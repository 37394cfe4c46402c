#include "services/aggregator/core/waits.h"

#include "common/base/assert.h"

namespace dray {

uint32_t Waits::new_node(Node node) {
  ++ids_;
  if (free_nodes_.empty()) {
    nodes_.push_back(node);
    return static_cast<uint32_t>(nodes_.size() - 1);
  }
  const uint32_t n = free_nodes_.back();
  free_nodes_.pop_back();
  nodes_[n] = node;
  return n;
}

void Waits::free_node(uint32_t n) {
  --ids_;
  nodes_[n] = {};
  free_nodes_.push_back(n);
}

void Waits::add(const WaitKey& key, bool with_bytes, uint32_t need, std::vector<TaskId> ids) {
  DRAY_ASSERT(need > 0 && need <= ids.size());
  remove(key);
  uint32_t w = static_cast<uint32_t>(waits_.size());
  if (free_waits_.empty()) {
    waits_.emplace_back();
  } else {
    w = free_waits_.back();
    free_waits_.pop_back();
  }
  for (TaskId id : ids) {
    auto [it, fresh] = first_.try_emplace(id, kNone);
    it.value() = new_node({w, it->second});
  }
  Wait& wait = waits_[w];
  wait.key = key;
  wait.with_bytes = with_bytes;
  wait.need = need;
  wait.ids = std::move(ids);
  by_key_.emplace(key, w);
}

void Waits::unlink(TaskId id, uint32_t wait) {
  auto it = first_.find(id);
  if (it == first_.end()) return;
  uint32_t* link = &it.value();
  while (*link != kNone && nodes_[*link].wait != wait) link = &nodes_[*link].next;
  if (*link == kNone) return;
  const uint32_t n = *link;
  *link = nodes_[n].next;
  free_node(n);
  if (it->second == kNone) first_.erase(it);
}

void Waits::erase(std::map<WaitKey, uint32_t>::iterator it) {
  const uint32_t w = it->second;
  for (TaskId id : waits_[w].ids) unlink(id, w);
  if (waits_[w].touched) std::erase(touched_, w);
  waits_[w] = {};
  free_waits_.push_back(w);
  by_key_.erase(it);
}

bool Waits::remove(const WaitKey& key) {
  auto it = by_key_.find(key);
  if (it == by_key_.end()) return false;
  erase(it);
  return true;
}

void Waits::remove_session(SessionId session) {
  auto it = by_key_.lower_bound({session, 0, 0});
  while (it != by_key_.end() && it->first.session == session) {
    auto next = std::next(it);
    erase(it);
    it = next;
  }
}

void Waits::finish(const ResultRow& row, const Bytes& body, size_t offset) {
  auto it = first_.find(row.id);
  if (it == first_.end()) return;
  uint32_t n = it->second;
  first_.erase(it);
  while (n != kNone) {
    const Node node = nodes_[n];
    free_node(n);
    n = node.next;
    Wait& wait = waits_[node.wait];
    if (wait.need == 0) continue;  // done in this turn already
    --wait.need;
    wait.ready.add(row, wait.with_bytes ? body.slice(offset, row.len) : Bytes());
    if (!wait.touched) touched_.push_back(node.wait);
    wait.touched = true;
  }
}

void Waits::flush(std::vector<Send>& out) {
  for (uint32_t w : std::exchange(touched_, {})) {
    Wait& wait = waits_[w];
    wait.touched = false;
    for (Ready& ready : wait.ready.take(wait.need == 0))
      out.push_back(to_asker(wait.key, std::move(ready)));
    if (wait.need == 0) erase(by_key_.find(wait.key));
  }
}

void Waits::check() const {
  size_t seen = 0;
  for (const auto& [id, first] : first_) {
    DRAY_ASSERT(first != kNone);
    for (uint32_t n = first; n != kNone; n = nodes_[n].next) {
      const Wait& wait = waits_[nodes_[n].wait];
      auto it = by_key_.find(wait.key);
      DRAY_ASSERT(it != by_key_.end() && it->second == nodes_[n].wait);
      ++seen;
    }
  }
  DRAY_ASSERT(seen == ids_ && nodes_.size() - free_nodes_.size() == ids_);
  DRAY_ASSERT(waits_.size() - free_waits_.size() == by_key_.size());
  for (const auto& [key, w] : by_key_) {
    DRAY_ASSERT(waits_[w].key == key && waits_[w].need > 0 && !waits_[w].touched);
    size_t open = 0;
    for (TaskId id : waits_[w].ids) {
      auto it = first_.find(id);
      for (uint32_t n = it == first_.end() ? kNone : it->second; n != kNone; n = nodes_[n].next)
        open += nodes_[n].wait == w;
    }
    DRAY_ASSERT(open >= waits_[w].need);  // it can still become done
  }
}

}  // namespace dray
