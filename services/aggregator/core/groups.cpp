#include "services/aggregator/core/groups.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/base/assert.h"

namespace dray {
namespace {

constexpr size_t kHeaderKey = 1 + 16, kPageKey = kHeaderKey + 15;
constexpr size_t kGroupsPerExpire = 1000;  // looked at per call

void put_be(std::string& out, uint64_t v, int bytes) {
  while (bytes-- > 0) out.push_back(static_cast<char>(v >> (8 * bytes)));
}
uint64_t get_be(std::string_view s, size_t at, size_t bytes) {
  uint64_t v = 0;
  for (size_t i = at; i < at + bytes; ++i) v = v << 8 | static_cast<uint8_t>(s[i]);
  return v;
}

size_t ending(TaskState state) {
  switch (state) {
    case TaskState::succeeded:
      return 0;
    case TaskState::cancelled:
      return 2;
    case TaskState::expired:
      return 3;
    default:
      return 1;  // failed, dead
  }
}

}  // namespace

std::string Groups::key(TaskId group) {
  std::string k = "g";
  put_be(k, group.hi, 8);
  put_be(k, group.lo, 8);
  return k;
}
std::string Groups::key(TaskId group, TaskId page) {
  std::string k = key(group);
  put_be(k, page.hi, 8);
  put_be(k, page.lo >> 8, 7);
  return k;
}

void Groups::count(const PageBits& bits, Group& group) {
  for (size_t w = 0; w < 4; ++w) {
    const uint64_t d = bits.done[w], c0 = bits.c0[w], c1 = bits.c1[w];
    auto n = [](uint64_t v) { return static_cast<uint64_t>(std::popcount(v)); };
    group.members += n(bits.member[w]);
    group.ended[0] += n(d & ~c0 & ~c1);
    group.ended[1] += n(d & c0 & ~c1);
    group.ended[2] += n(d & ~c0 & c1);
    group.ended[3] += n(d & c0 & c1);
  }
}

Status Groups::load(const StoreRow& row) {
  const auto& [k, value] = row;
  auto bad = [&] { return make_error(Errc::corrupt, "group row of the result store is damaged"); };
  if (k.size() != kHeaderKey && k.size() != kPageKey) return bad();
  const TaskId id{get_be(k, 1, 8), get_be(k, 9, 8)};
  if (k.size() == kHeaderKey) {
    if (value.size() != sizeof(int64_t)) return bad();
    std::memcpy(&by_id_[id].wall_ms, value.data(), sizeof(int64_t));
    return {};
  }
  if (value.size() != sizeof(PageBits)) return bad();
  auto it = by_id_.find(id);
  // A group without header was being dropped when the process ended.
  Group& group = it != by_id_.end() ? it->second : dying_[id];
  const uint32_t n = new_node(id, {get_be(k, 17, 8), get_be(k, 25, 7) << 8});
  std::memcpy(&nodes_[n].bits, value.data(), sizeof(PageBits));
  group.pages.push_back(n);
  count(nodes_[n].bits, group);
  return {};
}

uint32_t Groups::find_node(TaskId group, TaskId page) const {
  auto it = first_.find(page);
  uint32_t n = it == first_.end() ? kNone : it->second;
  while (n != kNone && nodes_[n].group != group) n = nodes_[n].next;
  return n;
}

uint32_t Groups::new_node(TaskId group, TaskId page) {
  uint32_t n = static_cast<uint32_t>(nodes_.size());
  if (free_nodes_.empty()) {
    nodes_.emplace_back();
  } else {
    n = free_nodes_.back();
    free_nodes_.pop_back();
  }
  auto [it, fresh] = first_.try_emplace(page, kNone);
  nodes_[n] = {page, group, it->second, false, {}};
  it.value() = n;
  return n;
}

void Groups::drop_node(uint32_t n) {
  auto it = first_.find(nodes_[n].page);
  uint32_t* link = &it.value();
  while (*link != n) link = &nodes_[*link].next;
  *link = nodes_[n].next;
  if (it->second == kNone) first_.erase(it);
  nodes_[n] = {};
  free_nodes_.push_back(n);
}

void Groups::save(TaskId id, Group& group, bool fresh) {
  if (group.saved) return;
  group.saved = true;
  saved_groups_.push_back({id, fresh, group.wall_ms, group.members, group.ended});
}
void Groups::save(uint32_t n, bool fresh) {
  if (nodes_[n].saved) return;
  nodes_[n].saved = true;
  saved_nodes_.push_back({n, fresh, nodes_[n].bits});
}

std::optional<GroupRefusal> Groups::check_put(TaskId id, std::span<const TaskId> ids) const {
  using Refusal = GroupRefusal;
  if (dying_.count(id) != 0) return Refusal{"aggregator.group_expiry", 0};
  auto it = by_id_.find(id);
  if (it == by_id_.end() && by_id_.size() >= limits_.groups_max)
    return Refusal{"aggregator.groups_max", limits_.groups_max};
  // An upper bound; repeats are looked at only near the limit.
  const uint64_t members = it == by_id_.end() ? 0 : it->second.members;
  if (members + ids.size() > limits_.members_max) {
    std::vector<TaskId> fresh;
    for (TaskId task : ids) {
      const uint32_t n = find_node(id, task.page());
      const uint64_t bit = uint64_t{1} << (task.slot() & 63);
      if (n == kNone || !(nodes_[n].bits.member[task.slot() >> 6] & bit)) fresh.push_back(task);
    }
    std::sort(fresh.begin(), fresh.end());
    fresh.erase(std::unique(fresh.begin(), fresh.end()), fresh.end());
    if (members + fresh.size() > limits_.members_max)
      return Refusal{"aggregator.group_members_max", limits_.members_max};
  }
  if (pages() + ids.size() > limits_.pages_max) {
    std::vector<TaskId> fresh;
    for (TaskId task : ids)
      if (find_node(id, task.page()) == kNone) fresh.push_back(task.page());
    std::sort(fresh.begin(), fresh.end());
    fresh.erase(std::unique(fresh.begin(), fresh.end()), fresh.end());
    if (pages() + fresh.size() > limits_.pages_max)
      return Refusal{"aggregator.group_pages_max", limits_.pages_max};
  }
  return std::nullopt;
}

std::optional<GroupRefusal> Groups::put(TaskId id, std::span<const TaskId> ids, int64_t wall_ms) {
  if (auto refusal = check_put(id, ids)) return refusal;
  auto [it, fresh] = by_id_.try_emplace(id);
  Group& group = it->second;
  save(id, group, fresh);
  group.wall_ms = wall_ms;
  group.header = true;
  for (TaskId task : ids) {
    const size_t w = task.slot() >> 6;
    const uint64_t bit = uint64_t{1} << (task.slot() & 63);
    uint32_t n = find_node(id, task.page());
    if (n == kNone) {
      n = new_node(id, task.page());
      group.pages.push_back(n);
      save(n, true);
    }
    if (nodes_[n].bits.member[w] & bit) continue;
    save(n, false);
    nodes_[n].bits.member[w] |= bit;
    ++group.members;
  }
  return std::nullopt;
}

void Groups::finish(TaskId id, TaskState state, int64_t wall_ms) {
  auto it = first_.find(id.page());
  if (it == first_.end()) return;
  const size_t w = id.slot() >> 6, how = ending(state);
  const uint64_t bit = uint64_t{1} << (id.slot() & 63);
  for (uint32_t n = it->second; n != kNone; n = nodes_[n].next) {
    PageBits& bits = nodes_[n].bits;
    if (!(bits.member[w] & bit) || (bits.done[w] & bit)) continue;
    auto g = by_id_.find(nodes_[n].group);
    if (g == by_id_.end()) continue;  // being dropped
    Group& group = g->second;
    save(g->first, group, false);
    save(n, false);
    bits.done[w] |= bit;
    if (how & 1) bits.c0[w] |= bit;
    if (how & 2) bits.c1[w] |= bit;
    ++group.ended[how];
    if (group.done() == group.members) {
      group.wall_ms = wall_ms;
      group.header = true;
    }
  }
}

void Groups::collect(StoreBatch& batch) {
  batch.dels.insert(batch.dels.end(), dels_.begin(), dels_.end());
  for (const SavedGroup& s : saved_groups_) {
    auto it = by_id_.find(s.id);
    if (it == by_id_.end() || !it->second.header) continue;
    std::string value(sizeof(int64_t), '\0');
    std::memcpy(value.data(), &it->second.wall_ms, sizeof(int64_t));
    batch.puts.emplace_back(key(s.id), std::move(value));
  }
  for (const SavedNode& s : saved_nodes_) {
    const Node& node = nodes_[s.node];
    std::string value(sizeof(PageBits), '\0');
    std::memcpy(value.data(), &node.bits, sizeof(PageBits));
    batch.puts.emplace_back(key(node.group, node.page), std::move(value));
  }
}

std::vector<TaskId> Groups::commit() {
  std::vector<TaskId> changed;
  for (const SavedGroup& s : saved_groups_) {
    auto it = by_id_.find(s.id);
    if (it == by_id_.end()) continue;
    it->second.saved = it->second.header = false;
    changed.push_back(s.id);
  }
  for (const SavedNode& s : saved_nodes_) nodes_[s.node].saved = false;
  saved_groups_.clear();
  saved_nodes_.clear();
  dels_.clear();
  return changed;
}

void Groups::rollback() {
  for (auto s = saved_nodes_.rbegin(); s != saved_nodes_.rend(); ++s) {
    Node& node = nodes_[s->node];
    node.saved = false;
    node.bits = s->bits;
    if (!s->fresh) continue;
    std::vector<uint32_t>& pages = by_id_.at(node.group).pages;
    DRAY_ASSERT(!pages.empty() && pages.back() == s->node);
    pages.pop_back();
    drop_node(s->node);
  }
  for (const SavedGroup& s : saved_groups_) {
    Group& group = by_id_.at(s.id);
    group.saved = group.header = false;
    group.wall_ms = s.wall_ms;
    group.members = s.members;
    group.ended = s.ended;
    if (s.fresh) by_id_.erase(s.id);
  }
  saved_groups_.clear();
  saved_nodes_.clear();  // dels_ stays: the next batch tries again
}

void Groups::expire(int64_t wall_ms, size_t max_pages) {
  if (!dels_.empty()) return;  // the last ones are not written yet
  auto it = by_id_.upper_bound(expire_cursor_);
  for (size_t n = 0; n < kGroupsPerExpire && it != by_id_.end(); ++n) {
    const Group& group = it->second;
    const bool done = group.done() == group.members;
    const int64_t age = wall_ms - group.wall_ms;
    expire_cursor_ = it->first;
    if (age <= (done ? limits_.done_ttl_ms : limits_.idle_ttl_ms)) {
      ++it;
      continue;
    }
    dels_.push_back(key(it->first));
    dying_.emplace(it->first, std::move(it->second));
    it = by_id_.erase(it);
  }
  if (it == by_id_.end()) expire_cursor_ = {};
  while (max_pages > 0 && !dying_.empty()) {
    auto dying = dying_.begin();
    std::vector<uint32_t>& pages = dying->second.pages;
    for (; max_pages > 0 && !pages.empty(); --max_pages, pages.pop_back()) {
      dels_.push_back(key(dying->first, nodes_[pages.back()].page));
      drop_node(pages.back());
    }
    if (pages.empty()) dying_.erase(dying);
  }
}

bool Groups::find(TaskId id, GroupState& state) const {
  auto it = by_id_.find(id);
  if (it == by_id_.end()) return false;
  const Group& g = it->second;
  state = {id, g.members, g.done(), g.ended[0], g.ended[1], g.ended[2], g.ended[3]};
  return true;
}

void Groups::check() const {
  DRAY_ASSERT(saved_groups_.empty() && saved_nodes_.empty());
  size_t seen = 0;
  for (const auto* groups : {&by_id_, &dying_}) {
    for (const auto& [id, group] : *groups) {
      Group sum;
      for (uint32_t n : group.pages) {
        DRAY_ASSERT(nodes_[n].group == id && find_node(id, nodes_[n].page) == n);
        for (size_t w = 0; w < 4; ++w)
          DRAY_ASSERT((nodes_[n].bits.done[w] & ~nodes_[n].bits.member[w]) == 0);
        count(nodes_[n].bits, sum);
        ++seen;
      }
      if (groups == &dying_) continue;
      DRAY_ASSERT(sum.members == group.members && sum.ended == group.ended);
      DRAY_ASSERT(group.members <= limits_.members_max);
    }
  }
  DRAY_ASSERT(seen == pages());
}

}  // namespace dray
