#include "client/console/app_file.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "common/service/toml_doc.h"

namespace dray::console {
namespace fs = std::filesystem;
namespace {

void find_code(const std::string& file, DeploymentSpec& spec) {
  std::error_code ec;
  const fs::path code(spec.code);
  if (code.is_absolute()) return;
  const fs::path beside = fs::absolute(file, ec).parent_path() / code;
  if (fs::exists(beside, ec)) spec.code = beside.lexically_normal().string();
}

// Flat names and values as JSON text.
void flatten_json(const Json& json, const std::string& prefix,
                  std::map<std::string, std::string>& out) {
  if (!json.is_object()) {
    out[prefix] = json.dump();
    return;
  }
  for (const auto& [name, value] : json.items())
    flatten_json(value, prefix.empty() ? name : prefix + "." + name, out);
}

}  // namespace

std::vector<DeploymentSpec> read_app(const std::string& path) {
  auto toml = read_toml(path);
  if (!toml) throw Failure{kUsage, printable(toml.error().detail, 500), "see: dray deploy --help"};
  std::vector<DeploymentSpec> specs;
  std::string problems;
  const auto add = [&](const std::string& field, const std::string& text) {
    const int line = toml->line_of(field);
    problems += (problems.empty() ? "" : "\n      ") + path +
                (line > 0 ? ":" + std::to_string(line) : "") + ": " + field + ": " + text;
  };
  for (const auto& [name, value] : toml->doc.object())
    if (name != "deployment") add(name, "unknown table; there is [deployment.NAME]");
  for (const auto& [name, value] : toml->doc["deployment"].object()) {
    ParsedSpec parsed = parse_spec(name, value);
    if (parsed.problems.empty()) parsed.problems = fresh_problems(parsed.spec);
    for (const SpecProblem& p : parsed.problems)
      add("deployment." + name + (p.field.empty() ? "" : "." + p.field), p.text);
    find_code(path, parsed.spec);
    specs.push_back(std::move(parsed.spec));
  }
  if (problems.empty() && specs.empty())
    throw Failure{kUsage, path + " has no [deployment.NAME]", "see: dray deploy --help"};
  if (!problems.empty()) throw Failure{kUsage, problems, "correct it, then: dray deploy " + path};
  return specs;
}

std::vector<std::string> differences(const Json& before, const DeploymentSpec& after) {
  std::map<std::string, std::string> old_fields, new_fields;
  if (before.is_object()) flatten_json(before, "", old_fields);
  flatten_json(parse_json(to_json(spec_doc(after))), "", new_fields);
  std::vector<std::string> lines;
  for (const auto& [name, value] : new_fields) {
    const auto old = old_fields.find(name);
    if (old == old_fields.end())
      lines.push_back("+ " + name + ": " + value);
    else if (old->second != value)
      lines.push_back("~ " + name + ": " + old->second + " -> " + value);
  }
  for (const auto& [name, value] : old_fields)
    if (new_fields.count(name) == 0) lines.push_back("- " + name + ": " + value);
  return lines;
}

}  // namespace dray::console
