#include "common/wire/doc.h"

#include <cmath>
#include <cstdio>

namespace dray {

bool Doc::as_bool(bool fallback) const {
  auto* v = std::get_if<bool>(&v_);
  return v ? *v : fallback;
}
int64_t Doc::as_int(int64_t fallback) const {
  auto* v = std::get_if<int64_t>(&v_);
  return v ? *v : fallback;
}
double Doc::as_number(double fallback) const {
  if (auto* v = std::get_if<double>(&v_)) return *v;
  if (auto* v = std::get_if<int64_t>(&v_)) return static_cast<double>(*v);
  return fallback;
}
std::string_view Doc::as_text(std::string_view fallback) const {
  auto* v = std::get_if<std::string>(&v_);
  return v ? std::string_view(*v) : fallback;
}
const Doc::List& Doc::list() const {
  static const List empty;
  auto* v = std::get_if<List>(&v_);
  return v ? *v : empty;
}
const Doc::Object& Doc::object() const {
  static const Object empty;
  auto* v = std::get_if<Object>(&v_);
  return v ? *v : empty;
}
const Doc& Doc::operator[](std::string_view key) const {
  static const Doc null;
  for (const auto& [k, v] : object())
    if (k == key) return v;
  return null;
}
Doc& Doc::set(std::string key, Doc value) {
  if (!is_object()) v_ = Object{};
  std::get<Object>(v_).emplace_back(std::move(key), std::move(value));
  return *this;
}
Doc& Doc::push(Doc value) {
  if (!is_list()) v_ = List{};
  std::get<List>(v_).push_back(std::move(value));
  return *this;
}

namespace {
void json_text(const std::string& s, std::string& out) {
  out += '"';
  for (char c : s) {
    auto u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (u < 0x20 || u == 0x7f) {
      char buf[8];
      std::snprintf(buf, sizeof buf, "\\u%04x", u);
      out += buf;
    } else {
      out += c;
    }
  }
  out += '"';
}

// Depth is bounded by the decoder (kMsgpackDepthMax) and by what our own code builds.
void json(const Doc& doc, std::string& out) {
  const auto& v = doc.value();
  if (auto* b = std::get_if<bool>(&v)) {
    out += *b ? "true" : "false";
  } else if (auto* i = std::get_if<int64_t>(&v)) {
    out += std::to_string(*i);
  } else if (auto* d = std::get_if<double>(&v)) {
    char buf[32];
    std::snprintf(buf, sizeof buf, "%.12g", *d);
    out += std::isfinite(*d) ? buf : "null";
  } else if (auto* s = std::get_if<std::string>(&v)) {
    json_text(*s, out);
  } else if (auto* l = std::get_if<Doc::List>(&v)) {
    out += '[';
    for (size_t k = 0; k < l->size(); ++k) {
      if (k) out += ',';
      json((*l)[k], out);
    }
    out += ']';
  } else if (auto* o = std::get_if<Doc::Object>(&v)) {
    out += '{';
    for (size_t k = 0; k < o->size(); ++k) {
      if (k) out += ',';
      json_text((*o)[k].first, out);
      out += ':';
      json((*o)[k].second, out);
    }
    out += '}';
  } else {
    out += "null";
  }
}
}  // namespace

std::string to_json(const Doc& doc) {
  std::string out;
  json(doc, out);
  return out;
}
}  // namespace dray
