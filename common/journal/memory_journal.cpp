// The in-memory journal: the same answers as the file journal, with nothing behind them.
#include "common/journal/memory_journal.h"

#include <algorithm>

namespace dray {

void MemoryDisk::keep(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    records_.push_back(std::move(unsynced_.front()));
    unsynced_.pop_front();
  }
}

void MemoryDisk::crash(Rng& rng) {
  keep(static_cast<size_t>(rng.below(unsynced_.size() + 1)));
  for (const Record& r : unsynced_) bytes_ -= r.bytes();
  unsynced_.clear();
  ++generation_;
}

Result<uint64_t> MemoryJournal::acquire() {
  if (acquired_) return make_error(Errc::bad_argument, "journal was acquired before");
  acquired_ = true;
  drop_unsynced();
  generation_ = ++disk_->generation_;
  return ++disk_->epoch_;
}

Status MemoryJournal::usable() {
  if (failed_) return *failed_;
  if (!acquired_) return make_error(Errc::bad_argument, "journal is not acquired");
  if (generation_ == disk_->generation_) return {};
  return fail(make_error(Errc::fenced, "another owner took over"));
}

Status MemoryJournal::fail(Error error) {
  failed_ = error;
  return error;
}

void MemoryJournal::drop_unsynced() {
  for (const auto& r : disk_->unsynced_) disk_->bytes_ -= r.bytes();
  disk_->unsynced_.clear();
}

RecordNo MemoryJournal::next_record() const {
  return disk_->committed_end() + disk_->unsynced_.size();
}

Status MemoryJournal::replay(const std::function<Status(const ReplayedRecord&)>& each) {
  DRAY_TRY(usable());
  if (!disk_->unsynced_.empty())
    return make_error(Errc::bad_argument, "replay with uncommitted records");
  for (size_t i = 0; i < disk_->records_.size(); ++i) {
    const auto& r = disk_->records_[i];
    DRAY_TRY(each(ReplayedRecord{disk_->first_ + i, r.type, r.head, r.rows, r.blob.size()}));
  }
  replayed_ = true;
  return {};
}

Status MemoryJournal::append(const JournalRecord& record) {
  DRAY_TRY(usable());
  if (!replayed_) return make_error(Errc::bad_argument, "append before replay");
  if (record.no != next_record())
    return make_error(Errc::bad_argument, "append of record " + std::to_string(record.no) +
                                              ", expected " + std::to_string(next_record()));
  MemoryDisk::Record r{record.type, record.head, record.rows, {}};
  for (const BlobPart& part : record.blob) {
    if (part.from == 0) {
      r.blob.add(part.bytes);
      continue;
    }
    DRAY_TRY_ASSIGN(Bytes piece, read(part.from, part.offset, part.size));
    r.blob.add(std::move(piece));
  }
  disk_->bytes_ += r.bytes();
  disk_->unsynced_.push_back(std::move(r));
  return {};
}

Status MemoryJournal::commit() {
  DRAY_TRY(usable());
  if (disk_->unsynced_.empty()) return {};
  if (disk_->capacity_ != 0 && disk_->bytes_ > disk_->capacity_) {
    drop_unsynced();
    return make_error(Errc::no_space, "memory disk is full");
  }
  if (disk_->fail_commits_ > 0) {
    --disk_->fail_commits_;
    return fail(make_error(Errc::io, "injected commit failure"));
  }
  disk_->keep(disk_->unsynced_.size());
  ++disk_->commits_;
  if (disk_->fail_applied_ == 0) return {};
  --disk_->fail_applied_;
  return fail(make_error(Errc::io, "injected failure of an applied commit"));
}

const MemoryDisk::Record* MemoryJournal::find(RecordNo no) const {
  if (no < disk_->first_ || no >= next_record()) return nullptr;
  auto at = static_cast<size_t>(no - disk_->first_);
  size_t synced = disk_->records_.size();
  return at < synced ? &disk_->records_[at] : &disk_->unsynced_[at - synced];
}

Result<Bytes> MemoryJournal::read(RecordNo no, uint64_t offset, uint64_t size) {
  DRAY_TRY(usable());
  const auto* record = replayed_ ? find(no) : nullptr;
  if (record == nullptr) return make_error(Errc::not_found, "no record " + std::to_string(no));
  uint64_t len = record->blob.size();
  if (offset > len || size > len - offset)
    return make_error(Errc::bad_argument, "read outside record " + std::to_string(no));
  return record->blob.slice(offset, size);
}

Result<Bytes> MemoryJournal::read_rows(RecordNo no) {
  DRAY_TRY(usable());
  const auto* record = replayed_ ? find(no) : nullptr;
  if (record == nullptr) return make_error(Errc::not_found, "no record " + std::to_string(no));
  return record->rows;
}

Status MemoryJournal::release_before(RecordNo no) {
  DRAY_TRY(usable());
  if (!replayed_ || no > next_record())
    return make_error(Errc::bad_argument, "release beyond the log");
  uint64_t group = disk_->segment_records_;
  while (disk_->first_ + group <= no && disk_->records_.size() >= group) {
    for (uint64_t i = 0; i < group; ++i) {
      disk_->bytes_ -= disk_->records_.front().bytes();
      disk_->records_.pop_front();
    }
    disk_->first_ += group;
  }
  return {};
}

JournalHealth MemoryJournal::health() const {
  JournalHealth h;
  h.bytes_used = disk_->bytes_;
  bool limited = disk_->capacity_ != 0;
  h.bytes_free =
      limited ? disk_->capacity_ - std::min(disk_->capacity_, disk_->bytes_) : uint64_t{1} << 40;
  h.syncs = disk_->commits_;
  h.writable = !failed_ && acquired_ && generation_ == disk_->generation_;
  return h;
}

}  // namespace dray
