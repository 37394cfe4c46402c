// Internal to common/wire: msgpack packing and bounded visitor-based unpacking. The only header
// that includes msgpack.
#pragma once

#include <cmath>
#include <cstdint>
#include <msgpack/null_visitor.hpp>
#include <msgpack/pack.hpp>
#include <msgpack/parse.hpp>
#include <msgpack/unpack.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/limits.h"
#include "common/base/result.h"
#include "common/wire/doc.h"

namespace dray::wire {

struct StringSink {
  std::string& out;
  void write(const char* data, size_t size) { out.append(data, size); }
};

// Packs fields of the supported types; integers in their shortest form.
class Packer {
 public:
  explicit Packer(std::string& out) : sink_{out}, packer_(sink_) {}
  void array(size_t n) { packer_.pack_array(static_cast<uint32_t>(n)); }
  void put(bool v) { v ? packer_.pack_true() : packer_.pack_false(); }
  void put(uint8_t v) { packer_.pack_uint64(v); }
  void put(uint16_t v) { packer_.pack_uint64(v); }
  void put(uint32_t v) { packer_.pack_uint64(v); }
  void put(uint64_t v) { packer_.pack_uint64(v); }
  void put(int64_t v) { packer_.pack_int64(v); }
  void put(double v) { packer_.pack_double(v); }
  void put(std::string_view v) {  // bin: names and opaque blobs alike, no UTF-8 promise
    packer_.pack_bin(static_cast<uint32_t>(v.size()));
    packer_.pack_bin_body(v.data(), static_cast<uint32_t>(v.size()));
  }
  void put(const std::string& v) { put(std::string_view(v)); }
  template <class T>
  void put(const std::vector<T>& list) {
    array(list.size());
    for (const auto& x : list) put(x);
  }
  template <class A, class B>
  void put(const std::pair<A, B>& p) {
    array(2);
    put(p.first);
    put(p.second);
  }
  void put(const Doc& doc);
  // As field visitor: one array of all fields.
  template <class... T>
  void operator()(const T&... fields) {
    array(sizeof...(fields));
    (put(fields), ...);
  }

 private:
  StringSink sink_;
  msgpack::packer<StringSink> packer_;
};

// A flat list of parsed elements; containers are followed by their elements.
struct Element {
  enum class Type : uint8_t { nil, boolean, uint, sint, real, text, array, map } type;
  uint64_t number = 0;  // value, or element count of a container
  double real = 0;
  std::string_view text;
};

// Parses one msgpack object under all limits into `out`; returns bytes consumed.
Result<size_t> parse_elements(std::string_view data, std::vector<Element>& out);

// Reads typed fields from the flat list. After a failure everything else fails too.
class Reader {
 public:
  explicit Reader(const std::vector<Element>& elements) : elements_(elements) {}
  bool failed() const { return failed_; }
  const char* why() const { return why_; }
  bool at_end() const { return next_ == elements_.size(); }
  size_t array(size_t max) {
    const Element* e = take(Element::Type::array);
    if (e && e->number > max) fail("list too long");
    return failed_ ? 0 : static_cast<size_t>(e->number);
  }
  void get(bool& v);
  void get(uint8_t& v) { v = static_cast<uint8_t>(unsigned_max(0xff)); }
  void get(uint16_t& v) { v = static_cast<uint16_t>(unsigned_max(0xffff)); }
  void get(uint32_t& v) { v = static_cast<uint32_t>(unsigned_max(0xffffffff)); }
  void get(uint64_t& v) { v = unsigned_max(UINT64_MAX); }
  void get(int64_t& v);
  void get(double& v);
  void get(std::string& v);
  void get(Doc& v) { v = doc(0); }
  template <class T>
  void get(std::vector<T>& list) {
    size_t n = array(kMsgpackArrayMax);
    list.clear();
    for (size_t i = 0; i < n && !failed_; ++i) get(list.emplace_back());
  }
  template <class A, class B>
  void get(std::pair<A, B>& p) {
    if (array(2) != 2) return fail("pair expected");
    get(p.first);
    get(p.second);
  }
  // As field visitor: an array with at least the known fields; more are skipped (minor versions).
  template <class... T>
  void operator()(T&... fields) {
    size_t n = array(kMsgpackArrayMax);
    if (n < sizeof...(fields)) return fail("too few fields");
    (get(fields), ...);
    for (size_t i = sizeof...(fields); i < n && !failed_; ++i) skip();
  }
  // Only the first `required` must be there: the others were added in a minor version.
  template <class... T>
  void at_least(size_t required, T&... fields) {
    size_t n = array(kMsgpackArrayMax);
    if (n < required) return fail("too few fields");
    size_t i = 0;
    ((i++ < n ? get(fields) : void()), ...);
    for (; i < n && !failed_; ++i) skip();
  }
  void fail(const char* why) {
    if (!failed_) why_ = why;
    failed_ = true;
  }

 private:
  const Element* take(Element::Type type);
  uint64_t unsigned_max(uint64_t max);
  Doc doc(int depth);
  void skip();
  const std::vector<Element>& elements_;
  size_t next_ = 0;
  bool failed_ = false;
  const char* why_ = "";
};

// A field visitor whose last fields may be missing.
struct LenientReader {
  Reader& reader;
  size_t required = 0;
  template <class... T>
  void operator()(T&... fields) {
    reader.at_least(required, fields...);
  }
};

}  // namespace dray::wire
