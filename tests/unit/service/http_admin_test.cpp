// HttpAdmin: pages, refused addresses, hostile clients and signals, over real sockets.
#include "common/service/http_admin.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "common/service/metrics.h"

using namespace dray;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

// A plain client socket; -1 is a failed connection.
struct Client {
  explicit Client(uint16_t port) {
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    is_connected = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  explicit Client(const std::string& path) {
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    is_connected = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { close(fd); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool send(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      text.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  // Everything until the server closes, or "timeout" after ten seconds.
  std::string read_all() const {
    std::string out;
    while (true) {
      pollfd p{fd, POLLIN, 0};
      if (poll(&p, 1, 10'000) <= 0) return "timeout";
      char buffer[4096];
      const ssize_t n = ::read(fd, buffer, sizeof buffer);
      if (n <= 0) return out;
      out.append(buffer, static_cast<size_t>(n));
    }
  }
  int fd = -1;
  bool is_connected = false;
};

std::unique_ptr<HttpAdmin> start(HttpAdminOptions options = {}) {
  if (options.listen.empty()) options.listen = "127.0.0.1:0";
  auto admin = HttpAdmin::start(std::move(options));
  if (!admin) FAIL(admin.error().detail);
  return std::move(admin).value();
}

std::string request(const HttpAdmin& admin, const std::string& text) {
  const Client client(admin.port());
  client.send(text);
  return client.read_all();
}

std::string get(const HttpAdmin& admin, const std::string& target) {
  return request(admin, "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
}

template <class F>
bool within(std::chrono::milliseconds limit, F condition) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    usleep(1000);
  }
  return true;
}

}  // namespace

TEST_CASE("live, ready and state answer in JSON") {
  std::atomic<bool> is_ready = false;
  HttpAdminOptions options;
  options.ready = [&] {
    return is_ready ? Health{} : Health{false, {"no \"broker\"", "replaying"}};
  };
  options.state = [] { return "{\"tasks\":7}"; };
  const auto admin = start(std::move(options));
  CHECK_THAT(get(*admin, "/live"),
             StartsWith("HTTP/1.1 200") && Contains(R"({"live":true,"reasons":[]})"));
  CHECK_THAT(get(*admin, "/ready"),
             StartsWith("HTTP/1.1 503") && Contains("application/json") &&
                 Contains(R"({"ready":false,"reasons":["no \"broker\"","replaying"]})"));
  is_ready = true;
  CHECK_THAT(get(*admin, "/ready?verbose=1"),
             StartsWith("HTTP/1.1 200") && Contains("\"ready\":true"));
  CHECK_THAT(get(*admin, "/debug/state"), Contains("{\"tasks\":7}"));
}

TEST_CASE("metrics are served as Prometheus text") {
  counter("dray_test_http_total", "x").add();
  const auto admin = start();
  CHECK_THAT(get(*admin, "/metrics"),
             StartsWith("HTTP/1.1 200") && Contains("text/plain; version=0.0.4") &&
                 Contains("\ndray_test_http_total 1\n") && Contains("Connection: close"));
}

TEST_CASE("other methods, pages and hosts are refused") {
  const auto admin = start();
  CHECK_THAT(get(*admin, "/"), StartsWith("HTTP/1.1 404"));
  CHECK_THAT(get(*admin, "/debug/state/../x"), StartsWith("HTTP/1.1 404"));
  CHECK_THAT(
      request(*admin, "POST /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"),
      StartsWith("HTTP/1.1 405"));
  CHECK_THAT(request(*admin, "GET /live HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
             StartsWith("HTTP/1.1 403"));
  CHECK_THAT(request(*admin, "GET /live HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 200"));
  CHECK_THAT(request(*admin, "GET /live HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
             StartsWith("HTTP/1.1 200"));
  const std::string head = request(*admin, "HEAD /live HTTP/1.1\r\nHost: localhost\r\n\r\n");
  CHECK_THAT(head, StartsWith("HTTP/1.1 200") && Contains("Content-Length: 2"));
  CHECK(head.ends_with("\r\n\r\n"));
}

TEST_CASE("garbage gets 400 or a closed connection and harms nobody") {
  const auto admin = start();
  for (const std::string& garbage :
       {std::string("\x16\x03\x01\x02 tls hello"), std::string(3000, '\0'),
        std::string("GET\r\n\r\n"), std::string("GET /live HTTP/9.9\r\n\r\n"),
        std::string("GET /live HTTP/1.1\r\n: x\r\n\r\n"),
        std::string("\r\n\r\n\r\n\xff\xff\xff\xff\r\n\r\n")}) {
    const std::string reply = request(*admin, garbage + "\r\n\r\n");
    CHECK((reply.empty() || reply.starts_with("HTTP/1.1 400")));
  }
  CHECK_THAT(get(*admin, "/live"), StartsWith("HTTP/1.1 200"));
}

TEST_CASE("a request head above the limit is refused") {
  const auto admin = start();
  const std::string reply =
      request(*admin, "GET /live HTTP/1.1\r\nX: " + std::string(100'000, 'x') + "\r\n\r\n");
  CHECK((reply.empty() || reply.starts_with("HTTP/1.1 431")));  // a reset may overtake the reply
  const Client client(admin->port());
  client.send("GET /" + std::string(8300, 'x'));
  CHECK_THAT(client.read_all(), StartsWith("HTTP/1.1 431"));
  CHECK_THAT(get(*admin, "/live"), StartsWith("HTTP/1.1 200"));
}

TEST_CASE("a client that never finishes its request is cut at the deadline, however it drips") {
  HttpAdminOptions options;
  options.timeout = 300ms;
  const auto admin = start(std::move(options));
  const Client client(admin->port());
  client.send("GET /live HTTP/1.1\r\n");
  const auto began = std::chrono::steady_clock::now();
  CHECK(within(std::chrono::seconds(5), [&] {
    client.send("X");
    char byte;
    const ssize_t n = recv(client.fd, &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
  }));
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(3));
}

TEST_CASE("many idle connections can not keep a probe out") {
  HttpAdminOptions options;
  options.connections_max = 4;
  options.timeout = 60s;
  const auto admin = start(std::move(options));
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 40; ++i) {
    idle.push_back(std::make_unique<Client>(admin->port()));
    idle.back()->send("GET /live HTTP/1.1\r\nX: ");
  }
  CHECK_THAT(get(*admin, "/live"), StartsWith("HTTP/1.1 200"));
  const auto is_closed = [](const Client& c) {
    char byte;
    const ssize_t n = recv(c.fd, &byte, 1, MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN);
  };
  CHECK(within(std::chrono::seconds(5), [&] { return is_closed(*idle.front()); }));
  int open = 0;
  for (const auto& client : idle) open += is_closed(*client) ? 0 : 1;
  CHECK(open <= 4);
  CHECK(open >= 1);
}

TEST_CASE("an exception in a callback is a 500") {
  HttpAdminOptions options;
  options.state = []() -> std::string { throw std::runtime_error("oops"); };
  const auto admin = start(std::move(options));
  CHECK_THAT(get(*admin, "/debug/state"), StartsWith("HTTP/1.1 500") && Contains("oops"));
  CHECK_THAT(get(*admin, "/live"), StartsWith("HTTP/1.1 200"));
}

TEST_CASE("only loopback addresses are bound") {
  for (const auto* bad : {"0.0.0.0:0", "[::]:0", "10.1.2.3:0", "example.com:0", "*:0", ":0",
                          "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "unix:"}) {
    HttpAdminOptions options;
    options.listen = bad;
    INFO(bad);
    const auto admin = HttpAdmin::start(std::move(options));
    REQUIRE_FALSE(admin);
    CHECK(admin.error().code == Errc::config);
  }
}

TEST_CASE("a port in use is an error") {
  const auto admin = start();
  HttpAdminOptions options;
  options.listen = "127.0.0.1:" + std::to_string(admin->port());
  const auto second = HttpAdmin::start(std::move(options));
  REQUIRE_FALSE(second);
  CHECK(second.error().code == Errc::io);
}

TEST_CASE("a unix socket is private, survives a crash before it, and is not stolen") {
  char name[] = "/tmp/dray-http-XXXXXX";
  const std::string folder = mkdtemp(name);
  const std::string path = folder + "/run/x.http";
  HttpAdminOptions options;
  options.listen = "unix:" + path;
  {
    const auto admin = start(options);
    CHECK(admin->port() == 0);
    struct stat info {};
    REQUIRE(stat(path.c_str(), &info) == 0);
    CHECK((info.st_mode & 0777) == 0600);
    const Client client(path);
    client.send("GET /live HTTP/1.1\r\nHost: whatever\r\n\r\n");
    CHECK_THAT(client.read_all(), StartsWith("HTTP/1.1 200"));
    const auto second = HttpAdmin::start(options);
    REQUIRE_FALSE(second);
    CHECK_THAT(second.error().detail, Contains("in use"));
  }
  CHECK(access(path.c_str(), F_OK) != 0);
  // What a killed process leaves behind: a bound file without a listener.
  const int stale = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  REQUIRE(bind(stale, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  close(stale);
  start(options);
  REQUIRE(system(("rm -rf " + folder).c_str()) == 0);
}

TEST_CASE("signals reach the callback, also without a server") {
  std::atomic<int> last = 0;
  HttpAdminOptions options;
  options.on_signal = [&](int number) { last = number; };
  const auto admin = HttpAdmin::start(std::move(options));
  REQUIRE(admin);
  for (const int number : {SIGTERM, SIGHUP, SIGINT, SIGTERM}) {
    last = 0;
    kill(getpid(), number);
    CHECK(within(std::chrono::seconds(5), [&] { return last == number; }));
  }
}

TEST_CASE("it stops at once while clients hang on it") {
  HttpAdminOptions options;
  options.timeout = 60s;
  auto admin = start(std::move(options));
  const Client client(admin->port());
  client.send("GET /");
  const auto began = std::chrono::steady_clock::now();
  admin.reset();
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(5));
}
