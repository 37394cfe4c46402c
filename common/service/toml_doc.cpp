#include "common/service/toml_doc.h"

#include <filesystem>
#include <fstream>

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace dray {
namespace {

constexpr size_t kBytesMax = 1024 * 1024;
constexpr int kDepthMax = 8;

class Reader {
 public:
  explicit Reader(TomlDoc& out) : out_(out) {}
  std::string problem;

  Doc read(const toml::node& node, const std::string& path, int depth) {
    out_.lines.emplace(path, static_cast<int>(node.source().begin.line));
    if (depth > kDepthMax) return refuse(node, path, "is nested too deep");
    if (const auto* table = node.as_table()) {
      Doc doc{Doc::Object{}};
      for (const auto& [name, value] : *table) {
        const std::string below = join(path, std::string(name.str()));
        // The name is where people look; a value may begin on a later line.
        out_.lines[below] = static_cast<int>(name.source().begin.line);
        doc.set(std::string(name.str()), read(value, below, depth + 1));
      }
      return doc;
    }
    if (const auto* array = node.as_array()) {
      Doc doc{Doc::List{}};
      size_t i = 0;
      for (const auto& item : *array)
        doc.push(read(item, join(path, std::to_string(i++)), depth + 1));
      return doc;
    }
    if (const auto* flag = node.as_boolean()) return Doc(flag->get());
    if (const auto* whole = node.as_integer()) return Doc(whole->get());
    if (const auto* real = node.as_floating_point()) return Doc(real->get());
    if (const auto* text = node.as_string()) return Doc(text->get());
    return refuse(node, path, "is a date or time");
  }

 private:
  static std::string join(const std::string& path, const std::string& name) {
    return path.empty() ? name : path + "." + name;
  }
  Doc refuse(const toml::node& node, const std::string& path, const char* why) {
    if (problem.empty())
      problem = std::to_string(node.source().begin.line) + ": " + path + " " + why;
    return {};
  }
  TomlDoc& out_;
};

}  // namespace

int TomlDoc::line_of(const std::string& path) const {
  for (std::string at = path;;) {
    if (const auto it = lines.find(at); it != lines.end()) return it->second;
    const size_t dot = at.rfind('.');
    if (dot == std::string::npos) return 0;
    at.resize(dot);
  }
}

Result<TomlDoc> read_toml(const std::string& path) {
  std::error_code failure;
  const auto size = std::filesystem::file_size(path, failure);
  if (failure) return make_error(Errc::config, path + ": " + failure.message());
  if (size > kBytesMax) return make_error(Errc::config, path + ": larger than 1 MiB");
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const auto parsed = toml::parse(text, path);
  if (!parsed)
    return make_error(Errc::config, path + ":" +
                                        std::to_string(parsed.error().source().begin.line) + ": " +
                                        std::string(parsed.error().description()));
  TomlDoc out;
  Reader reader(out);
  out.doc = reader.read(parsed.table(), "", 0);
  if (!reader.problem.empty()) return make_error(Errc::config, path + ":" + reader.problem);
  return out;
}

}  // namespace dray
