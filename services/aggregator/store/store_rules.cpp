// Store rules: checks of a batch that every ResultStore makes before it writes anything.
#include "services/aggregator/store/store_rules.h"

#include "common/base/limits.h"

namespace dray {

Status check_batch(const StoreBatch& batch, StreamPos at) {
  for (const auto& r : batch.results) {
    if (r.bytes.size() > kBodyBytesMax)
      return make_error(Errc::too_large, "result of " + to_hex(r.id) + " is too large to store");
    if (r.id.is_null()) return make_error(Errc::bad_argument, "result without a task id");
  }
  if (batch.stream.pos != 0 && batch.stream.epoch == at.epoch && batch.stream.pos < at.pos)
    return make_error(Errc::bad_argument, "stream position goes back from " +
                                              std::to_string(at.pos) + " to " +
                                              std::to_string(batch.stream.pos));
  return {};
}

}  // namespace dray
