// TOML files as documents with lines.
#include "common/service/toml_doc.h"

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <fstream>

using namespace dray;

namespace {
struct File {
  explicit File(const std::string& text) {
    char name[] = "/tmp/dray-toml-XXXXXX";
    const int fd = mkstemp(name);
    REQUIRE(fd >= 0);
    path = name;
    std::ofstream(path) << text;
  }
  ~File() { std::remove(path.c_str()); }
  std::string path;
};
}  // namespace

TEST_CASE("a toml file becomes a document that knows its lines") {
  File file(
      "[deployment.app]\ncode = \"a.so\"\nn = 3\nx = 0.5\nyes = true\n"
      "list = [\n  { gpus = 1 },\n  { gpus = 2 },\n]\n\n[deployment.app.more]\ndeep = \"d\"\n");
  auto toml = read_toml(file.path);
  REQUIRE(toml);
  const Doc& app = toml->doc["deployment"]["app"];
  CHECK(app["code"].as_text() == "a.so");
  CHECK(app["n"].as_int() == 3);
  CHECK(app["x"].as_number() == 0.5);
  CHECK(app["yes"].as_bool());
  CHECK(app["list"].list().at(1)["gpus"].as_int() == 2);
  CHECK(app["more"]["deep"].as_text() == "d");
  CHECK(toml->line_of("deployment.app.n") == 3);
  CHECK(toml->line_of("deployment.app.list.1.gpus") == 8);
  CHECK(toml->line_of("deployment.app.more.deep") == 12);
  // What is missing is looked for where it would stand.
  CHECK(toml->line_of("deployment.app.list.1.cpus") == 8);
  CHECK(toml->line_of("deployment.app.none") == 1);
  CHECK(toml->line_of("none") == 0);
}

TEST_CASE("a toml file that can not be read is refused with its line") {
  const std::pair<const char*, const char*> bad[] = {
      {"a = 1\nb = \n", ":2: "},
      {"a = 1\nb = 2020-01-01\n", ":2: b is a date or time"},
      {"a = 1\n\nd = [[[[[[[[[[1]]]]]]]]]]\n", "is nested too deep"}};
  for (const auto& [text, why] : bad) {
    File file(text);
    auto toml = read_toml(file.path);
    REQUIRE_FALSE(toml);
    CHECK(toml.error().detail.find(file.path) == 0);
    CHECK(toml.error().detail.find(why) != std::string::npos);
  }
  CHECK_FALSE(read_toml("/nonexistent/app.toml"));
}
