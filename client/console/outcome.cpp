// Ends of tasks as JSON, tables and bytes; the progress line.
#include "client/console/outcome.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace dray::console {

Json outcome_json(const TaskOutcome& o) {
  Json doc = {{"id", o.id.hex()},
              {"state", state_text(o.state)},
              {"code", code_name(o.code)},
              {"attempt", o.attempt},
              {"exec_us", o.exec.count()}};
  const std::string key = o.ok() ? "result" : "error";
  if (is_utf8(o.bytes))
    doc[key] = o.bytes;
  else
    doc[key + "_base64"] = base64(o.bytes);
  return doc;
}

void print_json(const Json& doc) {
  const std::string text = doc.dump(2, ' ', false, Json::error_handler_t::replace);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
}

Json parse_json(const std::string& text) {
  Json doc = Json::parse(text, nullptr, false);
  if (doc.is_discarded())
    throw Failure{kTaskFailed, "the service's answer is no JSON",
                  "versions may differ: dray version"};
  return doc;
}

std::string cell(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  return found->dump(-1, ' ', false, Json::error_handler_t::replace);
}

void print_outcomes(const Context& context, std::span<const TaskOutcome> outcomes) {
  if (context.json()) {
    Json list = Json::array();
    for (const auto& o : outcomes) list.push_back(outcome_json(o));
    return print_json(list);
  }
  Table table({"ID", "STATE", "ATTEMPT", "TIME", "RESULT"});
  for (const auto& o : outcomes)
    table.add({o.id.hex(), std::string(state_text(o.state)), std::to_string(o.attempt),
               format_micros(o.exec.count()),
               (o.ok() ? "" : std::string(code_name(o.code)) + ": ") +
                   preview(o.bytes, context.wide() ? 400 : 60)});
  std::fputs(table.text().c_str(), stdout);
}

int print_bytes(const TaskOutcome& o, bool raw) {
  if (!o.ok()) {
    std::fprintf(stderr, "dray: task %s is %s (attempt %u): %s: %s; see: dray task show %s\n",
                 o.id.hex().c_str(), std::string(state_text(o.state)).c_str(), o.attempt,
                 std::string(code_name(o.code)).c_str(), preview(o.bytes, 2000).c_str(),
                 o.id.hex().c_str());
    return exit_code_of(std::span(&o, 1));
  }
  if (!raw && !is_text(o.bytes)) {
    std::printf("%s\n", preview(o.bytes, 128).c_str());
    std::fprintf(stderr, "the result is not text; all of it: dray result %s --raw > FILE\n",
                 o.id.hex().c_str());
    return kOk;
  }
  std::fwrite(o.bytes.data(), 1, o.bytes.size(), stdout);
  if (!raw && !o.bytes.empty() && o.bytes.back() != '\n') std::fputc('\n', stdout);
  return kOk;
}

int exit_code_of(std::span<const TaskOutcome> outcomes) {
  for (const auto& o : outcomes) {
    if (o.ok()) continue;
    return o.is_over() ? kTaskFailed : std::max(kTaskFailed, exit_code_of(o.code));
  }
  return kOk;
}

Progress::Progress(const Context& context, uint64_t total)
    : on_(!context.json() && total > 1 && ::isatty(STDERR_FILENO) != 0), total_(total) {}

void Progress::show(uint64_t done, uint64_t failed) {
  const auto now = Clock::now();
  if (!on_ || (now < next_ && done < total_)) return;
  next_ = now + std::chrono::milliseconds(100);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  constexpr size_t kWidth = 24;
  const size_t full = total_ == 0 ? kWidth : static_cast<size_t>(done * kWidth / total_);
  std::string bar(std::min(full, kWidth), '#');
  bar.resize(kWidth, '.');
  const std::string left =
      rate > 0 ? format_millis(static_cast<int64_t>(
                     static_cast<double>(total_ - std::min(done, total_)) / rate * 1000))
               : "?";
  std::fprintf(stderr, "\r%s %s/%s  %.0f/s  left %s%s\033[K", bar.c_str(),
               format_count(done).c_str(), format_count(total_).c_str(), rate, left.c_str(),
               failed ? ("  failed " + format_count(failed)).c_str() : "");
  std::fflush(stderr);
  shown_ = true;
}

void Progress::end() {
  if (shown_) std::fputs("\r\033[K", stderr);
  shown_ = false;
}

}  // namespace dray::console
