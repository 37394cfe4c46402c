// Layout and settings of a local cluster's folder.
#include "client/console/cluster_dir.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "client/console/context.h"
#include "embedded.h"

namespace dray::console {
namespace fs = std::filesystem;
namespace {

// A unix socket path has at most 107 bytes; the longest name under the folder is that of the
// supervisor's socket while it is made: "/run/supervisor.sock.1234567".
constexpr size_t kDirBytesMax = 107 - 28;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string chosen(const std::string& given) {
  if (!given.empty()) return given;
  if (std::string dir = environment("DRAY_DIR"); !dir.empty()) return dir;
  const std::string home = environment("HOME");
  if (home.empty())
    throw Failure{kUsage, "there is no $HOME", "name the cluster's folder: --dir DIR"};
  return home + "/.dray";
}

std::string link_folder() {
  const std::string runtime = environment("XDG_RUNTIME_DIR");
  if (!runtime.empty() && runtime.size() < 50 && ::access(runtime.c_str(), W_OK) == 0)
    return runtime + "/dray";
  return "/tmp/dray-" + std::to_string(::getuid());
}

uint64_t hash_of(const std::string& text) {
  uint64_t h = 0xcbf29ce484222325;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return h;
}

// Makes the link; the folder of links must be ours alone, or others could redirect us.
void make_link(const std::string& link, const std::string& target) {
  const std::string folder = fs::path(link).parent_path();
  ::mkdir(folder.c_str(), 0700);
  struct stat st {};
  if (::lstat(folder.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != ::getuid() ||
      (st.st_mode & 077) != 0)
    throw Failure{kUsage, folder + " is not a private folder of yours",
                  "use a shorter path: dray up --dir DIR"};
  std::error_code ec;
  if (fs::read_symlink(link, ec) == target) return;
  fs::remove(link, ec);
  fs::create_symlink(target, link, ec);
  if (ec)
    throw Failure{kUsage, "cannot make the link " + link + ": " + ec.message(),
                  "use a shorter path: dray up --dir DIR"};
}

}  // namespace

ClusterDir::ClusterDir(const std::string& given) {
  std::error_code ec;
  path_ = fs::absolute(chosen(given), ec).lexically_normal().string();
  while (path_.size() > 1 && path_.ends_with('/')) path_.pop_back();
  short_ = path_;
  if (path_.size() <= kDirBytesMax) return;
  char name[24];
  std::snprintf(name, sizeof name, "/%016llx", static_cast<unsigned long long>(hash_of(path_)));
  short_ = link_folder() + name;
}

bool ClusterDir::exists() const { return ::access((path_ + "/run/cluster").c_str(), F_OK) == 0; }

void ClusterDir::create() const {
  // supervisord expands % in its file, and splits command lines at spaces.
  if (short_.find_first_of(" %'\"\\;\n") != std::string::npos)
    throw Failure{kUsage, "the folder's path has a space, quote, '%', ';' or '\\': " + path_,
                  "choose another: dray up --dir DIR"};
  std::error_code ec;
  for (const char* name : {"run", "log", "data"}) {
    fs::create_directories(path_ + "/" + name, ec);
    if (ec)
      throw Failure{kUsage, "cannot create " + path_ + "/" + name + ": " + ec.message(),
                    "choose another folder: dray up --dir DIR"};
  }
  fs::permissions(path_ + "/run", fs::perms::owner_all, ec);
  if (is_linked()) make_link(short_, path_);
  if (!fs::exists(path_ + "/dray.toml", ec)) write_file(path_ + "/dray.toml", config_reference());
  // Ours, not the user's: it follows the version of the programs.
  const std::string conf = path_ + "/supervisord.conf";
  if (read_file(conf, 1 << 20) != std::string(kSupervisordConf)) write_file(conf, kSupervisordConf);
}

void ClusterDir::save(const UpSettings& settings) const {
  std::string text = "workers=" + std::to_string(settings.workers) + "\n";
  for (const auto& r : settings.routers)
    text += "router=" + r.name + " " + r.clients + " " + r.workers + "\n";
  for (const auto& set : settings.sets) text += "set=" + set + "\n";
  write_file(path_ + "/run/cluster", text);
}

UpSettings ClusterDir::saved() const {
  UpSettings settings;
  const std::string text = read_file(path_ + "/run/cluster", 1 << 20).value_or("");
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.starts_with("workers="))
      settings.workers = std::atoi(std::string(line.substr(8)).c_str());
    if (line.starts_with("set=")) settings.sets.emplace_back(line.substr(4));
    if (line.starts_with("router=")) {
      std::istringstream words{std::string(line.substr(7))};
      RouterAddress r;
      if (words >> r.name >> r.clients >> r.workers) settings.routers.push_back(std::move(r));
    }
  }
  return settings;
}

Config ClusterDir::config(const std::vector<std::string>& sets) const {
  ConfigSources sources;
  const std::string toml = path_ + "/dray.toml";
  if (::access(toml.c_str(), F_OK) == 0) sources.file = toml;
  sources.dir = short_;
  sources.environment = dray_environment();
  sources.sets = sets;
  auto config = load_config(sources);
  if (!config)
    throw Failure{kUsage, config.error().detail, "all keys with their defaults: dray config show"};
  return std::move(config).value();
}

std::string ClusterDir::endpoint() const {
  const Config c = config();
  if (c.origin("client.endpoint") != "default") return c.text("client.endpoint");
  std::string list;
  for (const auto& r : routers()) list += (list.empty() ? "" : ",") + r.clients;
  return list;
}

std::vector<RouterAddress> ClusterDir::routers() const {
  if (auto list = saved().routers; !list.empty()) return list;
  const Config c = config();
  return {{c.text("router.name"), c.text("router.endpoint"), c.text("router.worker_endpoint")}};
}

std::vector<ServiceAddress> ClusterDir::services(const Config& config,
                                                 const UpSettings& settings) const {
  std::vector<ServiceAddress> list;
  for (const char* name : {"broker", "aggregator", "balancer", "router"})
    list.push_back({name, config.text(std::string(name) + ".http")});
  // The address depends on the name: {name} was replaced by this process's own.
  const auto add = [&](const std::string& name, const std::string& service) {
    std::vector<std::string> sets = settings.all_sets();
    sets.push_back(service + ".name=" + name);
    list.push_back({name, this->config(sets).text(service + ".http")});
  };
  for (size_t i = 1; i < settings.routers.size(); ++i) add(settings.routers[i].name, "router");
  for (int i = 0; i < settings.workers; ++i) add("worker-" + std::to_string(i), "worker");
  return list;
}

std::optional<std::string> read_file(const std::string& path, size_t max_bytes) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return std::nullopt;
  std::string text(max_bytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(max_bytes));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

void write_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  std::error_code ec;
  if (out) fs::rename(temporary, path, ec);
  if (!out || ec)
    throw Failure{kTaskFailed, "cannot write " + path, "is the disk full? df -h " + path};
}

}  // namespace dray::console
