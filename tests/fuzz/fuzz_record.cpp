// Any bytes as a journal record: an error or a record; the ledger takes it or refuses it.
#include <cstdint>

#include "broker/core/ledger.h"

using namespace dray;
using namespace dray::broker;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 4) return 0;
  Ledger ledger(1000);
  RecordNo no = 1;
  // A sequence of records: type, head length, row bytes / 16, then the bytes.
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  while (rest.size() >= 3) {
    ReplayedRecord r;
    r.no = no;
    r.type = static_cast<uint8_t>(rest[0]);
    size_t head = static_cast<uint8_t>(rest[1]);
    size_t rows = static_cast<size_t>(static_cast<uint8_t>(rest[2])) * 16;
    rest.remove_prefix(3);
    r.head = rest.substr(0, std::min(head, rest.size()));
    rest.remove_prefix(r.head.size());
    r.rows = Bytes::copy(rest.substr(0, std::min(rows, rest.size())));
    rest.remove_prefix(r.rows.size());
    auto record = decode_record(r);
    if (!record) continue;
    if (!ledger.apply(*record, no, 0)) return 0;  // a damaged journal ends the start-up
    ++no;
  }
  return 0;
}
