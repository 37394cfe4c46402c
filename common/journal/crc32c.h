// CRC32C (Castagnoli), the checksum of journal records: one function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace dray {

// Continues `crc` (0 to begin) over `data`, so crc32c(crc32c(0, a), b) == crc32c(0, a + b).
uint32_t crc32c(uint32_t crc, std::string_view data);
uint32_t crc32c_table(uint32_t crc, std::string_view data);  // the portable path, for tests

}  // namespace dray
