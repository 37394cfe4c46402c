// TaskRegistry: per page of ids a few ranges, each belonging to one batch.
#include "client/src/task_batch.h"

namespace dray {

bool TaskRegistry::has(TaskId id) const {
  auto page = pages_.find(id.page());
  if (page == pages_.end()) return false;
  for (const Range& r : page->second)
    if (id.slot() >= r.first && id.slot() - r.first < r.count) return true;
  return false;
}

bool TaskRegistry::add(std::span<const TaskId> ids, const std::shared_ptr<TaskBatch>& batch,
                       uint32_t base) {
  if (ids.size() == 1 && has(ids[0])) return false;
  for (size_t i = 0; i < ids.size();) {
    size_t n = 1;
    while (i + n < ids.size() && ids[i + n].page() == ids[i].page() &&
           ids[i + n].slot() == ids[i].slot() + n)
      ++n;
    auto count = static_cast<uint32_t>(n);
    pages_[ids[i].page()].push_back(
        {ids[i].slot(), count, count, base + static_cast<uint32_t>(i), batch});
    i += n;
  }
  return true;
}

void TaskRegistry::remove(TaskId id) {
  auto page = pages_.find(id.page());
  if (page == pages_.end()) return;
  std::erase_if(page->second, [&](const Range& r) { return r.first == id.slot() && r.count == 1; });
  if (page->second.empty()) pages_.erase(page);
}

std::vector<std::pair<TaskId, std::shared_ptr<TaskBatch>>> TaskRegistry::all() const {
  std::vector<std::pair<TaskId, std::shared_ptr<TaskBatch>>> out;
  for (const auto& [id, page] : pages_)
    for (const Range& r : page)
      for (uint32_t i = 0; i < r.count; ++i)
        if (!r.batch->slots[r.base + i].over)
          out.push_back({{id.hi, id.lo | (r.first + i)}, r.batch});
  return out;
}

TaskRegistry::Range* TaskRegistry::Session::find(TaskId id) {
  if (!page_ || page_id_ != id.page()) {
    auto it = registry_.pages_.find(id.page());
    if (it == registry_.pages_.end()) return nullptr;
    page_id_ = id.page();
    page_ = &it->second;
  }
  for (Range& r : *page_)
    if (id.slot() >= r.first && id.slot() - r.first < r.count) return &r;
  return nullptr;
}

void TaskRegistry::Session::leave() {
  if (!batch_) return;
  lock_.unlock();
  batch_->changed.notify_all();
  batch_.reset();
}

bool TaskRegistry::Session::close(const ResultRow& row, std::string_view bytes) {
  Range* range = find(row.id);
  if (!range) return false;
  if (batch_ != range->batch) {
    leave();
    batch_ = range->batch;
    lock_ = std::unique_lock(batch_->mutex);
  }
  uint32_t index = range->base + (row.id.slot() - range->first);
  TaskBatch::Slot& slot = batch_->slots[index];
  if (slot.over) return true;
  slot = {std::string(bytes), row.exec_us, row.attempt, static_cast<State>(row.status),
          to_code(row.code),  true};
  auto [from, to] = batch_->callbacks.equal_range(index);
  for (auto it = from; it != to; ++it)
    due_.emplace_back(std::move(it->second), batch_->outcome(index, to_public(row.id)));
  batch_->callbacks.erase(from, to);
  if (--range->left == 0) {
    page_->erase(page_->begin() + (range - page_->data()));
    if (page_->empty()) {
      registry_.pages_.erase(page_id_);
      page_ = nullptr;
    }
  }
  return true;
}

}  // namespace dray
