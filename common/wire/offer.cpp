// Encoding and bounds of HandlerOffer.
#include "common/wire/offer.h"

#include "common/base/limits.h"
#include "common/wire/pack.h"

namespace dray {
namespace {
template <class O, class V>
void offer_fields(O& o, V& v) {
  v(o.name, o.max_ongoing, o.max_batch_size, o.max_batch_bytes, o.batch_wait_us, o.flags,
    o.max_models);
}

Error bad(const char* field, const char* why) {
  return make_error(Errc::bad_argument, std::string("handler offer ") + field + ": " + why);
}
}  // namespace

std::string encode_offer(const HandlerOffer& offer) {
  std::string out;
  wire::Packer p(out);
  offer_fields(offer, p);
  return out;
}

Result<HandlerOffer> decode_offer(std::string_view blob) {
  std::vector<wire::Element> elements;
  DRAY_TRY_ASSIGN(size_t used, wire::parse_elements(blob, elements));
  if (used != blob.size()) return make_error(Errc::bad_message, "bytes after a handler offer");
  HandlerOffer o;
  wire::Reader r(elements);
  offer_fields(o, r);
  if (r.failed()) return make_error(Errc::bad_message, std::string("handler offer: ") + r.why());
  if (o.name.empty() || o.name.size() > kNameBytesMax) return bad("name", "is not 1 to 128 bytes");
  if (o.max_ongoing > kItemsMax) return bad("max_ongoing", "is above 4096");
  if (o.max_batch_size < 1 || o.max_batch_size > kItemsMax)
    return bad("max_batch_size", "must be 1 to 4096");
  if (o.max_batch_bytes > kBodyBytesMax) return bad("max_batch_bytes", "is above 8 MiB");
  if (o.batch_wait_us > 60'000'000) return bad("batch_wait", "is above a minute");
  if (o.max_models > kModelsMax) return bad("max_models", "is above 1024");
  return o;
}

}  // namespace dray
