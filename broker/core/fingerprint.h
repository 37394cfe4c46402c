// Fingerprint of bytes (XXH3, 64 bits): tells "the same submit again" from a conflicting one.
#pragma once

#include <cstdint>
#include <string_view>

namespace dray::broker {
uint64_t fingerprint(std::string_view bytes);
}
