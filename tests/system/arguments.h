// Arguments: "--key value" pairs and plain words of a test client, and one JSON line as its answer.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace storm {

class Arguments {
 public:
  Arguments(int argc, char** argv) {
    for (int i = 2; i < argc; ++i) {
      const std::string word = argv[i];
      if (word.starts_with("--") && i + 1 < argc)
        values_[word.substr(2)] = argv[++i];
      else
        words.push_back(word);
    }
  }
  bool has(const std::string& key) const { return values_.count(key) != 0; }
  std::string text(const std::string& key, const std::string& otherwise = "") const {
    auto it = values_.find(key);
    return it == values_.end() ? otherwise : it->second;
  }
  uint64_t number(const std::string& key, uint64_t otherwise) const {
    return has(key) ? std::stoull(text(key)) : otherwise;
  }
  double real(const std::string& key, double otherwise) const {
    return has(key) ? std::stod(text(key)) : otherwise;
  }
  std::vector<std::string> words;

 private:
  std::map<std::string, std::string> values_;
};

// {"key": value, ...}, printed as one line.
class JsonLine {
 public:
  JsonLine& add(const std::string& key, std::string_view text) {
    std::string quoted = "\"";
    for (char c : text) {
      char escaped[8];
      if (c == '"' || c == '\\') quoted += '\\';
      if (static_cast<unsigned char>(c) < 32 || static_cast<unsigned char>(c) > 126) {
        std::snprintf(escaped, sizeof(escaped), "\\u%04x",
                      static_cast<unsigned>(static_cast<unsigned char>(c)));
        quoted += escaped;
      } else {
        quoted += c;
      }
    }
    return raw(key, quoted + '"');
  }
  JsonLine& add(const std::string& key, const char* text) {
    return add(key, std::string_view(text));
  }
  JsonLine& add(const std::string& key, const std::string& text) {
    return add(key, std::string_view(text));
  }
  JsonLine& add(const std::string& key, uint64_t n) { return raw(key, std::to_string(n)); }
  JsonLine& add(const std::string& key, double n) { return raw(key, std::to_string(n)); }
  JsonLine& add(const std::string& key, bool b) { return raw(key, b ? "true" : "false"); }
  JsonLine& add(const std::string& key, const std::map<std::string, uint64_t>& counts) {
    JsonLine inner;
    for (const auto& [name, n] : counts) inner.add(name, n);
    return raw(key, inner.text());
  }
  JsonLine& raw(const std::string& key, const std::string& json) {
    fields_ += (fields_.empty() ? "" : ", ") + ("\"" + key + "\": ") + json;
    return *this;
  }
  std::string text() const { return "{" + fields_ + "}"; }
  void print() const {
    std::printf("%s\n", text().c_str());
    std::fflush(stdout);
  }

 private:
  std::string fields_;
};

}  // namespace storm
