// ChildProcess: one dray-executor and the thread that looks after it: starts it, reads what it says
// and prints, passes cancels on, watches its time limits and its memory, kills it, and says how it
// ended.
//
// - run() blocks until every task has its output, however the child ends.
// - The child is spawned, never forked: this process may have CUDA or hold locks.
// - Its thread never blocks on the child: a child that stands still can always be killed.
// - A run that goes on for kChildGrace after the deadlines of all its tasks costs the child its
//   life. So do nonsense on the socket and memory above the limit.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/time.h"
#include "services/worker/core/replica_work.h"
#include "services/worker/shell/child_frames.h"
#include "services/worker/shell/frame_reader.h"
#include "services/worker/shell/futex.h"
#include "services/worker/shell/line_reader.h"

namespace dray::worker {

// From the last deadline of a run to the end of its child. Longer than the agents wait before they
// report a task (1 s), shorter than they wait before they give the whole worker up (5 s more).
constexpr Duration kChildGrace = 2s;
constexpr Duration kChildEndTime = 3s;  // a child that was told to end has so long

struct ChildOptions {
  uint64_t process = 0;  // the caller's number
  std::string program;  // of dray-executor
  ChildStart start;
  std::vector<std::pair<std::string, std::string>> environment;  // besides what this process has
  uint64_t memory_limit_mib = 0;  // resident; 0: none
  uint64_t recycle_after = 0;  // runs; 0: never
};

struct ChildLine {  // something it printed or logged
  uint64_t process = 0;
  pid_t pid = 0;
  int level = 1;  // DRAY_LOG_*
  std::string_view source;  // stdout, stderr or handler
  std::string_view text;
  std::string task;  // what it ran then, if that was exactly one
};

class ChildProcess {
 public:
  struct Hooks {  // called from the child's thread, except wakes
    std::function<void(ProcessEvent&&)> news;  // all but `load`
    std::function<void(const ChildLine&)> line;
  };
  ChildProcess(ChildOptions options, Hooks hooks);
  ~ChildProcess();  // kills it
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // --- any thread ---
  // False: surely not executed, and the outputs are as they were: it is not ready, or ends.
  bool run(uint16_t handler, std::span<const TaskView> tasks, std::span<TaskOutput> outs);
  void ping();
  void configure(const std::string& user_config, uint64_t number);
  // No new runs; it ends when it has none left or `grace` is over.
  void stop(Duration grace);
  void kill(std::string why);
  pid_t pid() const { return pid_.load(); }
  size_t ongoing() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Pending;
  struct Piece {  // of a running task: a part, or progress if permille is set
    uint16_t index = 0;
    bool is_part = false;
    uint32_t permille = 0;
    std::string bytes;
  };

  void loop();
  Status spawn();
  void look_after();
  int poll_ms();
  void read_frames();
  void on_frame(const ChildHead& head, std::string_view body);
  void on_task_frame(const ChildHead& head, std::string_view body);
  static bool take_results(Pending& run, const std::vector<ChildResult>& results);
  void read_lines(bool to_the_end);
  void say(int level, std::string_view source, std::string_view text);
  void nonsense(const Error& error);
  void check_runs();
  void check_memory();
  void check_end();
  void reap();
  std::string how_it_ended(int status) const;
  void end_runs(const std::string& text);
  void tell(ProcessEvent::Kind kind, bool ok, std::string text);
  // Sends frames that must not wait for the child.
  void control(ChildFrame type, uint64_t id, uint16_t index, std::string_view body);
  bool send_all(std::string_view bytes);
  bool flush_control(int flags);
  void deliver(Pending& run, std::vector<Piece>& pieces, uint64_t id);
  void wake();

  const ChildOptions options_;
  const Hooks hooks_;

  // The child's thread.
  int out_fd_ = -1, err_fd_ = -1, pid_fd_ = -1;
  FrameReader reader_;
  LineReader out_lines_, err_lines_;
  LineBudget budget_;
  Clock::time_point memory_at_{};
  Clock::time_point end_at_ = Clock::time_point::max();  // told to end: killed then
  bool hung_up_ = false;  // it closed its socket
  bool told_end_ = false;
  std::string failed_;  // what it said about its start

  std::atomic<pid_t> pid_{0};
  int fd_ = -1;
  int wake_fd_ = -1;
  std::atomic<bool> sleeps_{false};  // the thread may sleep for long

  mutable std::mutex mutex_;  // of all below
  enum class State : uint8_t { starting, ready, stopping, over } state_ = State::starting;
  bool reaped_ = false;
  std::unordered_map<uint64_t, std::shared_ptr<Pending>> runs_;
  uint64_t next_id_ = 1;
  uint64_t began_ = 0;
  Clock::time_point stop_at_ = Clock::time_point::max();
  std::string doom_;  // why it was killed

  std::mutex write_mutex_;  // taken before control_mutex_
  std::mutex control_mutex_;
  std::string control_;  // to be sent before anything else

  std::thread thread_;
};

}  // namespace dray::worker
