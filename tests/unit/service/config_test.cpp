// Config: parsing, bounds, hints, origins, precedence, rules between keys, and deploy/dray.toml.
#include "common/service/config.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/service/config_value.h"

namespace fs = std::filesystem;
using namespace dray;
using Catch::Matchers::Contains;

namespace {

// A folder with one dray.toml that goes away with the test.
struct Folder {
  explicit Folder(const std::string& text = "") {
    char name[] = "/tmp/dray-config-XXXXXX";
    path = mkdtemp(name);
    write("dray.toml", text);
  }
  ~Folder() { fs::remove_all(path); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(path + "/" + name).parent_path());
    std::ofstream(path + "/" + name) << text;
  }
  ConfigSources sources() const {
    ConfigSources s;
    s.process = "broker";
    s.file = path + "/dray.toml";
    return s;
  }
  std::string path;
};

std::string error_of(const std::string& text) {
  const Folder folder(text);
  const auto config = load_config(folder.sources());
  return config ? "" : config.error().detail;
}

std::string set_error(const std::string& set) {
  const Folder folder;
  ConfigSources sources = folder.sources();
  sources.sets = {set};
  const auto config = load_config(sources);
  return config ? "" : config.error().detail;
}

// Build folders lie in the repository. (__FILE__ may be relative: ccache is told to make it so.)
fs::path repository() {
  fs::path dir = fs::read_symlink("/proc/self/exe").parent_path();
  while (!fs::exists(dir / "deploy/dray.toml") && dir.has_relative_path()) dir = dir.parent_path();
  return dir;
}

std::string read(const fs::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_CASE("without any source every key has its default") {
  const auto config = load_config({});
  REQUIRE(config);
  CHECK(config->duration("broker.lease_ttl") == 10s);
  CHECK(config->size("broker.segment_bytes") == 64u << 20);
  CHECK(config->integer("broker.tasks_max") == 4'000'000);
  CHECK(config->text("log.format") == "auto");
  CHECK(config->strings("worker.plugins").empty());
  CHECK(config->amounts("worker.resources").empty());
  CHECK(config->origin("broker.lease_ttl") == "default");
  CHECK_FALSE(config->text("worker.name").empty());
}

TEST_CASE("each type is read from TOML") {
  const Folder folder(R"([broker]
lease_ttl = "250s"
payload_cache = 1000
segment_bytes = "2MiB"
http = 8790
[worker]
slots = 3
labels = ["head", "zone:a"]
plugins = ["lib/a.so", "/opt/b.so"]
resources = { step_a_slot = 2, fast = 0.1 }
http = "off"
)");
  const auto config = load_config(folder.sources());
  REQUIRE(config);
  CHECK(config->duration("broker.lease_ttl") == 250s);
  CHECK(config->size("broker.payload_cache") == 1000);
  CHECK(config->size("broker.segment_bytes") == 2u << 20);
  CHECK(config->text("broker.http") == "127.0.0.1:8790");
  CHECK(config->integer("worker.slots") == 3);
  CHECK(config->strings("worker.labels") == std::vector<std::string>{"head", "zone:a"});
  CHECK(config->strings("worker.plugins") ==
        std::vector<std::string>{folder.path + "/lib/a.so", "/opt/b.so"});
  CHECK(config->amounts("worker.resources") ==
        ConfigAmounts{{"fast", 1000}, {"step_a_slot", 20000}});
  CHECK(config->text("worker.http").empty());
}

TEST_CASE("the command line wins over the environment, that over drop-ins, those over the file") {
  const Folder folder("[broker]\nlease_ttl = \"11s\"\ntasks_max = 500\n");
  folder.write("dray.d/20-b.toml", "[broker]\nlease_ttl = \"13s\"\n");
  folder.write("dray.d/10-a.toml", "[broker]\nlease_ttl = \"12s\"\n");
  folder.write("dray.d/readme.txt", "not toml");
  ConfigSources sources = folder.sources();
  CHECK(load_config(sources)->origin("broker.lease_ttl") == folder.path + "/dray.toml:2");
  sources.drop_in_dir = folder.path + "/dray.d";
  CHECK(load_config(sources)->duration("broker.lease_ttl") == 13s);
  CHECK_THAT(load_config(sources)->origin("broker.lease_ttl"), Contains("20-b.toml:2"));
  sources.environment = {{"DRAY_BROKER_LEASE_TTL", "14s"}, {"DRAY_DIR", "/x"}};
  CHECK(load_config(sources)->duration("broker.lease_ttl") == 14s);
  CHECK(load_config(sources)->origin("broker.lease_ttl") == "env DRAY_BROKER_LEASE_TTL");
  sources.sets = {"broker.lease_ttl=15s", "worker.resources=a=2,b=0.5"};
  const auto config = load_config(sources);
  REQUIRE(config);
  CHECK(config->duration("broker.lease_ttl") == 15s);
  CHECK(config->origin("broker.lease_ttl") == "--set");
  CHECK(config->integer("broker.tasks_max") == 500);
  CHECK(config->amounts("worker.resources") == ConfigAmounts{{"a", 20000}, {"b", 5000}});
}

TEST_CASE("a missing drop-in folder is fine, a missing file is not") {
  const Folder folder;
  ConfigSources sources = folder.sources();
  sources.drop_in_dir = folder.path + "/none";
  CHECK(load_config(sources));
  sources.file = folder.path + "/none.toml";
  CHECK_THAT(load_config(sources).error().detail, Contains("none.toml: No such file"));
  CHECK(load_config(sources).error().code == Errc::config);
}

TEST_CASE("an unknown key names its line and the nearest key") {
  CHECK_THAT(
      error_of("[broker]\n\nlease_tll = \"1s\"\n"),
      Contains("dray.toml:3: unknown key 'broker.lease_tll', did you mean 'broker.lease_ttl'?"));
  CHECK_THAT(error_of("[broker]\nclient_credit = 1\n"),
             Contains("did you mean 'router.client_credit'"));
  CHECK_THAT(error_of("[zzzzzzzz]\nqqqqqqqq = 1\n"),
             Contains("unknown key 'zzzzzzzz.qqqqqqqq'") && !Contains("did you mean"));
  CHECK_THAT(error_of("tasks_max = 1\n"), Contains("did you mean 'broker.tasks_max'"));
  CHECK_THAT(set_error("broker.taks_max=1"),
             Contains("--set: unknown key 'broker.taks_max', did you mean 'broker.tasks_max'?"));
  CHECK_THAT(error_of("[broker]\n" + std::string(5000, 'x') + " = 1\n"), Contains("unknown key"));
}

TEST_CASE("a variable of one of our sections must be a key, others are not ours") {
  const Folder folder;
  ConfigSources sources = folder.sources();
  sources.environment = {{"DRAY_WORKERS", "2"}, {"DRAY_BIN", "/x"}, {"DRAY_JOBS", "1"}};
  CHECK(load_config(sources));
  sources.environment = {{"DRAY_BROKER_LEASE_TL", "1s"}};
  CHECK_THAT(load_config(sources).error().detail,
             Contains("env DRAY_BROKER_LEASE_TL") && Contains("did you mean 'broker.lease_ttl'"));
}

TEST_CASE("wrong types and values out of range name the key and the place") {
  CHECK_THAT(error_of("[broker]\nlease_ttl = 10\n"),
             Contains("dray.toml:2: broker.lease_ttl: wrong type, expected duration"));
  CHECK_THAT(error_of("[broker]\nlease_ttl = \"10\"\n"),
             Contains("'10' is not a number with a unit"));
  CHECK_THAT(error_of("[broker]\nlease_ttl = \"99999999999999d\"\n"), Contains("is not a number"));
  CHECK_THAT(error_of("[broker]\nlease_ttl = \"1ms\"\n"),
             Contains("1ms is below the minimum 100ms"));
  CHECK_THAT(error_of("[broker]\nlease_ttl = \"2h\"\n"), Contains("2h is above the maximum 1h"));
  CHECK_THAT(error_of("[broker]\nsegment_bytes = \"64MB\"\n"),
             Contains("units: B KiB MiB GiB TiB"));
  CHECK_THAT(error_of("[broker]\ntasks_max = \"7\"\n"), Contains("expected whole number"));
  CHECK_THAT(error_of("[worker]\nslots = -1\n"), Contains("-1 is below the minimum 0"));
  CHECK_THAT(error_of("[worker]\nlabels = [1]\n"), Contains("expected list of strings"));
  CHECK_THAT(error_of("[worker]\nresources = { a = true }\n"),
             Contains("amount of 'a' is no number"));
  CHECK_THAT(error_of("[worker]\nresources = { a = 0.00001 }\n"), Contains("four decimals"));
  CHECK_THAT(error_of("[worker]\nresources = { a = -1 }\n"), Contains("is not an amount"));
  CHECK_THAT(error_of("[log]\nlevel = \"loud\"\n"), Contains("not one of debug|info|warn|error"));
  CHECK_THAT(error_of("[broker]\nendpoint = \"tcp://127.0.0.1:99999\"\n"),
             Contains("is not a port"));
  CHECK_THAT(error_of("[broker]\nhttp = \"0.0.0.0:80\"\n"), Contains("loopback"));
  CHECK_THAT(error_of("[broker]\njournal_dir = \"\"\n"), Contains("must not be empty"));
  CHECK_THAT(set_error("broker.tasks_max=1x"), Contains("--set: broker.tasks_max: '1x'"));
  CHECK_THAT(set_error("nonsense"), Contains("is not key=value"));
}

TEST_CASE("all problems are told at once, on one line") {
  const std::string text = error_of("[broker]\nlease_ttl = 1\ntasks_max = 0\nx = 1\n");
  CHECK_THAT(text, Contains("toml:2") && Contains("toml:3") && Contains("toml:4"));
  CHECK(text.find('\n') == std::string::npos);
}

TEST_CASE("broken TOML is an error with its line, never a crash") {
  CHECK_THAT(error_of("[broker]\nlease_ttl = \n"), Contains("dray.toml:2"));
  CHECK_THAT(error_of("[broker\n"), Contains("dray.toml:1"));
  CHECK_FALSE(error_of(std::string("a=1\0b", 5)).empty());
  CHECK_FALSE(error_of("\xff\xfe").empty());
  CHECK_FALSE(error_of("a = " + std::string(5000, '[')).empty());
  CHECK_THAT(error_of(std::string(2 << 20, '#')), Contains("larger than 1 MiB"));
}

TEST_CASE("rules between keys give one message each") {
  const std::string text = error_of(R"([broker]
beat_interval = "5s"
journal_budget = "100MiB"
[router]
client_bytes = "1GiB"
)");
  CHECK_THAT(text, Contains("broker.lease_ttl must be more than three times broker.beat_interval"));
  CHECK_THAT(text, Contains("at least four times broker.segment_bytes"));
  CHECK_THAT(text, Contains("broker.journal_keep must be less than"));
  CHECK_THAT(text, Contains("router.client_bytes must not exceed"));
  CHECK_THAT(error_of("[router]\nendpoint = \"ipc://run/broker.sock\"\n"), Contains("must differ"));
  CHECK_THAT(error_of("[worker]\nname = \"a/b\"\n"), Contains("worker.name may have"));
  CHECK_THAT(error_of("[broker]\nendpoint = \"ipc://" + std::string(120, 'x') + "\"\n"),
             Contains("longer than 107 bytes"));
}

TEST_CASE("relative paths start at the folder of the cluster") {
  const Folder folder;
  ConfigSources sources = folder.sources();
  CHECK(load_config(sources)->text("broker.endpoint") ==
        "ipc://" + folder.path + "/run/broker.sock");
  sources.dir = "/srv/dray/";
  sources.sets = {"worker.name=w1"};
  const auto config = load_config(sources);
  REQUIRE(config);
  CHECK(config->dir() == "/srv/dray");
  CHECK(config->text("broker.journal_dir") == "/srv/dray/data/journal");
  CHECK(config->text("worker.http") == "unix:/srv/dray/run/w1.http");
  CHECK(config->text("client.endpoint") == "ipc:///srv/dray/run/router.sock");
}

TEST_CASE("only ipc and loopback may be bound") {
  for (const auto* good : {"ipc://run/x", "ipc:///tmp/x", "tcp://127.0.0.1:5", "tcp://127.9.8.7:5",
                           "tcp://[::1]:5", "tcp://localhost:5", "tcp://127.0.0.1:*"})
    CHECK(check_bind_endpoint(good));
  for (const auto* bad :
       {"", "ipc://", "ipc://@abstract", "tcp://*:5", "tcp://0.0.0.0:5", "tcp://10.0.0.1:5",
        "tcp://[::]:5", "tcp://eth0:5", "tcp://127.0.0.1.x.org:5", "tcp://127.0.0.1", "tcp://",
        "udp://127.0.0.1:5", "inproc://x", "tcp://127.0.0.1;10.0.0.1:5", "TCP://127.0.0.1:5"}) {
    const Status status = check_bind_endpoint(bad);
    REQUIRE_FALSE(status);
    CHECK(status.error().code == Errc::config);
    CHECK_THAT(status.error().detail, Contains("refusing to listen on '" + std::string(bad) + "'"));
  }
}

TEST_CASE("a process refuses its own public endpoint and does not judge what it only dials") {
  const Folder folder("[router]\nendpoint = \"tcp://0.0.0.0:5555\"\n");
  ConfigSources sources = folder.sources();
  CHECK(load_config(sources));
  sources.process = "router";
  CHECK_THAT(load_config(sources).error().detail, Contains("router.endpoint: refusing to listen"));
  sources.process = "";
  CHECK_FALSE(load_config(sources));
}

TEST_CASE("what is printed can be read again and says the same") {
  const Folder folder(R"([worker]
resources = { "odd name" = 0.25, b = 1 }
labels = ["a\"b", "tab\t"]
http = 0
[broker]
lease_ttl = "12500ms"
)");
  ConfigSources sources = folder.sources();
  const auto first = load_config(sources);
  REQUIRE(first);
  const std::string printed = print_config(*first);
  CHECK_THAT(printed, Contains("lease_ttl = \"12500ms\"  # " + folder.path + "/dray.toml:6"));
  CHECK_THAT(printed, Contains("tasks_max = 4000000  # default"));
  folder.write("dray.toml", printed);
  const auto second = load_config(sources);
  REQUIRE(second);
  for (const ConfigKey& key : config_keys()) {
    INFO(key.name);
    CHECK(first->value(key.name) == second->value(key.name));
  }
}

TEST_CASE("every row of the table is sound") {
  for (const ConfigKey& key : config_keys()) {
    INFO(key.name);
    CHECK(key.name.find('.') != std::string_view::npos);
    CHECK(key.min <= key.max);
    CHECK(key.help.ends_with("."));
    CHECK_FALSE(key.readers.empty());
    const auto value = parse_config_text(key, key.fallback);
    REQUIRE(value);
    if (key.name != "worker.name") CHECK(check_config_value(key, *value));
    CHECK((key.type == ConfigType::choice) == !key.choices.empty());
  }
}

TEST_CASE("durations, sizes and amounts print in the largest exact unit") {
  CHECK(format_duration(0) == "0s");
  CHECK(format_duration(90'000'000'000) == "90s");
  CHECK(format_duration(7'200'000'000'000) == "2h");
  CHECK(format_duration(1) == "1ns");
  CHECK(format_size(0) == "0B");
  CHECK(format_size(1536) == "1536B");
  CHECK(format_size(64 << 20) == "64MiB");
  CHECK(*parse_amount("0.0001") == 1);
  CHECK(*parse_amount("3") == 30000);
  for (const auto* bad : {"", ".", ".5", "1.00000", "-1", "1e3", "x", "99999999999"})
    CHECK_FALSE(parse_amount(bad));
}

// After a change of the table: DRAY_BLESS=1 build/release/bin/unit_service
TEST_CASE("deploy/dray.toml is what the table says") {
  const fs::path file = repository() / "deploy/dray.toml";
  if (std::getenv("DRAY_BLESS") != nullptr) std::ofstream(file) << config_reference();
  CHECK(read(file) == config_reference());
}

TEST_CASE("deploy/dray.toml loads, also with every line taken out of its comment") {
  const Folder folder;
  std::string text;
  std::istringstream lines(config_reference());
  for (std::string line; std::getline(lines, line);) {
    const bool is_value = line.size() > 1 && line[0] == '#' && line[1] != ' ';
    text += (is_value ? line.substr(1) : line) + "\n";
  }
  folder.write("dray.toml", text);
  const auto config = load_config(folder.sources());
  if (!config) FAIL(config.error().detail << "\n" << text);
  CHECK_THAT(config->origin("broker.lease_ttl"), Contains("dray.toml:"));
}
