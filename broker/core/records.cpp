// Bytes of the journal records: little-endian fixed fields and length-prefixed strings.
#include "broker/core/records.h"

#include <cstring>

namespace dray::broker {
namespace {

class Writer {
 public:
  std::string out;
  template <class T>
  requires std::is_integral_v<T>
  void put(T v) { out.append(reinterpret_cast<const char*>(&v), sizeof v); }
  void put(BootId b) {
    put(b.hi);
    put(b.lo);
  }
  void put(const std::string& s) {
    put(static_cast<uint32_t>(s.size()));
    out += s;
  }
  template <class T>
  void put(const std::vector<T>& v) {
    put(static_cast<uint32_t>(v.size()));
    for (const auto& x : v) put(x);
  }
  template <class A, class B>
  void put(const std::pair<A, B>& p) {
    put(p.first);
    put(p.second);
  }
  template <class... T>
  void operator()(const T&... fields) {
    (put(fields), ...);
  }
};

class HeadReader {
 public:
  explicit HeadReader(std::string_view in) : in_(in) {}
  bool ok() const { return ok_ && in_.empty(); }
  template <class T>
  requires std::is_integral_v<T>
  void get(T& v) {
    if (in_.size() < sizeof v) return fail();
    std::memcpy(&v, in_.data(), sizeof v);
    in_.remove_prefix(sizeof v);
  }
  void get(bool& v) {
    uint8_t b = 0;
    get(b);
    if (b > 1) return fail();
    v = b != 0;
  }
  void get(BootId& b) {
    get(b.hi);
    get(b.lo);
  }
  void get(std::string& s) {
    uint32_t n = 0;
    get(n);
    if (!ok_ || in_.size() < n) return fail();
    s.assign(in_.substr(0, n));
    in_.remove_prefix(n);
  }
  template <class T>
  void get(std::vector<T>& v) {
    uint32_t n = 0;
    get(n);
    if (n > in_.size()) return fail();  // every element takes at least a byte
    for (uint32_t i = 0; i < n && ok_; ++i) get(v.emplace_back());
  }
  template <class A, class B>
  void get(std::pair<A, B>& p) {
    get(p.first);
    get(p.second);
  }
  template <class... T>
  void operator()(T&... fields) {
    (get(fields), ...);
  }

 private:
  void fail() {
    ok_ = false;
    in_ = {};
  }
  std::string_view in_;
  bool ok_ = true;
};

template <class V>
void visit(V& v, AcceptRec& r) {
  v(r.wall_ms, r.first_order, r.specs);
}
template <class V>
void visit(V& v, LeaseRec& r) {
  v(r.epoch, r.first_seq, r.worker, r.worker_name);
}
template <class V>
void visit(V& v, FinishRec& r) {
  v(r.wall_ms, r.prev, r.texts);
}
template <class V>
void visit(V& v, RequeueRec& r) {
  v(r.texts);
}
template <class V>
void visit(V& v, CarryRec& r) {
  v(r.specs, r.workers, r.texts);
}
template <class V>
void visit(V&, DropDeadRec&) {}
template <class V>
void visit(V& v, StreamAckRec& r) {
  v(r.upto);
}
template <class V>
void visit(V& v, PauseRec& r) {
  v(r.queue, r.on);
}
template <class V>
void visit(V& v, FloorRec& r) {
  v(r.id_ms);
}
template <class V>
void visit(V& v, CatalogRec& r) {
  v(r.handlers, r.resources);
}

// Width of the row table of each record type, in the order of the variant; 0 = no table.
constexpr size_t kRowSize[] = {sizeof(AcceptRow),
                               sizeof(IdRow),
                               sizeof(ResultRow),
                               sizeof(RequeueRow),
                               sizeof(CarryRow),
                               sizeof(IdRow),
                               0,
                               0,
                               0,
                               0};
static_assert(std::size(kRowSize) == std::variant_size_v<Record>);

template <size_t I = 0>
Result<Record> decode_as(size_t index, const ReplayedRecord& in) {
  if constexpr (I < std::variant_size_v<Record>) {
    if (index != I) return decode_as<I + 1>(index, in);
    std::variant_alternative_t<I, Record> r;
    HeadReader reader(in.head);
    visit(reader, r);
    if (!reader.ok()) return make_error(Errc::corrupt, "journal record head is damaged");
    if constexpr (requires { r.rows; }) {
      if (in.rows.size() % kRowSize[I] != 0)
        return make_error(Errc::corrupt, "journal record rows are damaged");
      r.rows = in.rows;
    }
    return Record(std::move(r));
  } else {
    return make_error(Errc::corrupt, "journal record of unknown type " + std::to_string(in.type));
  }
}

}  // namespace

JournalRecord encode_record(RecordNo no, const Record& record) {
  JournalRecord out;
  out.no = no;
  out.type = static_cast<uint8_t>(record.index() + 1);
  std::visit(
      [&](const auto& r) {
        Writer w;
        visit(w, const_cast<std::decay_t<decltype(r)>&>(r));  // one field list; Writer only reads
        out.head = std::move(w.out);
        if constexpr (requires { r.rows; }) out.rows = r.rows;
      },
      record);
  return out;
}

Result<Record> decode_record(const ReplayedRecord& replayed) {
  if (replayed.type == 0) return make_error(Errc::corrupt, "journal record without a type");
  return decode_as(replayed.type - 1u, replayed);
}

}  // namespace dray::broker
