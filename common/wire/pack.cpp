// Bounded msgpack parsing: every limit is checked before memory is taken for what a peer claims.
#include "common/wire/pack.h"

namespace dray::wire {
namespace {

// Collects a flat element list; rejects extensions, NaN, and anything over a limit.
class Collector : public msgpack::v2::null_visitor {
 public:
  explicit Collector(std::vector<Element>& out) : out_(out) {}
  bool visit_nil() { return add({Element::Type::nil, 0, 0, {}}); }
  bool visit_boolean(bool v) { return add({Element::Type::boolean, v, 0, {}}); }
  bool visit_positive_integer(uint64_t v) { return add({Element::Type::uint, v, 0, {}}); }
  bool visit_negative_integer(int64_t v) {
    return add({Element::Type::sint, static_cast<uint64_t>(v), 0, {}});
  }
  bool visit_float32(float v) { return visit_float64(static_cast<double>(v)); }
  bool visit_float64(double v) { return std::isfinite(v) && add({Element::Type::real, 0, v, {}}); }
  bool visit_str(const char* v, uint32_t size) {
    return size <= kMsgpackStrMax && add({Element::Type::text, size, 0, {v, size}});
  }
  bool visit_bin(const char* v, uint32_t size) { return visit_str(v, size); }
  bool visit_ext(const char*, uint32_t) { return false; }
  bool start_array(uint32_t n) {
    return n <= kMsgpackArrayMax && ++depth_ <= kMsgpackDepthMax &&
           add({Element::Type::array, n, 0, {}});
  }
  bool end_array() { return --depth_, true; }
  bool start_map(uint32_t n) {
    return n <= kMsgpackMapMax && ++depth_ <= kMsgpackDepthMax &&
           add({Element::Type::map, n, 0, {}});
  }
  bool end_map() { return --depth_, true; }
  void parse_error(size_t, size_t) {}
  void insufficient_bytes(size_t, size_t) {}
  bool referenced() const { return true; }

 private:
  bool add(Element e) {
    if (out_.size() >= kMsgpackTokensMax) return false;
    out_.push_back(e);
    return true;
  }
  std::vector<Element>& out_;
  size_t depth_ = 0;
};

}  // namespace

Result<size_t> parse_elements(std::string_view data, std::vector<Element>& out) {
  Collector collector(out);
  size_t offset = 0;
  try {
    if (data.empty() || !msgpack::parse(data.data(), data.size(), offset, collector))
      return make_error(Errc::bad_message, "head is not valid msgpack within the limits");
  } catch (const std::exception&) {
    return make_error(Errc::bad_message, "head is not valid msgpack");
  }
  return offset;
}

void Packer::put(const Doc& doc) {
  const auto& v = doc.value();
  if (auto* b = std::get_if<bool>(&v)) {
    put(*b);
  } else if (auto* i = std::get_if<int64_t>(&v)) {
    put(*i);
  } else if (auto* d = std::get_if<double>(&v)) {
    put(*d);
  } else if (auto* s = std::get_if<std::string>(&v)) {
    packer_.pack_str(static_cast<uint32_t>(s->size()));
    packer_.pack_str_body(s->data(), static_cast<uint32_t>(s->size()));
  } else if (auto* l = std::get_if<Doc::List>(&v)) {
    array(l->size());
    for (const auto& x : *l) put(x);
  } else if (auto* o = std::get_if<Doc::Object>(&v)) {
    packer_.pack_map(static_cast<uint32_t>(o->size()));
    for (const auto& [k, x] : *o) {
      packer_.pack_str(static_cast<uint32_t>(k.size()));
      packer_.pack_str_body(k.data(), static_cast<uint32_t>(k.size()));
      put(x);
    }
  } else {
    packer_.pack_nil();
  }
}

const Element* Reader::take(Element::Type type) {
  if (failed_) return nullptr;
  if (next_ >= elements_.size()) return fail("field missing"), nullptr;
  const Element& e = elements_[next_++];
  if (e.type != type) return fail("field has the wrong type"), nullptr;
  return &e;
}

uint64_t Reader::unsigned_max(uint64_t max) {
  const Element* e = take(Element::Type::uint);
  if (!e) return 0;
  if (e->number > max) return fail("number out of range"), 0;
  return e->number;
}

void Reader::get(bool& v) {
  if (const Element* e = take(Element::Type::boolean)) v = e->number != 0;
}

void Reader::get(int64_t& v) {
  if (failed_ || next_ >= elements_.size()) return fail("field missing");
  const Element& e = elements_[next_];
  if (e.type == Element::Type::uint && e.number <= INT64_MAX) {
    v = static_cast<int64_t>(e.number);
  } else if (e.type == Element::Type::sint) {
    v = static_cast<int64_t>(e.number);
  } else {
    return fail("integer expected");
  }
  ++next_;
}

void Reader::get(double& v) {
  if (const Element* e = take(Element::Type::real)) v = e->real;
}

void Reader::get(std::string& v) {
  if (const Element* e = take(Element::Type::text)) v.assign(e->text);
}

Doc Reader::doc(int depth) {
  if (failed_ || next_ >= elements_.size() || depth > static_cast<int>(kMsgpackDepthMax)) {
    fail("field missing");
    return {};
  }
  const Element& e = elements_[next_++];
  switch (e.type) {
    case Element::Type::nil:
      return {};
    case Element::Type::boolean:
      return Doc(e.number != 0);
    case Element::Type::uint:
    case Element::Type::sint:
      return Doc(static_cast<int64_t>(e.number));
    case Element::Type::real:
      return Doc(e.real);
    case Element::Type::text:
      return Doc(std::string(e.text));
    case Element::Type::array: {
      Doc list{Doc::List{}};
      for (uint64_t i = 0; i < e.number && !failed_; ++i) list.push(doc(depth + 1));
      return list;
    }
    case Element::Type::map:
      break;
  }
  Doc object{Doc::Object{}};
  for (uint64_t i = 0; i < e.number && !failed_; ++i) {
    std::string key;
    get(key);
    object.set(std::move(key), doc(depth + 1));
  }
  return object;
}

void Reader::skip() { (void)doc(0); }

}  // namespace dray::wire
