// Names and one-line text of messages, for logs, golden tests and the console.
#include "common/wire/message.h"
#include "common/wire/rows.h"

namespace dray {

std::string_view state_name(TaskState s) {
  switch (s) {
    case TaskState::unknown:
      return "unknown";
    case TaskState::queued:
      return "queued";
    case TaskState::leased:
      return "running";
    case TaskState::succeeded:
      return "succeeded";
    case TaskState::failed:
      return "failed";
    case TaskState::cancelled:
      return "cancelled";
    case TaskState::expired:
      return "expired";
    case TaskState::dead:
      return "dead";
  }
  return {};
}

std::string_view call_end_name(CallEnd end) {
  switch (end) {
    case CallEnd::part:
      return "part";
    case CallEnd::reply:
      return "reply";
    case CallEnd::failed:
      return "failed";
    case CallEnd::rejected:
      return "rejected";
    case CallEnd::expired:
      return "expired";
    case CallEnd::cancelled:
      return "cancelled";
    case CallEnd::unknown:
      return "unknown";
  }
  return {};
}

std::string_view call_limit_name(CallLimit limit) {
  switch (limit) {
    case CallLimit::none:
      return "none";
    case CallLimit::max_queued:
      return "max_queued";
    case CallLimit::client_calls:
      return "client_calls";
    case CallLimit::client_bytes:
      return "client_bytes";
    case CallLimit::call_bytes:
      return "call_bytes";
    case CallLimit::deadline_us:
      return "deadline_us";
    case CallLimit::batch_bytes:
      return "batch_bytes";
    case CallLimit::batch_items:
      return "batch_items";
  }
  return {};
}

std::string_view role_name(Role role) {
  switch (role) {
    case Role::client:
      return "client";
    case Role::router:
      return "router";
    case Role::broker:
      return "broker";
    case Role::aggregator:
      return "aggregator";
    case Role::worker:
      return "worker";
    case Role::balancer:
      return "balancer";
  }
  return {};
}

namespace {
constexpr std::pair<Kind, std::string_view> kKindNames[] = {
    {Kind::hello, "hello"},
    {Kind::welcome, "welcome"},
    {Kind::beat, "beat"},
    {Kind::bye, "bye"},
    {Kind::who, "who"},
    {Kind::reject, "reject"},
    {Kind::ok, "ok"},
    {Kind::states, "states"},
    {Kind::submit, "submit"},
    {Kind::submitted, "submitted"},
    {Kind::cancel, "cancel"},
    {Kind::query, "query"},
    {Kind::admin, "admin"},
    {Kind::admin_reply, "admin_reply"},
    {Kind::attach, "attach"},
    {Kind::dispatch, "dispatch"},
    {Kind::results, "results"},
    {Kind::results_ack, "results_ack"},
    {Kind::give_back, "give_back"},
    {Kind::revoke, "revoke"},
    {Kind::progress, "progress"},
    {Kind::drain, "drain"},
    {Kind::have, "have"},
    {Kind::sync, "sync"},
    {Kind::attach_stream, "attach_stream"},
    {Kind::finished, "finished"},
    {Kind::finished_ack, "finished_ack"},
    {Kind::wait, "wait"},
    {Kind::unwait, "unwait"},
    {Kind::fetch, "fetch"},
    {Kind::ready, "ready"},
    {Kind::forget, "forget"},
    {Kind::watch_lost, "watch_lost"},
    {Kind::group_put, "group_put"},
    {Kind::group_watch, "group_watch"},
    {Kind::group_state, "group_state"},
    {Kind::call, "call"},
    {Kind::reply, "reply"},
    {Kind::call_cancel, "call_cancel"},
    {Kind::call_credit, "call_credit"},
    {Kind::offer, "offer"},
    {Kind::run, "run"},
    {Kind::done, "done"},
    {Kind::stop, "stop"},
    {Kind::capacity, "capacity"},
    {Kind::handlers, "handlers"},
    {Kind::want, "want"},
    {Kind::share, "share"},
    {Kind::node_report, "node_report"},
    {Kind::place, "place"},
    {Kind::load, "load"},
    {Kind::view, "view"},
    {Kind::backlog, "backlog"},
};
}  // namespace

std::string_view kind_name(Kind kind) {
  for (const auto& [k, name] : kKindNames)
    if (k == kind) return name;
  return "?";
}

namespace {
struct Printer {
  std::string& out;
  template <class... T>
  void operator()(T&... fields) {
    (put(fields), ...);
  }
  void sep() { out += ' '; }
  template <class T>
  requires std::is_integral_v<T>
  void put(T v) {
    sep();
    out += std::to_string(v);
  }
  void put(double v) {
    sep();
    out += std::to_string(v);
  }
  void put(const std::string& v) {
    sep();
    out += '"';
    for (char c : v) out += c >= 0x20 && c < 0x7f ? c : '.';
    out += '"';
  }
  void put(const Doc& v) {
    sep();
    out += to_json(v);
  }
  template <class T>
  void put(const std::vector<T>& v) {
    sep();
    out += '[';
    for (const auto& x : v) put(x);
    out += " ]";
  }
  template <class A, class B>
  void put(const std::pair<A, B>& v) {
    put(v.first);
    out += '=';
    put(v.second);
  }
};
}  // namespace

std::string print(const Message& message) {
  return std::visit(
      [](const auto& m) {
        using M = std::decay_t<decltype(m)>;
        std::string out(kind_name(M::kind));
        Printer p{out};
        const_cast<M&>(m).fields(p);
        if constexpr (HasRows<M>) out += " rows=" + std::to_string(m.rows.size());
        if constexpr (HasBytes<M>) out += " bytes=" + std::to_string(m.bytes.size());
        return out;
      },
      message);
}

}  // namespace dray
