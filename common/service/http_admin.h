// HttpAdmin: the small HTTP server of a service for people and probes, on a thread of its own, and
// the owner of the process's signals.
//
//   GET /live         200 or 503, JSON    is the process working at all?
//   GET /ready        200 or 503, JSON    {"ready":false,"reasons":["no broker"]}
//   GET /metrics      Prometheus text
//   GET /debug/state  JSON for people
//
// It listens on loopback or a unix socket only and changes nothing, so it needs no keys. One
// request per connection, small requests only, one deadline for the whole exchange; when too many
// are connected the oldest is cut, so that a client that never finishes can not keep a probe out.
// The callbacks run on the admin thread: they must be thread-safe and quick.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/base/time.h"

namespace dray {

struct Health {
  bool ok = true;
  std::vector<std::string> reasons;  // why not
};

struct HttpAdminOptions {
  // "127.0.0.1:8790" (port 0: a free one), "[::1]:8790", "unix:/path", or empty: no server, only
  // signals. This is what an `http` key of Config holds.
  std::string listen;
  std::function<Health()> live;  // empty: always
  std::function<Health()> ready;  // empty: always
  std::function<std::string()> state;  // JSON text; empty: {}
  std::function<void(int)> on_signal;  // SIGTERM, SIGINT, SIGHUP; empty: signals are left alone
  size_t connections_max = 32;
  size_t request_bytes_max = 8192;
  Duration timeout = 5s;
};

class HttpAdmin {
 public:
  static Result<std::unique_ptr<HttpAdmin>> start(HttpAdminOptions options);
  ~HttpAdmin();  // stops the thread, removes a unix socket
  HttpAdmin(const HttpAdmin&) = delete;
  HttpAdmin& operator=(const HttpAdmin&) = delete;
  uint16_t port() const;  // 0 when not on tcp

 private:
  class Impl;
  explicit HttpAdmin(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dray
