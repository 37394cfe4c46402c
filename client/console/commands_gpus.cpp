// gpus: the GPUs of the fleet as the broker knows them, or of this machine as a worker would find
// them.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "client/console/cluster_dir.h"
#include "client/console/commands.h"
#include "client/console/outcome.h"
#include "common/gpu/detect.h"
#include "common/resources/resources.h"

namespace dray::console {
namespace {

constexpr size_t kShortUuid = 12;

uint64_t number(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

// Numbers of a newer broker than this console.
template <class E>
std::string name_of(const Json& object, const char* key, std::string_view (*name)(E),
                    uint64_t last) {
  const uint64_t n = number(object, key);
  return n <= last ? std::string(name(static_cast<E>(n))) : std::to_string(n);
}

// The broker's numbers in words.
Json to_words(const Json& g) {
  const uint64_t units = number(g, "units"), taken = number(g, "taken_units");
  Json out;
  for (const char* key : {"worker", "node", "index", "uuid", "name"})
    out[key] = g.value(key, Json());
  out["kind"] = name_of<gpu::Kind>(g, "kind", gpu::kind_name, 2);
  for (const char* key : {"used_mib", "memory_mib", "taken_mib"}) out[key] = number(g, key);
  out["share_taken"] = static_cast<double>(taken) / kResourceUnit;
  out["share_free"] = static_cast<double>(units > taken ? units - taken : 0) / kResourceUnit;
  for (const char* key : {"sms", "cc_major", "cc_minor"}) out[key] = number(g, key);
  out["numa"] = g.value("numa", Json(-1));
  out["health"] = name_of<gpu::Health>(g, "health", gpu::health_name, 3);
  out["reason"] = g.value("reason", "");
  out["throttle"] = gpu::throttle_text(number(g, "throttle"));
  out["enforcement"] = name_of<gpu::Enforcement>(g, "enforcement", gpu::enforcement_name, 4);
  for (const char* key : {"utilisation", "temperature_c", "group"}) out[key] = number(g, key);
  return out;
}

std::string share_text(double share) {
  return print_amount(static_cast<uint64_t>(share * kResourceUnit + 0.5));
}

std::string or_dash(const Json& g, const char* key) {
  return number(g, key) == 0 ? "-" : cell(g, key);
}

std::string short_uuid(const std::string& uuid) {
  return uuid.starts_with("FAKE-") ? uuid : uuid.substr(0, kShortUuid);
}

std::vector<std::string> row_of(const Json& g, bool is_wide) {
  const std::string uuid = cell(g, "uuid"), reason = cell(g, "reason");
  const std::string cc =
      number(g, "cc_major") == 0 ? "-" : cell(g, "cc_major") + "." + cell(g, "cc_minor");
  const std::string memory = format_bytes(number(g, "used_mib") << 20) + " / " +
                             format_bytes(number(g, "memory_mib") << 20);
  std::vector<std::string> row{cell(g, "node"),
                               cell(g, "index"),
                               printable(is_wide ? uuid : short_uuid(uuid), 128),
                               cell(g, "kind"),
                               printable(cell(g, "name"), 40),
                               memory,
                               share_text(g["share_taken"].get<double>()) + " / " +
                                   share_text(g["share_free"].get<double>()),
                               or_dash(g, "sms"),
                               cc,
                               g["numa"] == -1 ? "-" : cell(g, "numa"),
                               cell(g, "health") + (reason.empty() ? "" : ": " + reason),
                               cell(g, "throttle"),
                               cell(g, "enforcement"),
                               or_dash(g, "temperature_c")};
  if (is_wide)
    row.insert(row.end(), {cell(g, "worker"), cell(g, "taken_mib") + " MiB",
                           cell(g, "utilisation") + " %", cell(g, "group")});
  return row;
}

Json ask_gpus(Context& context) {
  Json all = Json::array();
  for (int64_t after = 0;;) {
    const Json page = parse_json(context.admin("broker", "gpus", {{"after", after}}));
    for (const auto& g : page.value("gpus", Json::array())) all.push_back(to_words(g));
    if (!page.contains("next")) return all;
    after = page["next"].get<int64_t>();
  }
}

int list_gpus(Context& context) {
  const Json list = ask_gpus(context);
  if (context.json()) return print_json(list), kOk;
  std::vector<std::string> head{"NODE",          "GPU",          "UUID",     "KIND", "NAME",
                                "USED / MEMORY", "TAKEN / FREE", "SMS",      "CC",   "NUMA",
                                "HEALTH",        "THROTTLE",     "ENFORCES", "TEMP"};
  if (context.wide()) head.insert(head.end(), {"WORKER", "MEMORY TAKEN", "BUSY", "GROUP"});
  Table table(head);
  for (const auto& g : list) table.add(row_of(g, context.wide()));
  if (table.empty())
    std::printf("no connected worker offers a GPU; what this machine has: dray gpus --detect\n");
  else
    std::fputs(table.text().c_str(), stdout);
  return kOk;
}

Json detected_json(const gpu::Detection& found) {
  Json doc = {{"source", gpu::source_name(found.source)},
              {"driver_version", found.driver_version},
              {"cuda_version", found.cuda_version},
              {"devices", Json::array()},
              {"notes", found.notes}};
  const auto number_or_null = [](const auto& n) { return n ? Json(*n) : Json(nullptr); };
  for (const gpu::Device& d : found.devices)
    doc["devices"].push_back({{"uuid", d.uuid},
                              {"kind", gpu::kind_name(d.kind)},
                              {"name", d.name},
                              {"pci", d.pci},
                              {"memory_mib", number_or_null(d.memory_mib)},
                              {"free_mib", number_or_null(d.free_mib)},
                              {"sms", number_or_null(d.sms)},
                              {"cc_major", number_or_null(d.cc_major)},
                              {"cc_minor", number_or_null(d.cc_minor)},
                              {"numa", d.numa},
                              {"health", gpu::health_name(d.health)},
                              {"reason", d.health_reason},
                              {"enforcement", gpu::enforcement_name(d.enforcement)}});
  return doc;
}

// What a worker of this folder would find here; needs no cluster.
int detect_gpus(Context& context) {
  const Config config = ClusterDir(context.dir).config();
  gpu::DetectOptions options;
  options.nvml_library = config.text("worker.nvml_library");
  const auto found = gpu::detect(options);
  if (!found) throw Failure{kTaskFailed, found.error().detail, "see: dray gpus --help"};
  if (context.json()) return print_json(detected_json(*found)), kOk;
  std::fputs(gpu::describe(*found).c_str(), stdout);
  std::printf("tried: %s (NVML)%s\n", options.nvml_library.c_str(),
              found->source == gpu::Source::nvml
                  ? ""
                  : (", " + options.cuda_library + " (CUDA, in a child process)").c_str());
  if (found->devices.empty())
    std::printf("no GPU here; to try placement without one: dray up --fake-gpus 2x24GiB\n");
  return kOk;
}

}  // namespace

void add_gpu_command(CLI::App& app, Context& context) {
  auto* cmd = app.add_subcommand("gpus", "GPUs of all workers: shares, memory, health");
  auto detect = std::make_shared<bool>(false);
  cmd->add_flag("--detect", *detect, "Look for GPUs on this machine instead; needs no cluster");
  cmd->footer(
      "TAKEN / FREE are shares of one device, for placement. They are limits only where ENFORCES\n"
      "says so.\n\n"
      "Examples:\n"
      "  dray gpus\n"
      "  dray gpus -o json | jq '.[] | select(.health != \"ok\")'\n"
      "  dray gpus --detect\n"
      "  dray submit sleep 100 --gpus 0.5 --gpu-memory 8GiB\n");
  cmd->callback([&context, detect] {
    context.action = [&context, detect] {
      return *detect ? detect_gpus(context) : list_gpus(context);
    };
  });
}

}  // namespace dray::console
