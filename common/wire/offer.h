// HandlerOffer: what a worker says to a router about one handler that may be called. It travels as
// one msgpack blob in OFFER, so that a minor version may add fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace dray {

constexpr uint32_t kOfferIdempotent = 1;  // every call of it may be executed more than once
constexpr uint32_t kOfferStreams = 2;  // it may answer in parts

struct HandlerOffer {
  std::string name{};
  uint32_t max_ongoing = 0;  // batches of it at once on this worker; 0: as many as there are slots
  uint32_t max_batch_size = 1;  // items in one batch; 1: every call runs alone
  uint64_t max_batch_bytes = 0;  // payload bytes in one batch; 0: what fits in a message
  uint32_t batch_wait_us = 0;  // a free replica waits so long for a batch to fill
  uint32_t flags = 0;
  uint32_t max_models = 0;  // model keys it keeps loaded; 0: it has no models
  bool operator==(const HandlerOffer&) const = default;
};

std::string encode_offer(const HandlerOffer& offer);
// Checks every bound; the error names the field.
Result<HandlerOffer> decode_offer(std::string_view blob);

}  // namespace dray
