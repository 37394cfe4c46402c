// Text for people: tables, durations, sizes, bytes that may not be text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dray::console {

// Borderless columns, as wide as their widest cell. Cells are made printable.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.size() == 1; }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// "250ms" "10s" "2h" "1d" in milliseconds; a number needs its unit, except 0.
std::optional<int64_t> parse_millis(std::string_view text);
std::string format_millis(int64_t ms);  // "250ms" "1.5s" "12m" "3h5m"
std::string format_micros(int64_t us);
std::string format_bytes(uint64_t bytes);  // "1.5 MiB"
std::string format_count(uint64_t n);  // "1 234 567"

bool is_utf8(std::string_view bytes);
bool is_text(std::string_view bytes);  // UTF-8 without control characters but \n \r \t
// One line, no control characters, at most `max` characters and then "...".
std::string printable(std::string_view bytes, size_t max = 100'000);
// Text as it is; anything else as "4000 bytes: 00ff10 ...".
std::string preview(std::string_view bytes, size_t max);
std::string base64(std::string_view bytes);

}  // namespace dray::console
