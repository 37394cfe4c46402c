// Tables, durations, sizes and bytes as text.
#include "client/console/text.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace dray::console {
namespace {

// Length of the UTF-8 character at the front; 0: none.
size_t utf8_length(std::string_view s) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char c = at(0);
  if (c < 0x80) return 1;
  const size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
  if (c < 0xc2 || c > 0xf4 || s.size() < n) return 0;
  for (size_t i = 1; i < n; ++i)
    if ((at(i) & 0xc0) != 0x80) return 0;
  const unsigned char d = at(1);
  if ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) ||
      (c == 0xf4 && d > 0x8f))
    return 0;
  return n;
}

bool is_control(std::string_view character) {
  const auto c = static_cast<unsigned char>(character[0]);
  // C1 controls (U+0080..U+009F) steer terminals too.
  return c < 0x20 || c == 0x7f || (c == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0);
}

size_t width(std::string_view s) {
  return static_cast<size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string with_format(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

std::string Table::text() const {
  std::vector<size_t> widths(rows_[0].size(), 0);
  std::vector<std::vector<std::string>> cells;
  for (const auto& row : rows_) {
    std::vector<std::string> line;
    for (size_t i = 0; i < widths.size(); ++i) {
      std::string cell = i < row.size() ? printable(row[i]) : "";
      line.push_back(cell.empty() ? "-" : std::move(cell));
      widths[i] = std::max(widths[i], width(line[i]));
    }
    cells.push_back(std::move(line));
  }
  std::string out;
  for (const auto& row : cells) {
    for (size_t i = 0; i < row.size(); ++i) {
      out += row[i];
      if (i + 1 < row.size()) out.append(widths[i] - width(row[i]) + 3, ' ');
    }
    out += '\n';
  }
  return out;
}

std::optional<int64_t> parse_millis(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || !(number >= 0)) return std::nullopt;
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  double scale = 0;
  if (unit == "ms") scale = 1;
  if (unit == "s") scale = 1000;
  if (unit == "m" || unit == "min") scale = 60'000;
  if (unit == "h") scale = 3'600'000;
  if (unit == "d") scale = 86'400'000;
  if (unit.empty() && number > 0) return std::nullopt;
  const double ms = number * scale;
  if ((!unit.empty() && scale == 0) || ms > 366.0 * 86'400'000) return std::nullopt;
  return static_cast<int64_t>(ms + 0.5);
}

std::string format_millis(int64_t ms) {
  if (ms < 0) return "-" + format_millis(-ms);
  if (ms < 1000) return std::to_string(ms) + "ms";
  if (ms < 60'000) return with_format("%.1fs", static_cast<double>(ms) / 1000);
  const int64_t minutes = ms / 60'000;
  if (minutes < 60) return std::to_string(minutes) + "m" + std::to_string(ms / 1000 % 60) + "s";
  if (minutes < 48 * 60)
    return std::to_string(minutes / 60) + "h" + std::to_string(minutes % 60) + "m";
  return std::to_string(minutes / 1440) + "d" + std::to_string(minutes / 60 % 24) + "h";
}

std::string format_micros(int64_t us) {
  if (us < 1000) return std::to_string(us) + "us";
  if (us < 1'000'000) return with_format("%.1fms", static_cast<double>(us) / 1000);
  return format_millis(us / 1000);
}

std::string format_bytes(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  const char* const units[] = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; value >= 1024 && unit < 3; ++unit) value /= 1024;
  return with_format("%.1f ", value) + units[unit];
}

std::string format_count(uint64_t n) {
  std::string out = std::to_string(n);
  for (size_t at = out.size(); at > 3;) out.insert(at -= 3, 1, ' ');
  return out;
}

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t n = utf8_length(bytes);
    if (n == 0) return false;
    bytes.remove_prefix(n);
  }
  return true;
}

bool is_text(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t n = utf8_length(bytes);
    if (n == 0) return false;
    const char c = bytes[0];
    if (is_control(bytes.substr(0, n)) && c != '\n' && c != '\r' && c != '\t') return false;
    bytes.remove_prefix(n);
  }
  return true;
}

std::string printable(std::string_view bytes, size_t max) {
  std::string out;
  for (size_t count = 0; !bytes.empty(); ++count) {
    if (count == max) return out + "...";
    const size_t n = utf8_length(bytes);
    if (n == 0)
      out += '?';
    else if (is_control(bytes.substr(0, n)))
      out += ' ';
    else
      out += bytes.substr(0, n);
    bytes.remove_prefix(std::max<size_t>(n, 1));
  }
  return out;
}

std::string preview(std::string_view bytes, size_t max) {
  if (is_text(bytes)) return printable(bytes, max);
  std::string out = std::to_string(bytes.size()) + " bytes: ";
  const size_t shown = std::min(bytes.size(), std::max<size_t>(max / 2, 8));
  for (size_t i = 0; i < shown; ++i) {
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned>(bytes[i]) & 0xff);
    out += hex;
  }
  return shown < bytes.size() ? out + "..." : out;
}

std::string base64(std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    uint32_t word = 0;
    for (size_t k = 0; k < 3; ++k)
      word = word << 8 | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += k <= n ? kDigits[word >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

}  // namespace dray::console
