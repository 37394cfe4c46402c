// Encoding and bounds of the blobs in fleet.h.
#include "common/wire/fleet.h"

#include "common/base/limits.h"
#include "common/wire/pack.h"

namespace dray {
namespace {

constexpr size_t kPathBytesMax = 4096;
constexpr size_t kVariantsMaxHere = 4;

template <class D, class V>
void device_fields(D& d, V& v) {
  v(d.uuid, d.kind, d.health, d.enforcement, d.reason, d.name, d.units, d.memory_mib, d.sms,
    d.cc_major, d.cc_minor, d.numa, d.throttle, d.utilisation, d.temperature_c, d.used_mib, d.group,
    d.taken_units, d.taken_mib);
}
template <class N, class V>
void need_fields(N& n, V& v) {
  v(n.gpus, n.gpu_memory_mib, n.pools, n.labels);
}
template <class S, class V>
void replica_fields(S& s, V& v) {
  v(s.id, s.deployment, s.version, s.code, s.handlers, s.strategy, s.needs, s.max_ongoing,
    s.max_batch_size, s.batch_wait_us, s.user_config, s.config_version, s.start_timeout_ms,
    s.health_period_ms, s.health_timeout_ms, s.graceful_ms, s.memory_limit_mib, s.recycle_after,
    s.standby);
}
template <class S, class V>
void status_fields(S& s, V& v) {
  v(s.id, s.deployment, s.version, s.config_version, s.state, s.error, s.handlers, s.devices,
    s.restarts, s.started_ms, s.ongoing);
}
template <class L, class V>
void load_fields(L& l, V& v) {
  v(l.handler, l.ongoing, l.waiting, l.arrived, l.answered, l.refused, l.p50_us, l.p99_us,
    l.replicas);
}
template <class H, class V>
void view_fields(H& h, V& v) {
  v(h.handler, h.deployment, h.replicas, h.starting, h.start_ms, h.held);
}

template <class T, class Fields>
std::string encode(const T& value, Fields fields) {
  std::string out;
  wire::Packer p(out);
  fields(value, p);
  return out;
}

template <class T, class Fields>
Result<T> decode(const char* what, std::string_view blob, Fields fields) {
  std::vector<wire::Element> elements;
  DRAY_TRY_ASSIGN(size_t used, wire::parse_elements(blob, elements));
  if (used != blob.size())
    return make_error(Errc::bad_message, std::string("bytes after a ") + what);
  T value;
  wire::Reader r(elements);
  fields(value, r);
  if (r.failed()) return make_error(Errc::bad_message, std::string(what) + ": " + r.why());
  return value;
}

Error bad(const char* what, const char* why) {
  return make_error(Errc::bad_argument, std::string(what) + " " + why);
}
bool is_name(const std::string& s) { return !s.empty() && s.size() <= kNameBytesMax; }
bool are_names(const std::vector<std::string>& list, size_t max) {
  if (list.size() > max) return false;
  for (const std::string& s : list)
    if (!is_name(s)) return false;
  return true;
}

}  // namespace

std::string_view replica_state_name(ReplicaState state) {
  switch (state) {
    case ReplicaState::starting:
      return "starting";
    case ReplicaState::ready:
      return "ready";
    case ReplicaState::unhealthy:
      return "unhealthy";
    case ReplicaState::stopping:
      return "stopping";
    case ReplicaState::stopped:
      return "stopped";
    case ReplicaState::failed:
      return "failed";
  }
  return {};
}

std::string encode_device(const DeviceInfo& info) {
  return encode(info, [](auto& x, auto& v) { device_fields(x, v); });
}
Result<DeviceInfo> decode_device(std::string_view blob) {
  DRAY_TRY_ASSIGN(DeviceInfo d, decode<DeviceInfo>("device", blob,
                                                   [](auto& x, auto& v) { device_fields(x, v); }));
  if (!is_name(d.uuid)) return bad("device uuid", "is not 1 to 128 bytes");
  if (d.reason.size() > kErrorTextMax || d.name.size() > kNameBytesMax)
    return bad("device name or reason", "is too long");
  if (d.kind > 2 || d.health > 3 || d.enforcement > 4)
    return bad("device kind, health or enforcement", "is not known");
  if (d.units > 10'000) return bad("device units", "are above 10,000");
  return d;
}

std::string encode_need(const NeedInfo& need) {
  return encode(need, [](auto& x, auto& v) { need_fields(x, v); });
}
Result<NeedInfo> decode_need(std::string_view blob) {
  DRAY_TRY_ASSIGN(NeedInfo n,
                  decode<NeedInfo>("need", blob, [](auto& x, auto& v) { need_fields(x, v); }));
  if (n.pools.size() > kResourcesMax) return bad("need resources", "are too many");
  for (const auto& [name, units] : n.pools)
    if (!is_name(name)) return bad("need resource", "has a name that is not 1 to 128 bytes");
  if (!are_names(n.labels, kLabelsMax)) return bad("need labels", "are too many or too long");
  return n;
}

std::string encode_replica(const ReplicaSpec& spec) {
  return encode(spec, [](auto& x, auto& v) { replica_fields(x, v); });
}
Result<ReplicaSpec> decode_replica(std::string_view blob) {
  DRAY_TRY_ASSIGN(ReplicaSpec s, decode<ReplicaSpec>("replica", blob, [](auto& x, auto& v) {
                    replica_fields(x, v);
                  }));
  if (s.id == 0) return bad("replica id", "is 0");
  if (!is_name(s.deployment)) return bad("replica deployment", "is not 1 to 128 bytes");
  if (s.code.size() > kPathBytesMax) return bad("replica code", "is above 4096 bytes");
  if (!are_names(s.handlers, kHandlersMax))
    return bad("replica handlers", "are too many or too long");
  if (s.strategy > 2) return bad("replica strategy", "is not known");
  if (s.needs.size() > kVariantsMaxHere) return bad("replica needs", "are more than 4");
  for (const std::string& need : s.needs) DRAY_TRY(decode_need(need));
  if (s.max_batch_size > kItemsMax || s.max_ongoing > kItemsMax)
    return bad("replica max_batch_size or max_ongoing", "is above 4096");
  if (s.user_config.size() > kMsgpackStrMax) return bad("replica user_config", "is above 64 KiB");
  return s;
}

std::string encode_replica_status(const ReplicaStatus& status) {
  return encode(status, [](auto& x, auto& v) { status_fields(x, v); });
}
Result<ReplicaStatus> decode_replica_status(std::string_view blob) {
  DRAY_TRY_ASSIGN(
      ReplicaStatus s,
      decode<ReplicaStatus>("replica status", blob, [](auto& x, auto& v) { status_fields(x, v); }));
  if (!is_name(s.deployment)) return bad("replica status deployment", "is not 1 to 128 bytes");
  if (s.state > static_cast<uint8_t>(ReplicaState::failed))
    return bad("replica status state", "is not known");
  if (s.error.size() > kErrorTextMax) return bad("replica status error", "is above 2048 bytes");
  if (!are_names(s.handlers, kHandlersMax) || !are_names(s.devices, kDevicesMax))
    return bad("replica status handlers or devices", "are too many or too long");
  return s;
}

std::string encode_handler_load(const HandlerLoad& load) {
  return encode(load, [](auto& x, auto& v) { load_fields(x, v); });
}
Result<HandlerLoad> decode_handler_load(std::string_view blob) {
  DRAY_TRY_ASSIGN(HandlerLoad l, decode<HandlerLoad>("handler load", blob,
                                                     [](auto& x, auto& v) { load_fields(x, v); }));
  if (!is_name(l.handler)) return bad("handler load handler", "is not 1 to 128 bytes");
  return l;
}

std::string encode_handler_view(const HandlerView& view) {
  return encode(view, [](auto& x, auto& v) { view_fields(x, v); });
}
Result<HandlerView> decode_handler_view(std::string_view blob) {
  DRAY_TRY_ASSIGN(HandlerView h, decode<HandlerView>("handler view", blob,
                                                     [](auto& x, auto& v) { view_fields(x, v); }));
  if (!is_name(h.handler) || !is_name(h.deployment))
    return bad("handler view handler or deployment", "is not 1 to 128 bytes");
  return h;
}

}  // namespace dray
