#include "common/deploy/deployment_spec.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "common/base/limits.h"
#include "common/deploy/scale_params.h"

namespace dray {
namespace {

constexpr size_t kPathMax = 4096;
constexpr size_t kUserConfigMax = 8 * 1024;  // a PLACE of several replicas must fit in a head
constexpr int64_t kReplicasMax = 100'000;
constexpr double kDayS = 86'400;

bool is_number(const Doc& doc) {
  return std::holds_alternative<int64_t>(doc.value()) ||
         std::holds_alternative<double>(doc.value());
}
bool is_text(const Doc& doc) { return std::holds_alternative<std::string>(doc.value()); }

// "0.5" for 0.5: amounts are read from text, with at most four decimals.
std::string amount_text(const Doc& doc) {
  if (is_text(doc)) return std::string(doc.as_text());
  const double value = doc.as_number();
  if (value < 0) return "-";
  const double units = value * kResourceUnit;
  if (units > 1e18 || std::abs(units - std::round(units)) > 1e-6) return to_json(doc);
  return print_amount(static_cast<uint64_t>(std::llround(units)));
}

class SpecReader {
 public:
  explicit SpecReader(ParsedSpec& out) : out_(out), spec_(out.spec) {}

  void read(const Doc& doc) {
    if (!doc.is_object()) return problem("", "a deployment is a table of fields");
    for (const auto& [name, value] : doc.object()) read_field(name, value);
    if (spec_.code.empty()) problem("code", "is missing; it names the plugin file");
    read_request(doc);
    read_replicas(doc);
  }

 private:
  void problem(std::string field, std::string text) {
    out_.problems.push_back({std::move(field), std::move(text)});
  }

  void read_field(const std::string& name, const Doc& v) {
    if (name == "code") return text(name, v, kPathMax, spec_.code);
    if (name == "handlers") return texts(name, v, kHandlersMax, spec_.handlers);
    if (name == "max_ongoing_requests")
      return number(name, v, 1, 65'535, 1,
                    [&](int64_t n) { spec_.max_ongoing_requests = static_cast<uint32_t>(n); });
    if (name == "max_batch_size")
      return number(name, v, 0, kItemsMax, 1,
                    [&](int64_t n) { spec_.max_batch_size = static_cast<uint32_t>(n); });
    if (name == "batch_wait_ms")
      return number(name, v, 0, 60'000, 1000,
                    [&](int64_t us) { spec_.batch_wait_us = static_cast<uint32_t>(us); });
    if (name == "user_config") return user_config(v);
    if (name == "health_check_period_s") return seconds(name, v, spec_.health_check_period_ms);
    if (name == "health_check_timeout_s") return seconds(name, v, spec_.health_check_timeout_ms);
    if (name == "graceful_shutdown_timeout_s")
      return seconds(name, v, spec_.graceful_shutdown_timeout_ms);
    if (name == "start_timeout_s") return seconds(name, v, spec_.start_timeout_ms);
    if (name == "memory_limit") return memory_limit(v);
    if (name == "max_surge") return max_surge(v);
    if (name == "strategy") return text(name, v, kNameBytesMax, spec_.strategy);
    for (const char* known : {"num_replicas", "autoscaling_config", "gpus", "gpu_memory", "cpus",
                              "resources", "labels", "variants"})
      if (name == known) return;  // read together
    problem(name, "unknown field");
  }

  void text(const std::string& name, const Doc& v, size_t max, std::string& into) {
    if (!is_text(v)) return problem(name, "must be a text");
    if (v.as_text().size() > max) return problem(name, "is too long");
    into = std::string(v.as_text());
  }

  void texts(const std::string& name, const Doc& v, size_t max, std::vector<std::string>& into) {
    if (!v.is_list()) return problem(name, "must be a list of texts");
    if (v.list().size() > max) return problem(name, "has too many entries");
    for (const Doc& item : v.list()) {
      const auto entry = item.as_text();
      if (entry.empty() || entry.size() > kNameBytesMax)
        return problem(name, "must be a list of texts of 1 to 128 bytes");
      if (std::find(into.begin(), into.end(), entry) != into.end())
        return problem(name, "has '" + std::string(entry) + "' twice");
      into.emplace_back(entry);
    }
  }

  // Calls set(value x unit) for a number in range; whole numbers only if the unit is 1.
  void number(const std::string& name, const Doc& v, double min, double max, int64_t unit,
              const std::function<void(int64_t)>& set) {
    const double n = v.as_number(NAN);
    if (!(n >= min && n <= max) || (unit == 1 && std::floor(n) != n))
      return problem(name, std::string("must be a ") + (unit == 1 ? "whole " : "") +
                               "number from " + std::to_string(static_cast<int64_t>(min)) + " to " +
                               std::to_string(static_cast<int64_t>(max)));
    set(std::llround(n * static_cast<double>(unit)));
  }

  void seconds(const std::string& name, const Doc& v, int64_t& ms) {
    number(name, v, 0, kDayS, 1000, [&](int64_t value) { ms = std::max<int64_t>(value, 1); });
  }

  void user_config(const Doc& v) {
    spec_.user_config = is_text(v) ? std::string(v.as_text()) : to_json(v);
    if (spec_.user_config.size() > kUserConfigMax) problem("user_config", "is over 8 KiB");
  }

  void memory_limit(const Doc& v) {
    auto mib = parse_memory_mib(std::string(v.as_text()));
    if (!mib) return problem("memory_limit", "must be an amount of memory such as \"2GiB\"");
    spec_.memory_limit_mib = *mib;
  }

  void max_surge(const Doc& v) {
    if (is_text(v)) {
      const std::string_view given = v.as_text();
      int64_t percent = -1;
      if (given.size() >= 2 && given.size() <= 4 && given.back() == '%' &&
          given.find_first_not_of("0123456789") == given.size() - 1)
        percent = std::stoll(std::string(given));
      if (percent < 0 || percent > 100)
        return problem("max_surge", "must be a number or a share such as \"25%\"");
      spec_.max_surge = {1, percent};
      return;
    }
    number("max_surge", v, 1, 1000, 1, [&](int64_t n) { spec_.max_surge = {n, 0}; });
  }

  // The amounts of one variant, or of the deployment itself.
  VariantText variant(const Doc& doc, const std::string& prefix) {
    VariantText out;
    for (const auto& [name, v] : doc.object()) {
      if (name == "gpus") {
        out.gpus = amount_text(v);
      } else if (name == "gpu_memory") {
        out.gpu_memory = is_text(v) ? std::string(v.as_text()) : to_json(v);
      } else if (name == "cpus") {
        out.resources.emplace_back("cpu", amount_text(v));
      } else if (name == "resources") {
        if (!v.is_object()) problem(prefix + name, "must be a table of amounts");
        for (const auto& [pool, amount] : v.object()) {
          if (pool.find('.') != std::string::npos)
            problem(prefix + name, "'" + pool.substr(0, 60) + "' has a dot in its name");
          out.resources.emplace_back(pool, amount_text(amount));
        }
      } else if (name == "labels") {
        texts(prefix + name, v, kLabelsMax, out.labels);
      } else if (!prefix.empty()) {
        problem(prefix + name, "unknown field");
      }
    }
    if (auto parsed = parse_variant(out); !parsed) {
      const std::string& detail = parsed.error().detail;  // "field: text"
      const size_t colon = std::min(detail.find(": "), detail.size());
      std::string field = detail.substr(0, colon);
      if (field == "resources.cpu" && doc["resources"]["cpu"].is_null()) field = "cpus";
      problem(prefix + field, detail.substr(std::min(colon + 2, detail.size())));
    }
    return out;
  }

  void read_request(const Doc& doc) {
    const Doc& list = doc["variants"];
    spec_.variants.clear();
    if (list.is_null()) {
      spec_.variants.push_back(variant(doc, ""));
    } else if (!list.is_list() || list.list().empty() || list.list().size() > kVariantsMax) {
      return problem("variants", "must be a list of 1 to 4 tables");
    } else {
      for (const char* name : {"gpus", "gpu_memory", "cpus", "resources", "labels"})
        if (!doc[name].is_null()) problem(name, "belongs into each of the variants");
      for (size_t i = 0; i < list.list().size(); ++i)
        spec_.variants.push_back(variant(list.list()[i], "variants." + std::to_string(i) + "."));
    }
    if (!out_.problems.empty()) return;
    auto request = parse_request(spec_.variants, spec_.strategy);
    if (!request) return problem("strategy", request.error().detail);
    spec_.request = std::move(*request);
  }

  void read_replicas(const Doc& doc) {
    const Doc& count = doc["num_replicas"];
    const Doc& config = doc["autoscaling_config"];
    const bool is_auto = count.as_text() == "auto";
    spec_.autoscale = is_auto || !config.is_null();
    if (is_number(count)) {
      if (!config.is_null())
        problem("num_replicas", "must be \"auto\", or left out, with autoscaling_config");
      number("num_replicas", count, 0, kReplicasMax, 1, [&](int64_t n) { spec_.num_replicas = n; });
    } else if (!count.is_null() && !is_auto) {
      problem("num_replicas", "must be a number or \"auto\"");
    }
    if (spec_.autoscale) read_scale(config, is_auto);
    spec_.scale.max_ongoing_requests = spec_.max_ongoing_requests;
  }

  void read_scale(const Doc& config, bool is_auto) {
    if (!config.is_null() && !config.is_object())
      return problem("autoscaling_config", "must be a table");
    if (is_auto && config["max_replicas"].is_null()) spec_.scale.max_replicas = 100;  // Ray's auto
    for (const auto& [name, v] : config.object()) {
      const std::string field = "autoscaling_config." + name;
      if (!is_number(v)) {
        problem(field, "must be a number");
      } else if (const Status ok = set_scale_field(spec_.scale, name, v.as_number()); !ok) {
        problem(field, ok.error().detail);
      }
    }
    if (const Status ok = check_scale(spec_.scale); !ok)
      problem("autoscaling_config", ok.error().detail);
  }

  ParsedSpec& out_;
  DeploymentSpec& spec_;
};

Doc texts_doc(const std::vector<std::string>& list) {
  Doc doc{Doc::List{}};
  for (const std::string& text : list) doc.push(text);
  return doc;
}

Doc variant_doc(const VariantText& v) {
  Doc doc{Doc::Object{}};
  if (!v.gpus.empty()) doc.set("gpus", v.gpus);
  if (!v.gpu_memory.empty()) doc.set("gpu_memory", v.gpu_memory);
  if (!v.resources.empty()) {
    Doc pools{Doc::Object{}};
    for (const auto& [name, amount] : v.resources) pools.set(name, amount);
    doc.set("resources", std::move(pools));
  }
  if (!v.labels.empty()) doc.set("labels", texts_doc(v.labels));
  return doc;
}

Doc in_units(int64_t value, int64_t unit) {
  if (value % unit == 0) return Doc(value / unit);
  return Doc(static_cast<double>(value) / static_cast<double>(unit));
}

}  // namespace

bool DeploymentSpec::uses_gpus() const {
  return std::any_of(request.variants.begin(), request.variants.end(),
                     [](const Variant& v) { return v.gpus > 0 || v.gpu_memory_mib > 0; });
}

bool DeploymentSpec::same_replicas(const DeploymentSpec& other) const {
  DeploymentSpec like = other;
  // How many there are, how they are exchanged and what they are told need no restart.
  like.autoscale = autoscale;
  like.num_replicas = num_replicas;
  like.scale = scale;
  like.max_surge = max_surge;
  like.user_config = user_config;
  return like == *this;
}

ParsedSpec parse_spec(const std::string& name, const Doc& doc) {
  ParsedSpec parsed;
  parsed.spec.name = name;
  if (!is_deployment_name(name))
    parsed.problems.push_back(
        {"", "'" + name.substr(0, 60) +
                 "' is no name of a deployment: letters, digits, '.', '_' and '-', at most 128"});
  SpecReader(parsed).read(doc);
  return parsed;
}

std::vector<SpecProblem> fresh_problems(const DeploymentSpec& s) {
  if (s.autoscale && s.scale.min_replicas == 0 && s.handlers.empty())
    return {{"handlers", "must be listed with min_replicas = 0, so that calls can wait for them"}};
  return {};
}

Doc spec_doc(const DeploymentSpec& s) {
  Doc doc;
  doc.set("code", s.code);
  if (!s.handlers.empty()) doc.set("handlers", texts_doc(s.handlers));
  if (s.autoscale) {
    doc.set("num_replicas", "auto");
    doc.set("autoscaling_config", scale_doc(s.scale));
  } else {
    doc.set("num_replicas", s.num_replicas);
  }
  doc.set("max_ongoing_requests", s.max_ongoing_requests);
  if (s.max_batch_size > 0) doc.set("max_batch_size", s.max_batch_size);
  if (s.batch_wait_us > 0) doc.set("batch_wait_ms", in_units(s.batch_wait_us, 1000));
  if (s.variants.size() == 1) {
    const Doc only = variant_doc(s.variants[0]);
    for (const auto& [key, value] : only.object()) doc.set(key, value);
  } else {
    Doc list{Doc::List{}};
    for (const VariantText& v : s.variants) list.push(variant_doc(v));
    doc.set("variants", std::move(list));
  }
  if (!s.strategy.empty()) doc.set("strategy", s.strategy);
  if (!s.user_config.empty()) doc.set("user_config", s.user_config);
  doc.set("health_check_period_s", in_units(s.health_check_period_ms, 1000));
  doc.set("health_check_timeout_s", in_units(s.health_check_timeout_ms, 1000));
  doc.set("graceful_shutdown_timeout_s", in_units(s.graceful_shutdown_timeout_ms, 1000));
  doc.set("start_timeout_s", in_units(s.start_timeout_ms, 1000));
  if (s.memory_limit_mib > 0) doc.set("memory_limit", std::to_string(s.memory_limit_mib) + "MiB");
  if (s.max_surge.percent > 0)
    doc.set("max_surge", std::to_string(s.max_surge.percent) + "%");
  else
    doc.set("max_surge", s.max_surge.count);
  return doc;
}

std::string problems_text(const std::vector<SpecProblem>& problems) {
  std::string out;
  for (const SpecProblem& p : problems)
    out += (out.empty() ? "" : "; ") + p.field + (p.field.empty() ? "" : ": ") + p.text;
  return out;
}

bool is_deployment_name(std::string_view name) {
  const auto ok = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= kNameBytesMax && std::all_of(name.begin(), name.end(), ok);
}

ReplicaSpec replica_spec(const DeploymentSpec& s, uint64_t version, uint64_t config_version) {
  ReplicaSpec r;
  r.deployment = s.name;
  r.version = version;
  r.code = s.code;
  r.handlers = s.handlers;
  r.strategy = static_cast<uint8_t>(s.request.strategy);
  for (const Variant& v : s.request.variants)
    r.needs.push_back(encode_need({v.gpus, v.gpu_memory_mib, v.pools.amounts(), v.labels}));
  r.max_ongoing = s.max_ongoing_requests;
  r.max_batch_size = s.max_batch_size;
  r.batch_wait_us = s.batch_wait_us;
  r.user_config = s.user_config;
  r.config_version = config_version;
  r.start_timeout_ms = static_cast<uint32_t>(s.start_timeout_ms);
  r.health_period_ms = static_cast<uint32_t>(s.health_check_period_ms);
  r.health_timeout_ms = static_cast<uint32_t>(s.health_check_timeout_ms);
  r.graceful_ms = static_cast<uint32_t>(s.graceful_shutdown_timeout_ms);
  r.memory_limit_mib = s.memory_limit_mib;
  return r;
}

}  // namespace dray
