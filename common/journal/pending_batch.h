// PendingBatch: records appended but not committed, laid out for one gathering write.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <string>
#include <vector>

#include "common/journal/blob_parts.h"
#include "common/journal/journal.h"

namespace dray {

class PendingBatch {
 public:
  struct Entry {
    uint32_t blob_at = 0;  // offset of the blob inside the record
    uint32_t rows_len = 0;
    uint32_t blob_len = 0;
    uint64_t offset = 0;  // of the record inside the batch
  };
  // `blob` is the record's blob with every carried piece resolved. Big pieces are referenced.
  void add(const JournalRecord& record, const BlobParts& blob);
  bool empty() const { return entries_.empty(); }
  uint64_t bytes() const { return bytes_; }
  const std::vector<Entry>& entries() const { return entries_; }
  // The write, once segment and last durable record are known. Valid until the next change.
  std::vector<iovec> seal(uint64_t uid, RecordNo durable);
  void clear();

 private:
  struct Piece {
    size_t small_at;  // range of small_, if `big` is empty
    size_t size;
    Bytes big;
  };
  void put(const Bytes& bytes);
  void put_small(std::string_view bytes);

  std::string small_;  // headers, heads and short pieces, end to end
  std::vector<Piece> pieces_;
  std::vector<size_t> header_at_;  // in small_
  std::vector<Entry> entries_;
  uint64_t bytes_ = 0;
};

}  // namespace dray
