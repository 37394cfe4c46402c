#include "broker/shell/journal_durable.h"

namespace dray::broker {

Status JournalDurable::recover(Broker& core, Now now) {
  DRAY_TRY_ASSIGN(uint64_t epoch, journal_.acquire());
  bool first = true;
  DRAY_TRY(journal_.replay([&](const ReplayedRecord& record) -> Status {
    if (first) core.begin_replay(record.no);
    first = false;
    return core.replay(record);
  }));
  if (first) core.begin_replay(journal_.next_record());
  core.start(epoch, now);
  return {};
}

Status JournalDurable::persist(BrokerOut& out) {
  if (!out.journal.empty()) {
    for (const JournalRecord& record : out.journal) DRAY_TRY(journal_.append(record));
    DRAY_TRY(journal_.commit());
  }
  if (out.release_before) DRAY_TRY(journal_.release_before(out.release_before));
  return {};
}

Status JournalDurable::load(Send& send) {
  if (send.load) {
    auto& finished = std::get<Finished>(send.message);
    DRAY_TRY_ASSIGN(Bytes rows, journal_.read_rows(send.load));
    finished.rows = Rows<ResultRow>(rows);
    uint64_t bytes = 0;
    for (size_t i = 0; i < finished.rows.size(); ++i) bytes += finished.rows[i].len;
    DRAY_TRY_ASSIGN(finished.bytes, journal_.read(send.load, 0, bytes));
    return {};
  }
  auto& dispatch = std::get<Dispatch>(send.message);
  if (send.gather.size() == 1) {
    const BlobRef& ref = send.gather[0];
    DRAY_TRY_ASSIGN(dispatch.bytes, journal_.read(ref.record, ref.offset, ref.size));
    return {};
  }
  std::string all;
  for (const BlobRef& ref : send.gather) {
    DRAY_TRY_ASSIGN(Bytes piece, journal_.read(ref.record, ref.offset, ref.size));
    all.append(piece.view());
  }
  dispatch.bytes = Bytes(std::move(all));
  return {};
}

}  // namespace dray::broker
