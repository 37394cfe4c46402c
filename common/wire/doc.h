// Doc: a small self-describing value (null, bool, integer, number, text, list, object) for admin
// requests and answers, where a person or a program looks at the result and speed does not matter.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dray {

class Doc {
 public:
  using List = std::vector<Doc>;
  using Object = std::vector<std::pair<std::string, Doc>>;  // keeps insertion order
  Doc() = default;
  Doc(bool v) : v_(v) {}
  Doc(double v) : v_(v) {}
  Doc(std::string v) : v_(std::move(v)) {}
  Doc(std::string_view v) : v_(std::string(v)) {}
  Doc(const char* v) : v_(std::string(v)) {}
  Doc(List v) : v_(std::move(v)) {}
  Doc(Object v) : v_(std::move(v)) {}
  template <class T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) Doc(T v)
      : v_(static_cast<int64_t>(v)) {}

  bool is_null() const { return v_.index() == 0; }
  bool is_object() const { return std::holds_alternative<Object>(v_); }
  bool is_list() const { return std::holds_alternative<List>(v_); }
  bool as_bool(bool fallback = false) const;
  int64_t as_int(int64_t fallback = 0) const;
  double as_number(double fallback = 0) const;
  std::string_view as_text(std::string_view fallback = {}) const;
  const List& list() const;  // empty if not a list
  const Object& object() const;  // empty if not an object
  const Doc& operator[](std::string_view key) const;  // null Doc if absent
  Doc& set(std::string key, Doc value);  // appends; makes this an object; returns *this
  Doc& push(Doc value);  // makes this a list; returns *this
  const auto& value() const { return v_; }
  bool operator==(const Doc&) const = default;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, List, Object> v_;
};

std::string to_json(const Doc& doc);  // one line, UTF-8 passed through, invalid bytes escaped

}  // namespace dray
