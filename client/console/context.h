// Context: what every command of the console shares: global options, the connection to the router,
// and how a command fails.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/console/text.h"
#include "client/include/dray/client.h"

namespace dray::console {

// Exit codes; scripts rely on them.
constexpr int kOk = 0;
constexpr int kTaskFailed = 1;  // or something else went wrong
constexpr int kUsage = 2;
constexpr int kNotFound = 3;
constexpr int kTimeout = 4;
constexpr int kNoCluster = 5;
constexpr int kRejected = 6;  // back-pressure: try again later

// Ends a command: main() prints "dray: TEXT; NEXT" and exits with `code`.
struct Failure {
  int code;
  std::string text;  // what is wrong
  std::string next;  // what to do now: a command to run
};

int exit_code_of(Code code);
Failure to_failure(const ClientError& error);

class Context {
 public:
  // Global options, as given; empty: not given.
  std::string endpoint;
  std::string dir;
  std::string output = "table";  // table, wide, json
  Millis timeout{10'000};
  bool has_timeout = false;

  std::function<int()> action;  // set by the chosen command, run after parsing

  bool json() const { return output == "json"; }
  bool wide() const { return output == "wide"; }
  // The endpoint in effect: --endpoint, else the one of the cluster in the folder.
  std::string router_endpoint() const;
  // Connects on first use. Throws Failure (kNoCluster) when nobody answers.
  Client& client();
  // Asks a service; throws Failure. Returns JSON text.
  std::string admin(std::string_view target, std::string_view verb, const Client::Args& args = {});
  // Asks the one router that listens at `endpoint`.
  Expected<std::string> ask_router(const std::string& endpoint, std::string_view verb,
                                   Millis timeout);
  // True when something accepts connections at one of the endpoints, at once for local sockets.
  static bool answers(const std::string& endpoint);

 private:
  std::unique_ptr<Client> client_;
  std::map<std::string, std::unique_ptr<Client>> routers_;  // by endpoint, if there are several
};

template <class T>
T need(Expected<T> value) {
  if (!value) throw to_failure(value.error());
  return std::move(value).value();
}

// A task id given by a person; throws Failure (kUsage).
Id parse_id(const std::string& text);
std::vector<Id> parse_ids(const std::vector<std::string>& texts);

}  // namespace dray::console
