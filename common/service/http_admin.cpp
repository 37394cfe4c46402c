// The admin server: acceptor, sessions and signals on one io_context and one thread.
#include "common/service/http_admin.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <csignal>
#include <filesystem>
#include <list>
#include <thread>
#include <utility>  // before asio: Boost 1.74 forgets it with g++ 12

#include "common/service/log_line.h"
#include "common/service/metrics.h"

namespace dray {
namespace asio = boost::asio;
namespace http = boost::beast::http;
using Failure = boost::system::error_code;
using Protocol = asio::generic::stream_protocol;  // tcp and unix sockets alike
using Stream = boost::beast::basic_stream<Protocol>;
using Acceptor = asio::basic_socket_acceptor<Protocol>;

namespace {

constexpr auto kAcceptPause = std::chrono::milliseconds(100);  // after "no descriptors left"

struct Reply {
  int status = 200;
  std::string body;
  std::string_view type = "application/json";
};

Error io_error(const std::string& what, const Failure& failure) {
  return make_error(Errc::io, what + ": " + failure.message());
}

Reply health_reply(std::string_view name, const std::function<Health()>& ask) {
  const Health health = ask ? ask() : Health{};
  std::string reasons;
  for (const std::string& reason : health.reasons)
    reasons.append(reasons.empty() ? "" : ",").append(json_quoted(reason));
  return {health.ok ? 200 : 503, "{" + json_quoted(name) + ":" + (health.ok ? "true" : "false") +
                                     ",\"reasons\":[" + reasons + "]}\n"};
}

Reply error_reply(int status, std::string_view why) {
  return {status, "{\"error\":" + json_quoted(why) + "}\n"};
}

// A page of another site may reach loopback through a browser by DNS tricks; its Host tells.
bool is_local_host(std::string_view host) {
  const size_t bracket = host.find(']');
  const size_t colon = host.find(':', bracket == std::string_view::npos ? 0 : bracket);
  const std::string_view name = host.substr(0, colon);
  return name.empty() || name == "localhost" || name == "[::1]" || name.starts_with("127.");
}

Reply answer(const HttpAdminOptions& options, const http::request<http::empty_body>& request) {
  if (request.method() != http::verb::get && request.method() != http::verb::head)
    return error_reply(405, "only GET");
  const std::string_view host(request[http::field::host].data(), request[http::field::host].size());
  if (!options.listen.starts_with("unix:") && !is_local_host(host))
    return error_reply(403, "only for this machine");
  std::string_view target(request.target().data(), request.target().size());
  target = target.substr(0, target.find('?'));
  if (target == "/live") return health_reply("live", options.live);
  if (target == "/ready") return health_reply("ready", options.ready);
  if (target == "/metrics") return {200, metrics_text(), kMetricsContentType};
  if (target == "/debug/state") return {200, options.state ? options.state() : "{}\n"};
  return error_reply(404, "try /live, /ready, /metrics or /debug/state");
}

class Session;
using Sessions = std::list<std::weak_ptr<Session>>;  // oldest first

// One connection: read a request head, answer, close. One deadline covers all of it.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Protocol::socket socket, const HttpAdminOptions& options, Sessions& sessions)
      : stream_(std::move(socket)),
        options_(options),
        sessions_(sessions),
        buffer_(options.request_bytes_max) {
    parser_.header_limit(static_cast<uint32_t>(options.request_bytes_max));
  }
  ~Session() { sessions_.erase(place_); }

  void run() {
    place_ = sessions_.insert(sessions_.end(), weak_from_this());
    stream_.expires_after(std::chrono::duration_cast<std::chrono::milliseconds>(options_.timeout));
    http::async_read_header(
        stream_, buffer_, parser_,
        [self = shared_from_this()](Failure failure, size_t) { self->on_request(failure); });
  }
  void cut() { stream_.close(); }

 private:
  void on_request(const Failure& failure) {
    if (failure == http::error::header_limit || failure == http::error::buffer_overflow)
      return send(error_reply(431, "request head too large"));
    if (failure.category() == http::make_error_code(http::error::bad_method).category() &&
        failure != http::error::end_of_stream && failure != http::error::partial_message)
      return send(error_reply(400, "not an HTTP request"));
    if (failure) return;  // gone, or out of time
    try {
      send(answer(options_, parser_.get()));
    } catch (const std::exception& error) {
      send(error_reply(500, error.what()));
    }
  }

  void send(Reply reply) {
    response_.result(static_cast<unsigned>(reply.status));
    response_.version(11);
    response_.keep_alive(false);
    response_.set(http::field::content_type,
                  boost::beast::string_view(reply.type.data(), reply.type.size()));
    response_.set(http::field::cache_control, "no-store");
    response_.content_length(reply.body.size());
    if (parser_.get().method() != http::verb::head) response_.body() = std::move(reply.body);
    http::async_write(stream_, response_, [self = shared_from_this()](Failure, size_t) {
      Failure ignored;
      self->stream_.socket().shutdown(Protocol::socket::shutdown_send, ignored);
    });
  }

  Stream stream_;
  const HttpAdminOptions& options_;
  Sessions& sessions_;
  Sessions::iterator place_;
  boost::beast::flat_buffer buffer_;
  http::request_parser<http::empty_body> parser_;
  http::response<http::string_body> response_;
};

}  // namespace

class HttpAdmin::Impl {
 public:
  explicit Impl(HttpAdminOptions options)
      : options_(std::move(options)), acceptor_(io_), pause_(io_), signals_(io_) {}

  ~Impl() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
    if (!socket_path_.empty()) ::unlink(socket_path_.c_str());
  }

  Status start() {
    if (options_.on_signal) {
      for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
        Failure failure;
        signals_.add(number, failure);
        if (failure) return io_error("can not handle signals", failure);
      }
      wait_signal();
    }
    if (!options_.listen.empty()) DRAY_TRY(listen());
    thread_ = std::thread([this] { io_.run(); });
    pthread_setname_np(thread_.native_handle(), "dray-admin");
    return {};
  }

  uint16_t port() const { return port_; }

 private:
  void wait_signal() {
    signals_.async_wait([this](Failure failure, int number) {
      if (failure) return;
      options_.on_signal(number);
      wait_signal();
    });
  }

  Status listen() {
    if (options_.listen.starts_with("unix:")) {
      DRAY_TRY(listen_unix(options_.listen.substr(5)));
    } else {
      DRAY_TRY(listen_tcp());
    }
    accept();
    return {};
  }

  Status listen_tcp() {
    const size_t colon = options_.listen.rfind(':');
    std::string host = options_.listen.substr(0, colon);
    DRAY_TRY(check_loopback(host));
    const std::string port = colon == std::string::npos ? "" : options_.listen.substr(colon + 1);
    if (port.empty() || port.size() > 5 || port.find_first_not_of("0123456789") != port.npos ||
        std::stoul(port) > 65535)
      return make_error(Errc::config, "http: '" + options_.listen + "' has no port");
    const bool is_v6 = host.starts_with("[");
    if (is_v6) host = host.substr(1, host.size() - 2);
    const asio::ip::tcp::endpoint endpoint(asio::ip::make_address(host),
                                           static_cast<uint16_t>(std::stoul(port)));
    DRAY_TRY(bind(endpoint, true));
    Failure failure;
    sockaddr_storage bound{};
    socklen_t size = sizeof bound;
    if (getsockname(acceptor_.native_handle(), reinterpret_cast<sockaddr*>(&bound), &size) == 0)
      port_ = ntohs(is_v6 ? reinterpret_cast<const sockaddr_in6*>(&bound)->sin6_port
                          : reinterpret_cast<const sockaddr_in*>(&bound)->sin_port);
    acceptor_.listen(asio::socket_base::max_listen_connections, failure);
    if (failure) return io_error("http: listen on " + options_.listen, failure);
    return {};
  }

  Status check_loopback(const std::string& host) const {
    Failure failure;
    const bool is_v6 = host.size() > 2 && host.front() == '[' && host.back() == ']';
    const auto address =
        asio::ip::make_address(is_v6 ? host.substr(1, host.size() - 2) : host, failure);
    if (!failure && address.is_loopback()) return {};
    return make_error(Errc::config, "http: refusing to listen on '" + options_.listen +
                                        "': only loopback addresses and unix: are allowed");
  }

  Status listen_unix(const std::string& path) {
    if (path.empty() || path.size() > 107)
      return make_error(Errc::config, "http: socket path '" + path + "' is empty or too long");
    const asio::local::stream_protocol::endpoint endpoint(path);
    // A socket file without a listener is left over from a crash; with one it is somebody's.
    asio::local::stream_protocol::socket probe(io_, endpoint.protocol());
    Failure failure;
    probe.non_blocking(true, failure);  // its owner's backlog may be full
    probe.connect(endpoint, failure);
    if (!failure || failure == asio::error::would_block || failure == asio::error::in_progress)
      return make_error(Errc::io, "http: '" + path + "' is in use by another process");
    if (failure == asio::error::connection_refused) ::unlink(path.c_str());
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
    DRAY_TRY(bind(endpoint, false));
    socket_path_ = path;
    // Nobody can connect before listen(), so there is no moment with wider permissions.
    ::chmod(path.c_str(), 0600);
    acceptor_.listen(asio::socket_base::max_listen_connections, failure);
    if (failure) return io_error("http: listen on " + path, failure);
    return {};
  }

  Status bind(const Protocol::endpoint& endpoint, bool reuse) {
    Failure failure;
    acceptor_.open(endpoint.protocol(), failure);
    if (failure) return io_error("http: socket", failure);
    ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
    if (reuse) acceptor_.set_option(asio::socket_base::reuse_address(true), failure);
    acceptor_.bind(endpoint, failure);
    if (failure) return io_error("http: bind to " + options_.listen, failure);
    return {};
  }

  void accept() {
    acceptor_.async_accept([this](Failure failure, Protocol::socket socket) {
      if (failure == asio::error::operation_aborted) return;
      if (failure) {
        pause_.expires_after(kAcceptPause);
        pause_.async_wait([this](Failure stopped) {
          if (!stopped) accept();
        });
        return;
      }
      ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
      if (sessions_.size() >= options_.connections_max)
        if (const auto oldest = sessions_.front().lock()) oldest->cut();
      std::make_shared<Session>(std::move(socket), options_, sessions_)->run();
      accept();
    });
  }

  const HttpAdminOptions options_;
  Sessions sessions_;  // before io_: sessions leave it while io_ is destroyed
  asio::io_context io_{1};
  Acceptor acceptor_;
  asio::steady_timer pause_;
  asio::signal_set signals_;
  std::thread thread_;
  std::string socket_path_;
  uint16_t port_ = 0;
};

HttpAdmin::HttpAdmin(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpAdmin::~HttpAdmin() = default;
uint16_t HttpAdmin::port() const { return impl_->port(); }

Result<std::unique_ptr<HttpAdmin>> HttpAdmin::start(HttpAdminOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  DRAY_TRY(impl->start());
  return std::unique_ptr<HttpAdmin>(new HttpAdmin(std::move(impl)));
}

}  // namespace dray
