// Connection to the router, meaning of error codes for exit codes and hints.
#include "client/console/context.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "client/console/cluster_dir.h"
#include "client/console/procs.h"
#include "client/console/routers.h"

namespace dray::console {
namespace {

std::string hint_for(const ClientError& error) {
  switch (error.code) {
    case Code::unknown_handler:
      return "which workers are there: dray workers -o wide";
    case Code::infeasible:
      return "what the workers have: dray workers -o wide";
    case Code::overloaded:
    case Code::draining:
    case Code::disk_low:
      return "try again" +
             (error.retry_after.count() > 0 ? " in " + format_millis(error.retry_after.count())
                                            : std::string(" later")) +
             "; see: dray status";
    case Code::timeout:
      return "look at the services: dray status; or give it more time: --timeout 60s";
    case Code::unavailable:
    case Code::closed:
    case Code::io:
      return "look at the services: dray status";
    case Code::not_found:
      return "what there is: dray tasks";
    case Code::bad_argument:
    case Code::too_large:
      return "see: dray --help";
    default:
      return "";
  }
}

// True when something listens; for a socket that is no file only trying tells.
bool answers_at(const std::string& endpoint) {
  if (!endpoint.starts_with("ipc://")) return true;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = endpoint.substr(6);
  if (path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const int rc = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const bool ok = rc == 0 || errno == EAGAIN;
  ::close(fd);
  return ok;
}

}  // namespace

int exit_code_of(Code code) {
  switch (code) {
    case Code::ok:
      return kOk;
    case Code::bad_message:
    case Code::bad_version:
    case Code::bad_argument:
    case Code::too_large:
    case Code::conflict:
    case Code::config:
      return kUsage;
    case Code::not_found:
    case Code::unknown_handler:
    case Code::id_expired:
      return kNotFound;
    case Code::timeout:
      return kTimeout;
    case Code::unavailable:
    case Code::closed:
    case Code::io:
      return kNoCluster;
    case Code::overloaded:
    case Code::draining:
    case Code::disk_low:
    case Code::no_space:
    case Code::infeasible:
    case Code::denied:
    case Code::no_replica:
      return kRejected;
    default:
      return kTaskFailed;
  }
}

Failure to_failure(const ClientError& error) {
  std::string text = error.text();
  std::string next = hint_for(error);
  if (text.find("; dray ") != std::string::npos || text.find(": dray ") != std::string::npos)
    next.clear();  // the service named the next command itself
  return {exit_code_of(error.code), text, next};
}

bool Context::answers(const std::string& list) {
  const auto endpoints = split_endpoints(list);
  return std::any_of(endpoints.begin(), endpoints.end(), answers_at);
}

std::string Context::router_endpoint() const {
  return endpoint.empty() ? ClusterDir(dir).endpoint() : endpoint;
}

Client& Context::client() {
  if (client_) return *client_;
  const std::string where = router_endpoint();
  const Failure nobody{kNoCluster, "no dray cluster answers at " + where, "start one: dray up"};
  // A router that was killed is back in a moment, when a supervisor looks after it.
  const bool supervised = endpoint.empty() && is_supervised(ClusterDir(dir).short_path());
  if (!supervised && !answers(where)) throw nobody;
  ClientOptions options;
  options.endpoint = where;
  options.name = "console-" + std::to_string(::getpid());
  options.timeout = timeout;
  auto connected = Client::connect(std::move(options));
  if (!connected) {
    if (supervised && connected.error().code == Code::unavailable)
      throw Failure{kNoCluster, "the router at " + where + " does not answer", "dray status"};
    if (connected.error().code == Code::unavailable) throw nobody;
    throw to_failure(connected.error());
  }
  client_ = std::make_unique<Client>(std::move(connected).value());
  return *client_;
}

Expected<std::string> Context::ask_router(const std::string& where, std::string_view verb,
                                          Millis limit) {
  if (where == router_endpoint()) return client().admin("router", verb, {}, limit);
  if (!answers(where)) return ClientError{Code::unavailable, "nobody listens at " + where};
  auto& link = routers_[where];
  if (!link) {
    ClientOptions options;
    options.endpoint = where;
    options.name = "console-" + std::to_string(::getpid());
    options.timeout = limit;
    auto connected = Client::connect(std::move(options));
    if (!connected) return connected.error();
    link = std::make_unique<Client>(std::move(connected).value());
  }
  return link->admin("router", verb, {}, limit);
}

std::string Context::admin(std::string_view target, std::string_view verb,
                           const Client::Args& args) {
  return need(client().admin(target, verb, args, timeout));
}

Id parse_id(const std::string& text) {
  const auto id = Id::from_hex(text);
  if (!id || id->is_null())
    throw Failure{kUsage, "'" + printable(text, 64) + "' is no task id (32 hexadecimal digits)",
                  "list tasks: dray tasks"};
  return *id;
}

std::vector<Id> parse_ids(const std::vector<std::string>& texts) {
  std::vector<Id> ids;
  for (const auto& text : texts) ids.push_back(parse_id(text));
  return ids;
}

}  // namespace dray::console
