// Questions about deployments and what is shared by those who show them.
#include "client/console/deployments.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "client/console/routers.h"

namespace dray::console {

Json fetch_deployments(Context& context, const std::string& name) {
  Json list = Json::array();
  std::string error;
  size_t answered = 0;
  const auto routers = ask_routers(context, "deployments", context.timeout);
  for (const auto& r : routers) {
    if (!r.error.empty() || !r.doc.contains("deployments")) {
      error = r.name + ": " + (r.error.empty() ? "does not know deployments" : r.error);
      continue;
    }
    ++answered;
    for (const auto& d : r.doc["deployments"]) {
      if (!d.is_object() || (!name.empty() && cell(d, "name") != name)) continue;
      Json row = {{"router", r.name}};
      row.update(d);
      list.push_back(std::move(row));
    }
  }
  if (answered == 0) throw Failure{kNoCluster, "no router tells: " + error, "dray status"};
  if (!error.empty()) std::fprintf(stderr, "dray: %s\n", printable(error, 300).c_str());
  if (list.empty() && !name.empty())
    throw Failure{kNotFound, "no worker ever offered the handler '" + printable(name, 60) + "'",
                  "what there is: dray deployments"};
  std::stable_sort(list.begin(), list.end(),
                   [](const Json& a, const Json& b) { return cell(a, "name") < cell(b, "name"); });
  return list;
}

double number_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : 0;
}

uint64_t count_of(const Json& object, const char* key) {
  return static_cast<uint64_t>(std::max(0.0, number_of(object, key)));
}

Json ends_of(const Json& deployment) {
  Json ends = part_of(deployment, "outcomes");
  ends.erase("part");  // of a reply that goes on
  return ends;
}

uint64_t sum_of(const Json& object) {
  uint64_t sum = 0;
  for (const auto& [key, value] : object.items()) sum += count_of(object, key.c_str());
  return sum;
}

Json part_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_object() ? *found : Json::object();
}

std::string line_text(const Json& deployment) {
  const Json line = part_of(deployment, "line");
  const double a = number_of(line, "a_us"), b = number_of(line, "b_us");
  if (a + b <= 0) return "?";
  if (number_of(deployment, "max_batch_size") <= 1)
    return format_micros(static_cast<int64_t>(a + b));
  return format_micros(static_cast<int64_t>(a)) + " + " + format_micros(static_cast<int64_t>(b)) +
         "/item";
}

std::string largest(const Json& counts, size_t most) {
  std::vector<std::pair<uint64_t, std::string>> list;
  for (const auto& [key, value] : counts.items())
    if (const uint64_t n = count_of(counts, key.c_str())) list.emplace_back(n, key);
  std::stable_sort(list.begin(), list.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string out;
  for (size_t i = 0; i < std::min(most, list.size()); ++i)
    out += (out.empty() ? "" : ", ") + format_count(list[i].first) + " " + list[i].second;
  return out;
}

std::string latency_bar(const Json& latency, double longest_us) {
  constexpr double kWidth = 40;
  const double scale = kWidth / std::log(std::max(longest_us, 2.0));
  std::string bar;
  const std::pair<const char*, char> steps[] = {
      {"p50_us", '#'}, {"p95_us", '='}, {"p99_us", '-'}, {"p999_us", '.'}};
  for (const auto& [key, mark] : steps) {
    const double us = number_of(latency, key);
    const auto to = us > 1 ? static_cast<size_t>(std::min(std::log(us) * scale, kWidth)) : 0;
    if (to > bar.size()) bar.resize(to, mark);
  }
  return bar;
}

double replicas_of(Context& context, const std::string& handler) {
  double replicas = 0;
  for (const auto& d : fetch_deployments(context, handler))
    replicas = std::max(replicas, number_of(d, "replicas"));
  if (replicas > 0) return replicas;
  throw Failure{kRejected, "no worker offers " + handler + " now", "who is there: dray workers"};
}

}  // namespace dray::console
