// Rendering of one log event as text or JSON.
#include "common/service/log_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

namespace dray {
namespace {

constexpr size_t kValueBytesMax = 512;  // a longer value is cut; a log line is not a dump

std::string timestamp(int64_t wall_ns) {
  const time_t seconds = static_cast<time_t>(wall_ns / 1'000'000'000);
  tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                     wall_ns / 1'000'000 % 1000);
}

// Length of the well-formed UTF-8 sequence at the start of text, or 0.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  // Overlong forms, surrogates and code points above U+10FFFF.
  if (lead == 0xe0 && byte(1) < 0xa0) return 0;
  if (lead == 0xed && byte(1) > 0x9f) return 0;
  if (lead == 0xf0 && byte(1) < 0x90) return 0;
  if (lead == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

std::string_view cut(std::string_view text) {
  if (text.size() <= kValueBytesMax) return text;
  size_t end = kValueBytesMax;
  while (end > kValueBytesMax - 4 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

bool is_plain(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return c > ' ' && c < 0x7f && c != '"' && c != '=' && c != '\\';
  });
}

struct TextValue {
  std::string operator()(std::string_view s) const {
    return is_plain(s) ? std::string(cut(s)) : json_quoted(cut(s));
  }
  std::string operator()(bool b) const { return b ? "true" : "false"; }
  std::string operator()(auto number) const { return fmt::format("{}", number); }
};

struct JsonValue {
  std::string operator()(std::string_view s) const { return json_quoted(cut(s)); }
  std::string operator()(bool b) const { return b ? "true" : "false"; }
  std::string operator()(double d) const {
    return std::isfinite(d) ? fmt::format("{}", d) : fmt::format("\"{}\"", d);
  }
  std::string operator()(auto number) const { return fmt::format("{}", number); }
};

}  // namespace

std::string json_quoted(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text.front());
    const size_t length = utf8_length(text);
    if (length == 0) {
      out += "\\ufffd";
    } else if (byte == '"' || byte == '\\') {
      out.append({'\\', text.front()});
    } else if (byte == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return out + "\"";
}

std::string log_line_text(const LogLine& line) {
  std::string out = fmt::format("{} {} {} {}", timestamp(line.wall_ns), log_level_name(line.level),
                                line.process, line.event);
  for (const LogField& field : line.fields)
    out += fmt::format(" {}={}", field.key, std::visit(TextValue{}, field.value.get()));
  if (line.suppressed > 0) out += fmt::format(" suppressed={}", line.suppressed);
  return out;
}

std::string log_line_json(const LogLine& line) {
  std::string out =
      fmt::format(R"({{"ts":"{}","level":"{}","proc":{},"event":{})", timestamp(line.wall_ns),
                  log_level_name(line.level), json_quoted(line.process), json_quoted(line.event));
  for (const LogField& field : line.fields)
    out +=
        fmt::format(",{}:{}", json_quoted(field.key), std::visit(JsonValue{}, field.value.get()));
  if (line.suppressed > 0) out += fmt::format(",\"suppressed\":{}", line.suppressed);
  return out + "}";
}

}  // namespace dray
