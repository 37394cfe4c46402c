#include "broker/core/fingerprint.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace dray::broker {
uint64_t fingerprint(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }
}  // namespace dray::broker
