// Joining rows and bytes of submits.
#include "client/core/submit_merge.h"

#include <algorithm>

namespace dray {

void SubmitMerge::add(SubmitCmd&& cmd, bool alone) {
  const size_t rows = cmd.rows.size();
  const size_t bytes = cmd.bytes.size();
  if (!messages_.empty() && !alone) {
    Open& last = messages_.back();
    const Duration apart = last.message.cmd.deadline - cmd.deadline;
    const bool same = last.message.cmd.specs == cmd.specs && last.message.cmd.watch == cmd.watch &&
                      apart <= kMergeDeadlines && -apart <= kMergeDeadlines;
    if (!last.alone && same && last.rows + rows <= kMergeRowsMax &&
        last.bytes + bytes <= kMergeBytesMax) {
      last.rows += rows;
      last.bytes += bytes;
      last.message.cmd.deadline = std::max(last.message.cmd.deadline, cmd.deadline);
      ++last.message.parts;
      last.more.push_back(std::move(cmd));
      return;
    }
  }
  Open open;
  open.message.cmd = std::move(cmd);
  open.alone = alone;
  open.rows = rows;
  open.bytes = bytes;
  messages_.push_back(std::move(open));
}

void SubmitMerge::join(Open& open) {
  if (open.more.empty()) return;
  SubmitCmd& cmd = open.message.cmd;
  std::string rows(cmd.rows.bytes().view());
  std::string bytes(cmd.bytes.view());
  rows.reserve(open.rows * sizeof(SubmitRow));
  bytes.reserve(open.bytes);
  for (const SubmitCmd& more : open.more) {
    rows.append(more.rows.bytes().view());
    bytes.append(more.bytes.view());
  }
  cmd.rows = Rows<SubmitRow>(Bytes(std::move(rows)));
  cmd.bytes = Bytes(std::move(bytes));
}

std::vector<SubmitMessage> SubmitMerge::take(bool busy) {
  std::vector<SubmitMessage> out;
  if (messages_.empty()) return out;
  // Only the last one can still grow.
  const bool keep = busy && !is_full(messages_.back());
  const size_t n = messages_.size() - (keep ? 1 : 0);
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    join(messages_[i]);
    out.push_back(std::move(messages_[i].message));
  }
  messages_.erase(messages_.begin(), messages_.begin() + static_cast<std::ptrdiff_t>(n));
  return out;
}

}  // namespace dray
