// ClientImpl: the client's thread around ClientCore, and the meeting place of that thread with the
// callers: commands go in through the host's queue, answers come back through small shared states.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>

#include "client/core/client_core.h"
#include "client/core/id_maker.h"
#include "client/src/call_desk.h"
#include "client/src/task_batch.h"
#include "common/service/host.h"

namespace dray {
inline namespace client_v1 {

class ClientImpl : public std::enable_shared_from_this<ClientImpl> {
 public:
  using Payloads = std::span<const std::string_view>;
  using Starter = std::function<uint64_t(Now, Time deadline, ClientCore&, ClientOut&)>;
  struct GroupWaiter {
    std::mutex mutex;
    std::condition_variable changed;
    GroupProgress latest;
    bool closed = false;
    int users = 0;
  };

  explicit ClientImpl(ClientOptions options);
  Expected<Done> start();
  void shutdown();  // at most a second

  // Hands payloads over, message by message; blocks while the window is full. batch may be null:
  // then ends go to on_results. `done` counts what was handed over.
  Expected<Done> submit(std::string_view handler, Payloads payloads, const TaskOptions& options,
                        const std::shared_ptr<TaskBatch>& batch, std::vector<Id>& ids,
                        Millis timeout);
  std::shared_ptr<TaskBatch> make_batch(size_t n);
  Expected<Done> await_accepted(TaskBatch& batch, Millis timeout);
  // One request of the queued lane and its closing event.
  Expected<Event> request(Millis timeout, Starter start);
  Expected<Done> flush(Millis timeout);
  Id new_id();
  void set_on_results(std::function<void(std::span<const ResultView>)> f);

  std::shared_ptr<TaskBatch> wait_for(Id id);  // null: closed, or registered already
  void stop_waiting_for(Id id);
  std::shared_ptr<GroupWaiter> join_group(Id id);
  void leave_group(Id id);
  // Blocks until `ready` or the time is over; `ready` is asked after each news of any task.
  void wait_any(Millis timeout, const std::function<bool()>& ready);

  // calls (client_calls.cpp): the handle for cancel_call; 0: refused, and the sink was told.
  uint64_t start_call(std::string_view handler, std::string_view payload,
                      const CallOptions& options, uint64_t window, CallSink&& sink);
  void cancel_call(uint64_t handle) { desk_.cancel(handle); }
  void part_taken(uint64_t handle, uint64_t bytes, bool hurry) {
    desk_.taken(handle, bytes, hurry);
  }
  std::chrono::microseconds call_limit(const CallOptions& options) const;

  Millis effective(Millis timeout) const {
    return timeout.count() < 0 ? options_.timeout : timeout;
  }
  bool on_client_thread() const { return std::this_thread::get_id() == thread_id_.load(); }
  bool connected() const { return connected_.load(); }
  ClientStats stats() const;
  const ClientOptions& options() const { return options_; }
  int pid() const { return pid_; }

 private:
  struct Request {
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<Event> event;
    bool closed = false;
  };
  struct Submission {  // one message on its way
    std::shared_ptr<TaskBatch> batch;
    size_t bytes = 0;
  };
  struct Chunk {
    std::vector<TaskId> ids;
    Rows<SubmitRow> rows;
    Bytes bytes;
    size_t size = 0;
  };

  HostOptions host_options() const;
  Status check_options();
  void run();
  void on_turn(ClientOut& out);
  void on_event(Event& event);
  void on_results(const ResultsEvent& event);
  void on_rejected(RejectedEvent& event);
  void on_submitted(uint64_t req);
  void on_group(const GroupEvent& event);
  void end_submission(uint64_t req, const ClientError* error);
  void close_rows(const Rows<ResultRow>& rows, std::string_view bytes,
                  const std::vector<uint32_t>& fresh);
  void give_views();
  void run_callbacks();
  void close_all();
  void publish_counters();

  Expected<size_t> chunk_size(Payloads rest) const;
  Chunk make_chunk(Payloads payloads, const TaskOptions& options);
  Expected<Done> register_chunk(const Chunk& chunk, const std::shared_ptr<TaskBatch>& batch,
                                size_t base);
  void send_chunk(Chunk&& chunk, const std::string& spec, const std::shared_ptr<TaskBatch>& batch,
                  Millis timeout);
  bool acquire_window(size_t bytes, std::chrono::steady_clock::time_point until);
  void release_window(size_t bytes);

  ClientOptions options_;
  std::vector<std::string> endpoints_;
  int pid_ = 0;
  ClientCore core_;
  NoDurable durable_;
  Host<ClientCore, NoDurable> host_;
  CallDesk desk_;
  std::thread thread_;
  std::atomic<std::thread::id> thread_id_{};

  // The client's thread only.
  std::unordered_map<uint64_t, Submission> submissions_;  // by req
  std::unordered_map<uint64_t, std::shared_ptr<Request>> requests_;  // by req
  std::vector<ResultView> views_;
  DueCallbacks due_;
  std::string error_text_;

  std::mutex registry_mutex_;
  TaskRegistry registry_;
  bool registry_closed_ = false;

  std::mutex mutex_;  // what follows
  std::condition_variable changed_;
  std::set<std::shared_ptr<Request>> live_requests_;
  std::map<TaskId, std::shared_ptr<GroupWaiter>> groups_;
  std::shared_ptr<const std::function<void(std::span<const ResultView>)>> on_results_;
  IdMaker ids_;
  size_t window_messages_ = 0;
  size_t window_bytes_ = 0;
  bool closed_ = false;
  bool exited_ = false;

  std::mutex any_mutex_;
  std::condition_variable any_changed_;
  uint64_t any_news_ = 0;
  std::atomic<int> any_waiters_{0};

  std::atomic<bool> connected_{false};
  std::atomic<uint64_t> sent_{0}, resent_{0}, results_{0}, repeated_{0}, waits_{0}, connects_{0};
  std::atomic<uint64_t> calls_{0}, calls_resent_{0};
};

}  // namespace client_v1
}  // namespace dray
