// Messages <-> frames. One table of kinds; the field lists of message.h do the rest.
#include <algorithm>

#include "common/wire/message.h"
#include "common/wire/pack.h"
#include "common/wire/spec.h"

namespace dray {
namespace {

using wire::Element;
using wire::Packer;
using wire::Reader;

Error bad(std::string detail) { return make_error(Errc::bad_message, std::move(detail)); }

void pack_envelope(const Envelope& e, Packer& p) {
  p(e.major, e.minor, static_cast<uint16_t>(e.kind), e.session, e.route, e.req, e.granted,
    e.deadline_us, e.trace);
}

// Reads one unsigned msgpack integer at `at`; false for anything else.
bool read_uint(std::string_view data, size_t& at, uint64_t& value) {
  if (at >= data.size()) return false;
  const auto first = static_cast<uint8_t>(data[at++]);
  value = first;
  if (first < 0x80) return true;
  if (first < 0xcc || first > 0xcf) return false;
  const size_t bytes = size_t{1} << (first - 0xcc);
  if (data.size() - at < bytes) return false;
  value = 0;
  for (size_t i = 0; i < bytes; ++i) value = value << 8 | static_cast<uint8_t>(data[at++]);
  return true;
}

// The envelope exactly as pack_envelope writes it, without a trace. Every message is looked at two
// or three times on its way, and this takes a tenth of the general way below, which has the last
// word on everything else: returns 0 then.
size_t read_plain_envelope(std::string_view head, Envelope& e) {
  constexpr char kArrayOf9 = static_cast<char>(0x99);
  constexpr std::string_view kEmptyBin("\xc4\x00", 2);
  if (head.empty() || head[0] != kArrayOf9) return 0;
  size_t at = 1;
  uint64_t n[8];
  for (uint64_t& value : n)
    if (!read_uint(head, at, value)) return 0;
  if (head.substr(at, 2) != kEmptyBin || n[0] != kProtocolMajor || n[1] > 0xff || n[2] > 0xffff)
    return 0;
  e.major = static_cast<uint8_t>(n[0]);
  e.minor = static_cast<uint8_t>(n[1]);
  e.kind = static_cast<Kind>(n[2]);
  e.session = n[3];
  e.route = n[4];
  e.req = n[5];
  e.granted = n[6];
  e.deadline_us = n[7];
  e.trace.clear();
  return at + 2;
}

// Zero-copy slice of `frames.frame[0]` that a decoded field may not outlive is never handed out.
Result<size_t> read_envelope(std::string_view head, std::vector<Element>& elements, Envelope& e) {
  if (const size_t plain = read_plain_envelope(head, e); plain != 0) return plain;
  DRAY_TRY_ASSIGN(size_t used, wire::parse_elements(head, elements));
  Reader r(elements);
  uint16_t kind = 0;
  r(e.major, e.minor, kind, e.session, e.route, e.req, e.granted, e.deadline_us, e.trace);
  e.kind = static_cast<Kind>(kind);
  if (e.trace.size() > 64) r.fail("trace too long");
  if (r.failed()) return bad(std::string("envelope: ") + r.why());
  if (e.major != kProtocolMajor)
    return make_error(Errc::bad_version, "protocol " + std::to_string(e.major) +
                                             " is not spoken here, want " +
                                             std::to_string(kProtocolMajor));
  return used;
}

template <class Row>
concept HasLen = requires(Row r) {
  r.len;
};

// Payload lengths must add up to the bytes frame exactly and each stay under its limit.
template <class M>
Status check_lengths(const M& m) {
  uint64_t total = 0;
  for (size_t i = 0; i < m.rows.size(); ++i) {
    uint32_t len = m.rows[i].len;
    if (len > kPayloadBytesMax)
      return make_error(Errc::too_large, "payload of " + std::to_string(len) + " bytes, limit " +
                                             std::to_string(kPayloadBytesMax));
    total += len;
  }
  if (total != m.bytes.size()) return bad("row lengths do not add up to the bytes frame");
  return {};
}

template <class M>
Status take_frames(const Frames& frames, M& m) {
  constexpr size_t want = 1 + (HasRows<M> ? 1 : 0) + (HasBytes<M> ? 1 : 0);
  if (frames.count != want) return bad("wrong number of frames");
  if constexpr (HasRows<M>) {
    using R = typename std::decay_t<decltype(m.rows)>::Row;
    const Bytes& b = frames.frame[1];
    if (b.size() % sizeof(R) != 0) return bad("rows frame is not a whole number of rows");
    if (b.size() / sizeof(R) > kItemsMax)
      return make_error(Errc::too_large, "more than " + std::to_string(kItemsMax) + " rows");
    m.rows = Rows<R>(b);
  }
  if constexpr (HasBytes<M>) {
    if (frames.frame[2].size() > kBodyBytesMax)
      return make_error(Errc::too_large, "bytes frame over the limit");
    m.bytes = frames.frame[2];
    using R = typename std::decay_t<decltype(m.rows)>::Row;
    if constexpr (HasLen<R>) DRAY_TRY(check_lengths(m));
  }
  return {};
}

// Checks that need more than a type: indexes and enumerations. Peers are weather.
Status check(const Submit& m) {
  if (m.specs.empty() || m.specs.size() > kSpecsMax) return bad("submit needs 1..256 specs");
  for (size_t i = 0; i < m.rows.size(); ++i) {
    SubmitRow row = m.rows[i];
    if (row.spec >= m.specs.size()) return bad("row names a spec that is not there");
    if (row.id.is_null()) return bad("task id is null");
  }
  return {};
}
Status check(const Dispatch& m) {
  for (size_t i = 0; i < m.rows.size(); ++i)
    if (m.rows[i].spec >= m.specs.size()) return bad("row names a spec that is not there");
  return {};
}
Status check(const Results& m) {
  for (size_t i = 0; i < m.rows.size(); ++i)
    if (m.rows[i].status > static_cast<uint8_t>(Verdict::crashed)) return bad("unknown verdict");
  return {};
}
template <class M>
Status check_states(const M& m) {
  for (size_t i = 0; i < m.rows.size(); ++i)
    if (state_name(static_cast<TaskState>(m.rows[i].status)).empty())
      return bad("unknown task state");
  return {};
}
Status check(const Finished& m) { return check_states(m); }
Status check(const Ready& m) { return check_states(m); }
Status check(const Hello& m) {
  if (m.name.empty() || m.name.size() > kNameBytesMax) return bad("name is empty or too long");
  if (role_name(static_cast<Role>(m.role)).empty()) return bad("unknown role");
  if (m.boot.is_null() || m.connect_no == 0) return bad("boot id or connect number is null");
  return {};
}
using Amounts = std::vector<std::pair<std::string, uint64_t>>;
bool is_bad_name(const std::string& s) { return s.empty() || s.size() > kNameBytesMax; }
Status check_names(const std::vector<std::string>& names, size_t max, const char* what) {
  if (names.size() > max) return bad(std::string("too many ") + what + "s");
  if (std::any_of(names.begin(), names.end(), is_bad_name)) return bad(std::string("bad ") + what);
  return {};
}
Status check_amounts(const Amounts& amounts, size_t max, const char* what) {
  if (amounts.size() > max) return bad(std::string("too many ") + what + "s");
  for (const auto& [name, units] : amounts)
    if (is_bad_name(name) || units > (uint64_t{1} << 53)) return bad(std::string("bad ") + what);
  return {};
}
// What a node has. The device blobs are looked at by whoever uses them.
template <class M>
Status check_node(const M& m) {
  if (m.devices.size() > kDevicesMax) return bad("too many devices");
  DRAY_TRY(check_names(m.labels, kLabelsMax, "label"));
  return check_amounts(m.resources, kResourcesMax, "resource");
}
Status check(const Attach& m) {
  DRAY_TRY(check_names(m.handlers, kHandlersMax, "handler"));
  return check_node(m);
}
Status check(const CapacityNews& m) {
  DRAY_TRY(check_amounts(m.taken, kResourcesMax, "amount"));
  return check_node(m);
}
Status check(const Handlers& m) { return check_names(m.handlers, kHandlersMax, "handler"); }
Status check(const NodeReport& m) {
  DRAY_TRY(check_amounts(m.taken, kResourcesMax, "amount"));
  return check_node(m);
}
Status check(const View& m) { return check_names(m.suspects, kMsgpackArrayMax, "worker"); }
Status check(const Backlog& m) {
  DRAY_TRY(check_amounts(m.waiting, kMsgpackArrayMax, "handler"));
  return check_amounts(m.leased, kMsgpackArrayMax, "handler");
}
Status check(const Call& m) {
  if (m.handler.empty() || m.handler.size() > kNameBytesMax)
    return bad("handler name is empty or too long");
  if (m.key.size() > kNameBytesMax) return bad("model key is longer than 128 bytes");
  if (m.window > kStreamWindowMax) return bad("window is above 64 MiB");
  for (size_t i = 0; i < m.rows.size(); ++i) {
    const CallRow row = m.rows[i];
    if (row.items == 0) return bad("a call of no items");
    if (row.deadline_us > static_cast<uint64_t>(kCallDeadlineUsMax))
      return bad("deadline is above an hour");
  }
  return {};
}
Status check(const Run& m) {
  for (size_t i = 0; i < m.rows.size(); ++i)
    if (m.rows[i].key >= m.keys.size()) return bad("row names a key that is not there");
  return {};
}
template <class M>
Status check_ends(const M& m) {
  for (size_t i = 0; i < m.rows.size(); ++i)
    if (call_end_name(static_cast<CallEnd>(m.rows[i].status)).empty())
      return bad("unknown end of a call");
  return {};
}
Status check(const Reply& m) { return check_ends(m); }
Status check(const Done& m) { return check_ends(m); }
Status check(const Offer& m) {
  if (m.handlers.size() > kHandlersMax) return bad("too many handlers");
  return {};
}
template <class M>
Status check(const M&) {
  return {};
}

template <class M>
Result<Message> decode_body(std::string_view body, const Frames& frames) {
  thread_local std::vector<Element> elements;
  elements.clear();
  DRAY_TRY_ASSIGN(size_t used, wire::parse_elements(body, elements));
  if (used != body.size()) return bad("bytes after the body");
  M m;
  Reader r(elements);
  if constexpr (requires { m.fields(r); }) m.fields(r);
  if (r.failed()) return bad(std::string(kind_name(M::kind)) + ": " + r.why());
  DRAY_TRY(take_frames(frames, m));
  DRAY_TRY(check(m));
  return Message(std::move(m));
}

template <size_t I = 0>
Result<Message> decode_kind(Kind kind, std::string_view body, const Frames& frames) {
  if constexpr (I < std::variant_size_v<Message>) {
    using M = std::variant_alternative_t<I, Message>;
    if (kind == M::kind) return decode_body<M>(body, frames);
    return decode_kind<I + 1>(kind, body, frames);
  } else {
    return bad("unknown kind " + std::to_string(static_cast<unsigned>(kind)));
  }
}

Status check_sizes(const Frames& frames) {
  if (frames.count < 1 || frames.count > kFramesMax) return bad("wrong number of frames");
  if (frames.frame[0].size() > kHeadBytesMax)
    return make_error(Errc::too_large, "head frame over the limit");
  return {};
}

}  // namespace

Frames encode(const Envelope& envelope, const Message& message) {
  Frames out;
  std::visit(
      [&](const auto& m) {
        using M = std::decay_t<decltype(m)>;
        std::string head;
        head.reserve(96);
        Packer p(head);
        Envelope e = envelope;
        e.kind = M::kind;
        pack_envelope(e, p);
        size_t before = head.size();
        const_cast<M&>(m).fields(p);  // one field list for reading and writing; Packer only reads
        if (head.size() == before) p.array(0);
        out.frame[0] = Bytes(std::move(head));
        out.count = 1;
        if constexpr (HasRows<M>) out.frame[out.count++] = m.rows.bytes();
        if constexpr (HasBytes<M>) out.frame[out.count++] = m.bytes;
      },
      message);
  return out;
}

Result<Incoming> decode(const Frames& frames) {
  DRAY_TRY(check_sizes(frames));
  thread_local std::vector<Element> elements;
  elements.clear();
  Incoming in;
  std::string_view head = frames.frame[0].view();
  DRAY_TRY_ASSIGN(size_t used, read_envelope(head, elements, in.envelope));
  DRAY_TRY_ASSIGN(in.message, decode_kind(in.envelope.kind, head.substr(used), frames));
  return in;
}

Result<Envelope> decode_envelope(const Frames& frames) {
  DRAY_TRY(check_sizes(frames));
  thread_local std::vector<Element> elements;
  elements.clear();
  Envelope e;
  DRAY_TRY(read_envelope(frames.frame[0].view(), elements, e));
  return e;
}

Result<Frames> with_envelope(const Frames& frames, const Envelope& envelope) {
  DRAY_TRY(check_sizes(frames));
  thread_local std::vector<Element> elements;
  elements.clear();
  Envelope old;
  DRAY_TRY_ASSIGN(size_t used, read_envelope(frames.frame[0].view(), elements, old));
  std::string head;
  head.reserve(frames.frame[0].size() + 32);
  Packer p(head);
  pack_envelope(envelope, p);
  head.append(frames.frame[0].view().substr(used));
  Frames out = frames;
  out.frame[0] = Bytes(std::move(head));
  return out;
}

}  // namespace dray
