// The calling side: runs, cancels, stops. The child's thread is in child_watch.cpp.
#include "services/worker/shell/child_process.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "services/worker/shell/child_pending.h"

namespace dray::worker {

ChildProcess::ChildProcess(ChildOptions options, Hooks hooks)
    : options_(std::move(options)), hooks_(std::move(hooks)) {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  // The thread that spawns must live as long as the child: PR_SET_PDEATHSIG is about threads.
  thread_ = std::thread([this] { loop(); });
  pthread_setname_np(thread_.native_handle(), "child");
}

ChildProcess::~ChildProcess() {
  kill("the worker ends it");
  thread_.join();
  for (int fd : {fd_, wake_fd_, out_fd_, err_fd_, pid_fd_})
    if (fd >= 0) ::close(fd);
}

void ChildProcess::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_fd_, &one, sizeof one);
}

size_t ChildProcess::ongoing() const {
  std::lock_guard lock(mutex_);
  return runs_.size();
}

// --- runs --------------------------------------------------------------------------------------

bool ChildProcess::run(uint16_t handler, std::span<const TaskView> tasks,
                       std::span<TaskOutput> outs) {
  const auto shared = std::make_shared<Pending>(tasks, outs);
  Pending& run = *shared;
  std::string frame(kChildHeadBytes, '\0');
  size_t bytes = kChildHeadBytes;
  for (const TaskView& t : tasks)
    bytes += 64 + t.payload.size() + t.user_header.size() + t.model.size();
  frame.reserve(bytes);
  put_run(frame, handler, tasks);
  uint64_t id = 0;
  bool recycle = false;
  {
    std::lock_guard lock(mutex_);
    if (state_ != State::ready) return false;
    id = next_id_++;
    runs_.emplace(id, shared);
    recycle = ++began_ == options_.recycle_after;
  }
  std::string head;
  put_head(head, {static_cast<uint32_t>(frame.size() - kChildHeadBytes), ChildFrame::run, 0, id});
  frame.replace(0, kChildHeadBytes, head);
  if (!send_all(frame)) {
    // Half a frame is no run.
    std::unique_lock lock(mutex_);
    runs_.erase(id);
    return false;
  }
  frame = std::string();
  if (recycle) tell(ProcessEvent::Kind::recycle, true, {});
  if (sleeps_.load()) wake();
  std::vector<Piece> pieces;
  for (bool done = false; !done;) {
    run.moved.wait();
    {
      std::lock_guard lock(mutex_);
      pieces.swap(run.pieces);
      run.piece_bytes = 0;
      done = run.done;
    }
    deliver(run, pieces, id);
    pieces.clear();
  }
  return true;
}

// In the thread of run(): a reader that is behind holds up this run and nothing else.
void ChildProcess::deliver(Pending& run, std::vector<Piece>& pieces, uint64_t id) {
  for (Piece& piece : pieces) {
    const TaskView& task = run.tasks[piece.index];
    if (!piece.is_part) {
      if (task.progress != nullptr)
        task.progress->on_progress(task, piece.permille / 1000.0, piece.bytes);
      continue;
    }
    if (run.refused[piece.index]) continue;
    std::string frame;
    if (task.parts != nullptr && task.parts->send_part(task, piece.bytes)) {
      uint64_t& granted = run.granted[piece.index];
      granted += piece.bytes.size();
      std::string body(sizeof granted, '\0');
      const uint64_t all = granted + kChildWindow;
      std::memcpy(body.data(), &all, sizeof all);
      put_frame(frame, ChildFrame::grant, id, piece.index, body);
    } else {
      run.refused[piece.index] = true;
      put_frame(frame, ChildFrame::cancel, id, piece.index, {});
    }
    send_all(frame);
  }
}

// --- writing -----------------------------------------------------------------------------------

namespace {
// False: the other end is gone, or would have to be waited for (MSG_DONTWAIT).
bool send_some(int fd, std::string_view& bytes, int flags) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | flags);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}
}  // namespace

// Under write_mutex_. Half a frame may stay: whoever writes next goes on with it.
bool ChildProcess::flush_control(int flags) {
  std::lock_guard lock(control_mutex_);
  std::string_view left = control_;
  const bool all = send_some(fd_, left, flags);
  control_.erase(0, control_.size() - left.size());
  return all;
}

bool ChildProcess::send_all(std::string_view bytes) {
  std::lock_guard lock(write_mutex_);
  {
    std::lock_guard state(mutex_);
    if (state_ == State::over) return false;
  }
  return flush_control(0) && send_some(fd_, bytes, 0);
}

void ChildProcess::control(ChildFrame type, uint64_t id, uint16_t index, std::string_view body) {
  std::lock_guard lock(control_mutex_);
  put_frame(control_, type, id, index, body);
}

void ChildProcess::ping() {
  control(ChildFrame::health, 0, 0, {});
  wake();
}

void ChildProcess::configure(const std::string& user_config, uint64_t number) {
  control(ChildFrame::config, number, 0, user_config);
  wake();
}

void ChildProcess::stop(Duration grace) {
  {
    std::lock_guard lock(mutex_);
    if (state_ == State::over) return;
    state_ = State::stopping;
    stop_at_ = std::min(stop_at_, Clock::now() + std::min<Duration>(grace, std::chrono::hours(24)));
  }
  wake();
}

void ChildProcess::kill(std::string why) {
  {
    std::lock_guard lock(mutex_);
    if (reaped_) return;
    if (doom_.empty()) doom_ = std::move(why);
    if (state_ != State::over) state_ = State::stopping;
    if (const pid_t pid = pid_.load(); pid > 0) {
      ::kill(-pid, SIGKILL);  // with what it started
      ::kill(pid, SIGKILL);
    }
  }
  wake();
}

}  // namespace dray::worker
