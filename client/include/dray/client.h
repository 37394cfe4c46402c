// client.h: the C++ client of dray: submit tasks, get results, watch groups, ask the services.
//
//   #include <dray/client.h>
//   using namespace std::chrono_literals;
//
//   auto c = dray::Client::connect({.endpoint = "ipc:///run/dray/router.sock"}).value();
//   auto task = c.submit("echo", "hello", {.queue = "fast", .time_limit = 5s});
//   if (!task) return complain(task.error().text());
//   dray::TaskOutcome out = task->get(10s);
//   if (out.ok()) use(out.bytes);
//
// Values and futures; nothing here throws but value() on an error. Every blocking call ends by its
// timeout. Needs the standard library only; link with dray_client.
//
// What is promised. An accepted task is on the broker's disk and ends in exactly one state; this
// client reports that end exactly once, through lost connections and restarts of every service.
// After `timeout` the outcome of a submit is not known: ask for the result, or submit the same id
// with the same payload and options again, which never makes a second task.
//
// Threads. A Client may be used by any number of threads. It runs one thread of its own; callbacks
// run there, so they must be quick, and a blocking call from a callback fails with `bad_argument`.
// Do not use a Client, made before fork(), in the child. A router that comes back under the same
// address is found again; several routers may be named, each by one address.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dray {
inline namespace client_v1 {

using Millis = std::chrono::milliseconds;
constexpr Millis kDefaultTimeout{-1};  // stands for ClientOptions::timeout

// --- values --------------------------------------------------------------------------------------

// Why something was refused or ended. Same numbers as on the wire; docs/protocol.md explains each.
enum class Code : uint8_t {
  ok = 0,
  // The request was refused; nothing was changed.
  bad_message = 1,
  bad_version = 2,
  too_large = 3,  // payload, header or batch above its limit
  unknown_handler = 4,  // no worker has ever announced this handler
  infeasible = 5,  // no worker has ever offered so much; or a call's deadline can not be met
  conflict = 6,  // same task id, other payload or options
  id_expired = 7,  // id older than what the broker remembers
  overloaded = 8,  // a budget is used up; see retry_after, limit, value
  unavailable = 9,  // a service is away, or there is no connection
  draining = 10,
  disk_low = 11,
  not_found = 12,
  denied = 13,
  bad_argument = 14,
  no_replica = 15,  // no worker offers this handler at the moment
  // The end of a task or a call.
  app_error = 20,  // the handler reported a retryable failure, too often
  app_fatal = 21,  // the handler reported a permanent failure
  time_limit = 22,
  worker_lost = 23,
  cancelled = 24,
  expired = 25,
  stale = 26,
  outcome_unknown = 27,  // a call that may have executed
  // Local.
  timeout = 30,  // the outcome is not known
  io = 31,
  corrupt = 32,
  fenced = 33,
  config = 34,
  closed = 35,  // the client was shut down; the outcome is not known
  no_space = 36,
};
std::string_view code_name(Code code);  // "overloaded"

struct ClientError {
  Code code = Code::ok;
  std::string detail{};  // one line for people
  Millis retry_after{0};  // hint, with overloaded, unavailable, draining
  std::string limit{};  // with overloaded: the name of the budget that is used up
  uint64_t value = 0;  // and its value
  std::string text() const;  // "overloaded: ..."
};

struct Done {};

// A value or a ClientError, in the manner of std::expected.
template <class T>
class [[nodiscard]] Expected {
 public:
  Expected(T value) : v_(std::in_place_index<0>, std::move(value)) {}
  Expected(ClientError error) : v_(std::in_place_index<1>, std::move(error)) {}
  bool has_value() const { return v_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & { return check(), std::get<0>(v_); }  // throws std::runtime_error without a value
  const T& value() const& { return check(), std::get<0>(v_); }
  T value() && { return check(), std::get<0>(std::move(v_)); }
  T& operator*() & { return std::get<0>(v_); }
  const T& operator*() const& { return std::get<0>(v_); }
  T operator*() && { return std::get<0>(std::move(v_)); }
  T* operator->() { return &std::get<0>(v_); }
  const T* operator->() const { return &std::get<0>(v_); }
  const ClientError& error() const { return std::get<1>(v_); }

 private:
  void check() const {
    if (!has_value()) throw std::runtime_error(error().text());
  }
  std::variant<T, ClientError> v_;
};

// 128-bit id of a task or a group. Made by the client; any UUIDv7 will do as well.
struct Id {
  uint64_t hi = 0;
  uint64_t lo = 0;
  auto operator<=>(const Id&) const = default;
  bool is_null() const { return hi == 0 && lo == 0; }
  std::string hex() const;  // 32 lower-case digits
  static std::optional<Id> from_hex(std::string_view text);  // dashes allowed
};

// Where a task stands. From succeeded on it is over.
enum class State : uint8_t {
  unknown = 0,
  queued = 1,
  leased = 2,
  succeeded = 10,
  failed = 11,  // the handler said the failure is permanent
  cancelled = 12,
  expired = 13,
  dead = 14,  // gave up: max_failures or max_lost reached
};
std::string_view state_text(State state);

// How GPUs are chosen among those that fit: so that least of them becomes unusable for others; the
// emptiest ones; or several only from as few topology groups as possible.
enum class GpuStrategy : uint8_t { pack = 0, spread = 1, strict = 2 };

// What a task needs of one node, all at the same time.
struct TaskNeeds {
  double gpus = 0;  // 0.5: half of one device; 2.5: two whole ones and half of a third
  uint64_t gpu_memory_mib = 0;  // on each device it uses; without `gpus` on one device
  std::map<std::string, double> resources{};
  std::vector<std::string> labels{};
};

// Options of a task. Durations have millisecond steps and may be up to 366 days.
struct TaskOptions {
  std::string queue = "default";
  int priority = 5;  // 0 lowest .. 9 highest; first in, first out within one priority
  Millis delay{0};  // not before so long after it was accepted
  Millis expires{0};  // ends as `expired` if not started so long after it was accepted; 0: never
  Millis time_limit{0};  // for one attempt; 0: none
  uint32_t max_failures = 3;  // attempts that may fail before it is `dead`, 1 .. 1000
  uint32_t max_lost = 3;  // attempts whose worker may vanish before it is `dead`, 1 .. 1000
  Millis backoff{1000};  // a retry waits uniform(0, min(backoff_cap, backoff * 2^(failures-1)))
  Millis backoff_cap{600'000};
  std::map<std::string, double> resources{};  // {"cpu", 0.25}; exact to 1/10,000
  std::vector<std::string> labels{};  // the worker must have all of them
  double gpus = 0;  // as in TaskNeeds; a share below 1 is of one device
  uint64_t gpu_memory_mib = 0;
  GpuStrategy strategy = GpuStrategy::pack;
  std::vector<TaskNeeds> variants{};  // up to 3, tried in order where all the above does not fit
  Millis result_ttl{0};  // how long the result is kept; 0: the aggregator's default
  std::string header{};  // stored with the task for your own use, up to 4096 bytes
  Id id{};  // your own id (submit only); null: a new one
};

// How a task ended, or why that is not known.
struct TaskOutcome {
  Id id;
  State state = State::unknown;  // unknown: see code (timeout, closed, conflict, ...)
  Code code = Code::ok;  // ok on success
  uint32_t attempt = 0;  // the attempt that decided, from 1
  std::chrono::microseconds exec{0};  // what that attempt took
  std::string bytes{};  // the result; or the text of the error
  bool ok() const { return state == State::succeeded; }
  bool is_over() const { return state >= State::succeeded; }
};

// One result in a batch, without a copy. `bytes` is valid inside the callback only.
struct ResultView {
  Id id;
  State state;
  Code code;
  uint32_t attempt;
  uint32_t exec_us;
  std::string_view bytes;
};

struct TaskInfo {
  Id id;
  State state = State::unknown;
  Code code = Code::ok;
  uint32_t attempt = 0;
};

struct GroupProgress {
  uint64_t total = 0;
  uint64_t done = 0;  // over in any way
  uint64_t succeeded = 0;
  uint64_t failed = 0;  // failed or dead
  uint64_t cancelled = 0;
  uint64_t expired = 0;
  bool is_done() const { return total > 0 && done >= total; }
};

// How a call ended.
enum class CallEnd : uint8_t {
  reply = 1,
  failed = 2,  // the handler said so: code app_error or app_fatal, bytes is its text
  rejected = 3,  // surely not executed; see code, limit, value, retry_after
  expired = 4,  // the deadline came first; surely not executed
  cancelled = 5,  // surely not executed, or stopped at your wish
  unknown = 6,  // may have executed: its worker or router was lost, or it ran past the deadline
};
std::string_view call_end_text(CallEnd end);  // "reply"

struct CallOptions {
  std::chrono::microseconds deadline{0};  // from now; 0: ClientOptions::call_deadline
  bool idempotent = false;  // may run more than once: then a lost worker or router is retried
  bool hedge = false;  // with idempotent: a late call is sent to a second replica, too
  std::string model{};  // prefers replicas that have it loaded; up to 128 bytes
  uint16_t items = 1;  // how much of a batch it fills
};

// Where the time of a call went. Times of another process are durations, never clock readings.
struct CallTimes {
  std::chrono::microseconds total{0};  // here, from call to end
  std::chrono::microseconds queue{0};  // at the router, until it left for a replica
  std::chrono::microseconds gather{0};  // of that, with a replica free, waiting for company
  std::chrono::microseconds worker{0};  // from the router to the replica and back
  std::chrono::microseconds wait{0};  // of that, waiting at the worker
  std::chrono::microseconds run{0};  // of that, in the handler
  uint32_t batch_items = 0;  // of the batch it ran in
  uint32_t attempts = 0;  // replicas it was sent to
};

struct CallOutcome {
  CallEnd end = CallEnd::unknown;
  Code code = Code::ok;  // ok with a reply
  std::string bytes{};  // the reply, or the text of the error
  Millis retry_after{0};  // hint, when rejected
  std::string limit{};  // when rejected by a budget: its name
  uint64_t value = 0;  // and its value
  CallTimes times{};
  bool ok() const { return end == CallEnd::reply; }
  std::string text() const;  // "rejected: overloaded: ..."
};

struct ClientOptions {
  std::string endpoint;  // of the router: "ipc:///path" or "tcp://127.0.0.1:port"; several, with
                         // commas: calls use whichever is there, tasks the first that answers
  std::string name{};  // in logs and on the console; empty: "client-PID"
  Millis timeout{30'000};  // of every call that is not given its own
  size_t queue_bytes = size_t{256} << 20;  // requests kept here until answered; then `overloaded`
  uint32_t batch = 1024;  // tasks in one message, 1 .. 4096
  // Small submits with equal options that meet here travel as one message. With 16 or more
  // unanswered they wait up to 2 ms to meet.
  bool merge = true;
  uint32_t window = 64;  // messages of one client on their way before a bulk call blocks
  std::chrono::microseconds spin{0};  // look for input so long before sleeping; costs a core
  Millis call_deadline{10'000};  // of a call that is not given its own
  size_t stream_window = size_t{256} << 10;  // bytes of parts on their way to one reader
};

struct ClientStats {
  uint64_t sent = 0;  // messages
  uint64_t resent = 0;
  uint64_t results = 0;  // ends of tasks reported
  uint64_t repeated_results = 0;  // told again and dropped
  uint64_t waits = 0;  // asked the aggregator because a push was late or may be lost
  uint64_t reconnects = 0;
  uint64_t calls = 0;  // started
  uint64_t calls_resent = 0;  // sent again, to another router or in another session
};

class ClientImpl;
struct TaskBatch;

// --- handles -------------------------------------------------------------------------------------

// A submitted task: a small value. Outlives its Client (then an unfinished one ends as `closed`).
class Task {
 public:
  Id id() const { return id_; }
  bool ready() const;
  // Blocks until the task is over. After `timeout`: state unknown, code timeout; the task goes on,
  // and get() may be called again.
  TaskOutcome get(Millis timeout = kDefaultTimeout) const;
  // After submit_async: blocks until the broker has the task.
  Expected<Done> accepted(Millis timeout = kDefaultTimeout) const;
  // Calls `f` once when the task is over: on the client's thread, or here and now if it is over
  // already.
  void on_done(std::function<void(const TaskOutcome&)> f) const;
  std::future<TaskOutcome> future() const;

 private:
  friend class Client;
  friend class ClientImpl;
  std::shared_ptr<TaskBatch> batch_;
  uint32_t index_ = 0;
  Id id_;
};

// A set of tasks counted together by the aggregator.
class Group {
 public:
  Id id() const { return id_; }
  Expected<GroupProgress> progress(Millis timeout = kDefaultTimeout) const;
  // Blocks until every task is over; `timeout` if that takes longer.
  Expected<GroupProgress> wait(Millis timeout = kDefaultTimeout) const;
  // Cancels the tasks given to Client::group by this program; `not_found` for an opened group.
  Expected<Done> cancel(Millis timeout = kDefaultTimeout) const;

 private:
  friend class Client;
  std::shared_ptr<ClientImpl> impl_;
  Id id_;
  std::shared_ptr<const std::vector<Id>> ids_;
};

// A call on its way: a small value. Dropping it does not cancel the call.
class PendingCall {
 public:
  // The call ends as `cancelled`, unless its end is on the way already. Any thread, any time.
  void cancel() const;

 private:
  friend class Client;
  std::weak_ptr<ClientImpl> impl_;
  uint64_t number_ = 0;
};

struct StreamState;
// A reply in parts. One reader; dropping it cancels the call.
class CallStream {
 public:
  CallStream(CallStream&&) noexcept;
  CallStream& operator=(CallStream&&) noexcept;
  ~CallStream();
  // The next part, in order; nothing when the reply has ended (see outcome). Blocks until then, at
  // most until the deadline of the call. The writer is held back while parts are not taken.
  std::optional<std::string> next();
  // After next() returned nothing. `bytes` is what the handler returned after its last part.
  const CallOutcome& outcome() const;
  void cancel();

 private:
  friend class Client;
  explicit CallStream(std::shared_ptr<StreamState> state);
  std::shared_ptr<StreamState> state_;
};

// --- client --------------------------------------------------------------------------------------

class Client {
 public:
  // Starts the client and waits for the router. Errors: bad_argument, unavailable, io.
  static Expected<Client> connect(ClientOptions options);
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();  // at most a second; open tasks end as `closed`

  // One task; returns when the broker has it on disk. Errors: timeout (outcome unknown), conflict,
  // too_large, unknown_handler, overloaded, unavailable, bad_argument, ...
  Expected<Task> submit(std::string_view handler, std::string_view payload,
                        const TaskOptions& options = {}, Millis timeout = kDefaultTimeout);
  // Returns at once; Task::accepted or the outcome tells a refusal.
  Expected<Task> submit_async(std::string_view handler, std::string_view payload,
                              const TaskOptions& options = {}, Millis timeout = kDefaultTimeout);
  // Many tasks with the same options, in messages of ClientOptions::batch; returns when all are
  // accepted. On an error some may have been accepted; tasks that were surely refused one by one
  // (conflict) are not an error here: their outcome says so.
  Expected<std::vector<Task>> submit_many(std::string_view handler,
                                          std::span<const std::string_view> payloads,
                                          const TaskOptions& options = {},
                                          Millis timeout = kDefaultTimeout);
  Expected<std::vector<Task>> submit_many(std::string_view handler,
                                          const std::vector<std::string>& payloads,
                                          const TaskOptions& options = {},
                                          Millis timeout = kDefaultTimeout);

  // Bulk, without a future per task: every end, refusals too, goes to the callback of on_results.
  //   c.on_results([&](std::span<const dray::ResultView> rs) { for (auto& r : rs) count(r); });
  //   c.post_many("text.hash", payloads);  // again and again; blocks while the window is full
  //   c.flush(60s);                        // all accepted or refused
  // Ids run in the order of `payloads`. An error tells how many were handed over in `value`.
  Expected<std::vector<Id>> post_many(std::string_view handler,
                                      std::span<const std::string_view> payloads,
                                      const TaskOptions& options = {},
                                      Millis timeout = kDefaultTimeout);
  void on_results(std::function<void(std::span<const ResultView>)> f);
  Expected<Done> flush(Millis timeout = kDefaultTimeout);

  // Blocks until n_ready of the tasks are over (0: all) or the timeout. Returns {ready, rest}.
  std::pair<std::vector<Task>, std::vector<Task>> wait(std::span<const Task> tasks,
                                                       size_t n_ready = 0,
                                                       Millis timeout = kDefaultTimeout);
  // Waits for a task that somebody else submitted. Error: timeout.
  Expected<TaskOutcome> result(Id id, Millis timeout = kDefaultTimeout);
  // Stored results, as they are now; state unknown: none stored.
  Expected<std::vector<TaskOutcome>> fetch(std::span<const Id> ids,
                                           Millis timeout = kDefaultTimeout);
  // The broker's view of tasks. `unknown`: never seen, or over long ago.
  Expected<std::vector<TaskInfo>> query(std::span<const Id> ids, Millis timeout = kDefaultTimeout);
  // Returns the state of each after the wish is on disk. A running task stops when it notices.
  Expected<std::vector<TaskInfo>> cancel(std::span<const Id> ids, Millis timeout = kDefaultTimeout);
  Expected<Done> forget(std::span<const Id> ids, Millis timeout = kDefaultTimeout);

  Expected<Group> group(std::span<const Task> tasks, Millis timeout = kDefaultTimeout);
  Expected<Group> group(std::span<const Id> ids, Millis timeout = kDefaultTimeout);
  Group open_group(Id id);

  // Calls: no disk, no broker, an answer by the deadline at the latest. A call that a router did
  // not take because it is leaving goes to another one by itself, or waits for one. Blocks until
  // the end.
  CallOutcome call(std::string_view handler, std::string_view payload,
                   const CallOptions& options = {});
  // `f` is called exactly once, on the client's thread (or here, if the arguments are refused or
  // the client is closed); it may start further calls, which leave together when it has returned.
  PendingCall async_call(std::string_view handler, std::string_view payload,
                         const CallOptions& options, std::function<void(CallOutcome&&)> f);
  std::future<CallOutcome> call_future(std::string_view handler, std::string_view payload,
                                       const CallOptions& options = {});
  CallStream call_stream(std::string_view handler, std::string_view payload,
                         const CallOptions& options = {});

  // Asks a service: target "router", "broker" or "aggregator". Returns JSON text.
  //   c.admin("broker", "queue.pause", {{"queue", "fast"}});
  using Arg = std::variant<bool, int64_t, double, std::string, std::vector<std::string>>;
  using Args = std::vector<std::pair<std::string, Arg>>;
  Expected<std::string> admin(std::string_view target, std::string_view verb, const Args& args = {},
                              Millis timeout = kDefaultTimeout);

  bool connected() const;
  ClientStats stats() const;

 private:
  explicit Client(std::shared_ptr<ClientImpl> impl);
  std::shared_ptr<ClientImpl> impl_;
};

}  // namespace client_v1
}  // namespace dray
