// The child's thread: what it says and prints, its limits, and its end.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "common/base/ids.h"
#include "services/worker/shell/child_pending.h"
#include "services/worker/shell/child_process.h"
#include "services/worker/shell/plugin_run.h"

extern char** environ;

namespace dray::worker {
namespace {

constexpr int kCancelEveryMs = 10;  // cancel flags are looked at so often
constexpr int kMemoryEveryMs = 100;
constexpr int kIdleMs = 10'000;
constexpr size_t kPieceBytesMax = 2 * kChildWindow;  // of a child that ignores its window
constexpr size_t kLastWordsMax = size_t{1} << 20;  // what is read after its end

// The variables of this process, except those that are given anew.
std::vector<std::string> environment(
    const std::vector<std::pair<std::string, std::string>>& given) {
  std::vector<std::string> all;
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string_view entry(*e);
    const bool anew = std::any_of(given.begin(), given.end(), [&](const auto& pair) {
      return entry.starts_with(pair.first) && entry.substr(pair.first.size(), 1) == "=";
    });
    if (!anew) all.emplace_back(entry);
  }
  for (const auto& [name, value] : given) all.push_back(name + "=" + value);
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

struct SpawnPlan {
  SpawnPlan(int socket, int out, int err) {
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawn_file_actions_adddup2(&actions, err, 2);
    posix_spawn_file_actions_adddup2(&actions, socket, kChildFd);
    posix_spawn_file_actions_addclosefrom_np(&actions, kChildFd + 1);
    posix_spawnattr_init(&attributes);
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    // A group of its own: Ctrl-C is for the worker, which drains; and it dies with its children.
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;
  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
};

}  // namespace

Status ChildProcess::spawn() {
  int sockets[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
  const bool open = ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0 &&
                    ::pipe2(out, O_CLOEXEC) == 0 && ::pipe2(err, O_CLOEXEC) == 0;
  fd_ = sockets[0];
  out_fd_ = out[0];
  err_fd_ = err[0];
  int error = open ? 0 : errno;
  pid_t pid = 0;
  if (open) {
    for (int fd : {out_fd_, err_fd_}) ::fcntl(fd, F_SETFL, O_NONBLOCK);
    SpawnPlan plan(sockets[1], out[1], err[1]);
    std::vector<std::string> arguments{options_.program, "--parent", std::to_string(::getpid())};
    std::vector<std::string> variables = environment(options_.environment);
    error = ::posix_spawn(&pid, options_.program.c_str(), &plan.actions, &plan.attributes,
                          pointers(arguments).data(), pointers(variables).data());
  }
  for (int fd : {sockets[1], out[1], err[1]})
    if (fd >= 0) ::close(fd);
  if (error != 0)
    return make_error(Errc::io, "cannot start " + options_.program + ": " + std::strerror(error) +
                                    "; is it installed beside dray-worker?");
  pid_fd_ = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  std::lock_guard lock(mutex_);
  pid_.store(pid);
  if (!doom_.empty()) ::kill(pid, SIGKILL);  // kill() came too early for it
  return {};
}

void ChildProcess::loop() {
  if (Status spawned = spawn(); !spawned) {
    failed_ = spawned.error().detail;
    tell(ProcessEvent::Kind::failed, false, failed_);
    end_runs(failed_);
    return tell(ProcessEvent::Kind::gone, false, failed_);
  }
  control(ChildFrame::start, 0, 0, encode_start(options_.start));
  look_after();
  reap();
}

// --- waiting -----------------------------------------------------------------------------------

int ChildProcess::poll_ms() {
  sleeps_.store(true);
  const bool limited = options_.memory_limit_mib != 0;
  {
    std::lock_guard lock(mutex_);
    if (!runs_.empty() || state_ == State::stopping) {
      sleeps_.store(false);
      return kCancelEveryMs;
    }
  }
  std::lock_guard lock(control_mutex_);
  if (!control_.empty()) return kCancelEveryMs;
  return limited ? kMemoryEveryMs : kIdleMs;
}

void ChildProcess::look_after() {
  for (bool alive = true; alive;) {
    if (write_mutex_.try_lock()) {
      flush_control(MSG_DONTWAIT);
      write_mutex_.unlock();
    }
    std::array<pollfd, 5> fds{};
    fds[0] = {hung_up_ ? -1 : fd_, POLLIN, 0};
    fds[1] = {wake_fd_, POLLIN, 0};
    fds[2] = {pid_fd_, POLLIN, 0};
    fds[3] = {out_lines_.ended() ? -1 : out_fd_, POLLIN, 0};
    fds[4] = {err_lines_.ended() ? -1 : err_fd_, POLLIN, 0};
    ::poll(fds.data(), fds.size(), poll_ms());
    sleeps_.store(false);
    if (fds[1].revents != 0) {
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t n = ::read(wake_fd_, &count, sizeof count);
    }
    if (fds[0].revents != 0) read_frames();
    if (fds[3].revents != 0 || fds[4].revents != 0) read_lines(false);
    alive = fds[2].revents == 0;
    if (!alive) break;
    check_runs();
    check_memory();
    check_end();
    // Without pidfd_open: it said goodbye, so wait() will not take long.
    if (pid_fd_ < 0 && hung_up_) alive = false;
  }
}

// A child that closed its socket, or was told to, and does not end.
void ChildProcess::check_end() {
  const auto now = Clock::now();
  bool tell_end = false;
  {
    std::lock_guard lock(mutex_);
    tell_end = !told_end_ && state_ == State::stopping && (runs_.empty() || now >= stop_at_);
    if (tell_end && !runs_.empty() && doom_.empty()) doom_ = "stopped before it was done";
  }
  if (tell_end) {
    told_end_ = true;
    ::shutdown(fd_, SHUT_WR);
  }
  if ((told_end_ || hung_up_) && end_at_ == Clock::time_point::max()) end_at_ = now + kChildEndTime;
  if (now >= end_at_) kill("it did not end");
}

// --- limits ------------------------------------------------------------------------------------

void ChildProcess::check_runs() {
  const auto now = Clock::now();
  bool late = false;
  std::vector<std::pair<uint64_t, uint16_t>> cancels;
  {
    std::lock_guard lock(mutex_);
    for (auto& [id, run] : runs_) {
      if (now >= run->until) late = run->late = true;
      for (size_t i = 0; i < run->tasks.size(); ++i) {
        const auto* flag = run->tasks[i].cancelled;
        if (flag == nullptr || run->cancelled[i] || !flag->load(std::memory_order_relaxed))
          continue;
        run->cancelled[i] = true;
        cancels.emplace_back(id, static_cast<uint16_t>(i));
      }
    }
  }
  for (const auto& [id, index] : cancels) control(ChildFrame::cancel, id, index, {});
  if (late) kill("a run ignored its time limit");
}

void ChildProcess::check_memory() {
  if (options_.memory_limit_mib == 0) return;
  const auto now = Clock::now();
  if (now < memory_at_) return;
  memory_at_ = now + std::chrono::milliseconds(kMemoryEveryMs);
  // Resident memory: CUDA reserves address space by the terabyte, so RLIMIT_AS is no use.
  const std::string path = "/proc/" + std::to_string(pid_.load()) + "/statm";
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return;
  unsigned long size = 0, resident = 0;
  const int n = std::fscanf(file, "%lu %lu", &size, &resident);
  std::fclose(file);
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t mib = n == 2 ? resident * page >> 20 : 0;
  if (mib > options_.memory_limit_mib)
    kill("it used " + std::to_string(mib) + " MiB, above its memory limit of " +
         std::to_string(options_.memory_limit_mib) + " MiB");
}

// --- what it says ------------------------------------------------------------------------------

void ChildProcess::read_frames() {
  const FrameReader::Got got = reader_.fill(fd_, MSG_DONTWAIT);
  if (got == FrameReader::Got::end) hung_up_ = true;
  ChildHead head;
  std::string_view body;
  while (got == FrameReader::Got::bytes && reader_.next(head, body)) on_frame(head, body);
  if (!reader_.bad()) return;
  hung_up_ = true;
  nonsense(make_error(Errc::bad_message, "executor protocol: bad frame"));
}

void ChildProcess::nonsense(const Error& error) { kill(error.detail); }

void ChildProcess::on_frame(const ChildHead& head, std::string_view body) {
  switch (head.type) {
    case ChildFrame::ready: {
      auto handlers = decode_handlers(body);
      if (!handlers) return nonsense(handlers.error());
      {
        std::lock_guard lock(mutex_);
        if (state_ == State::starting) state_ = State::ready;
      }
      ProcessEvent news;
      news.process = options_.process;
      news.kind = ProcessEvent::Kind::ready;
      news.ok = true;
      news.handlers = std::move(*handlers);
      return hooks_.news(std::move(news));
    }
    case ChildFrame::failed:
      failed_ = one_line(body);
      return tell(ProcessEvent::Kind::failed, false, failed_);
    case ChildFrame::pong:
    case ChildFrame::configured: {
      auto word = decode_word(body);
      if (!word) return nonsense(word.error());
      ProcessEvent news;
      news.process = options_.process;
      news.kind =
          head.type == ChildFrame::pong ? ProcessEvent::Kind::pong : ProcessEvent::Kind::configured;
      news.ok = word->number != 0;
      news.text = one_line(word->text);
      news.number = head.id;
      return hooks_.news(std::move(news));
    }
    case ChildFrame::log: {
      auto word = decode_word(body);
      if (!word) return nonsense(word.error());
      return say(static_cast<int>(std::min<uint32_t>(word->number, 3)), "handler", word->text);
    }
    default:
      return on_task_frame(head, body);
  }
}

void ChildProcess::on_task_frame(const ChildHead& head, std::string_view body) {
  std::unique_lock lock(mutex_);
  const auto it = runs_.find(head.id);
  if (it == runs_.end()) return;  // it was given up
  const std::shared_ptr<Pending> run = it->second;
  const bool ours = head.index < run->tasks.size();
  Error bad = make_error(Errc::bad_message, "executor protocol: a frame that makes no sense");
  switch (head.type) {
    case ChildFrame::part:
      run->piece_bytes += body.size();
      // Empty parts would cost room that no window counts.
      if (!ours || body.empty() || run->piece_bytes > kPieceBytesMax) break;
      run->pieces.push_back({head.index, true, 0, std::string(body)});
      run->moved.set();
      return;
    case ChildFrame::progress: {
      auto word = decode_word(body);
      if (!ours || !word) break;
      Piece piece{head.index, false, std::min<uint32_t>(word->number, 1000), one_line(word->text)};
      // Only the newest of a task is worth anything, and no child may pile them up.
      const auto old = std::find_if(run->pieces.begin(), run->pieces.end(), [&](const Piece& p) {
        return !p.is_part && p.index == head.index;
      });
      if (old != run->pieces.end())
        *old = std::move(piece);
      else
        run->pieces.push_back(std::move(piece));
      run->moved.set();
      return;
    }
    case ChildFrame::results:
    case ChildFrame::done: {
      auto results = decode_results(body);
      if (!results || !take_results(*run, *results)) break;
      if (head.type == ChildFrame::results) return;
      for (size_t i = 0; i < run->outs.size(); ++i)
        if (!run->has[i]) {
          run->outs[i].kind = TaskOutput::Kind::fail;
          run->outs[i].bytes.clear();
          run->outs[i].text = "the executor gave no outcome";
        }
      runs_.erase(it);
      run->done = true;
      run->moved.set();
      return;
    }
    default:
      break;
  }
  lock.unlock();
  nonsense(bad);
}

// Under the mutex. False: nonsense.
bool ChildProcess::take_results(Pending& run, const std::vector<ChildResult>& results) {
  for (const ChildResult& result : results) {
    if (result.index >= run.outs.size() || run.has[result.index]) return false;
    run.has[result.index] = true;
    TaskOutput& out = run.outs[result.index];
    out.kind = result.kind;
    const bool ok = result.kind == TaskOutput::Kind::ok;
    out.bytes.assign(ok ? result.bytes : std::string_view());
    out.text = ok ? std::string() : one_line(result.bytes);
  }
  return true;
}

// --- what it prints ----------------------------------------------------------------------------

void ChildProcess::read_lines(bool to_the_end) {
  size_t rounds = to_the_end ? kLastWordsMax >> 14 : 4;  // else the socket has its turn
  for (bool more = true; more && rounds > 0; --rounds) {
    more = !out_lines_.ended() &&
           out_lines_.read(out_fd_, [&](std::string_view line) { say(1, "stdout", line); });
    more = (!err_lines_.ended() &&
            err_lines_.read(err_fd_, [&](std::string_view line) { say(2, "stderr", line); })) ||
           more;
  }
  if (!to_the_end) return;
  out_lines_.flush([&](std::string_view line) { say(1, "stdout", line); });
  err_lines_.flush([&](std::string_view line) { say(2, "stderr", line); });
  if (const uint64_t dropped = budget_.take_dropped(); dropped != 0 && hooks_.line)
    hooks_.line({options_.process,
                 pid_.load(),
                 2,
                 "stdout",
                 std::to_string(dropped) + " lines were left out: too many a second",
                 {}});
}

void ChildProcess::say(int level, std::string_view source, std::string_view text) {
  if (!hooks_.line || !budget_.spend(Clock::now())) return;
  const auto tell_line = [&](std::string_view what, std::string task) {
    hooks_.line({options_.process, pid_.load(), level, source, what, std::move(task)});
  };
  if (const uint64_t dropped = budget_.take_dropped(); dropped != 0)
    tell_line(std::to_string(dropped) + " lines were left out: too many a second", {});
  std::string task;
  {
    std::lock_guard lock(mutex_);
    if (runs_.size() == 1 && runs_.begin()->second->tasks.size() == 1) {
      const TaskView& t = runs_.begin()->second->tasks[0];
      task = t.is_call ? "call " + std::to_string(t.id.lo) : to_hex(t.id);
    }
  }
  tell_line(one_line(text), std::move(task));
}

// --- its end -----------------------------------------------------------------------------------

void ChildProcess::reap() {
  // Results may lie in the socket, and its last words in the pipes.
  while (!hung_up_ && reader_.fill(fd_, MSG_DONTWAIT) == FrameReader::Got::bytes) {
    ChildHead head;
    std::string_view body;
    while (reader_.next(head, body)) on_frame(head, body);
    if (reader_.bad()) break;
  }
  read_lines(true);
  const pid_t pid = pid_.load();
  ::kill(-pid, SIGKILL);  // what it started
  if (pid_fd_ < 0) ::kill(pid, SIGKILL);  // an old kernel does not tell when it has ended
  bool told = false;
  {
    std::lock_guard lock(mutex_);
    reaped_ = true;  // before its pid may be another process's
    told = state_ == State::stopping && (doom_.empty() || stop_at_ != Clock::time_point::max());
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  ::shutdown(fd_, SHUT_RDWR);  // writers that wait for it
  const std::string text = failed_.empty() ? how_it_ended(status) : failed_;
  end_runs(text);
  tell(ProcessEvent::Kind::gone, told, text);
}

std::string ChildProcess::how_it_ended(int status) const {
  const std::string who = " (pid " + std::to_string(pid_.load()) + ")";
  std::lock_guard lock(mutex_);
  if (!doom_.empty()) return "executor killed: " + doom_ + who;
  if (!WIFSIGNALED(status))
    return "executor ended: exit code " + std::to_string(WEXITSTATUS(status)) + who;
  const char* name = ::sigabbrev_np(WTERMSIG(status));
  return "executor crashed: SIG" +
         (name != nullptr ? std::string(name) : std::to_string(WTERMSIG(status))) + who;
}

void ChildProcess::end_runs(const std::string& text) {
  std::unordered_map<uint64_t, std::shared_ptr<Pending>> lost;
  std::lock_guard lock(mutex_);
  state_ = State::over;
  lost.swap(runs_);
  for (auto& [id, run] : lost) {
    for (size_t i = 0; i < run->outs.size(); ++i) {
      if (run->has[i]) continue;
      TaskOutput& out = run->outs[i];
      out.kind = run->late ? TaskOutput::Kind::fail : TaskOutput::Kind::crashed;
      out.bytes.clear();
      out.text = run->late ? "ran longer than its time limit; " + text : text;
    }
    run->done = true;
    run->moved.set();
  }
}

void ChildProcess::tell(ProcessEvent::Kind kind, bool ok, std::string text) {
  ProcessEvent news;
  news.process = options_.process;
  news.kind = kind;
  news.ok = ok;
  news.text = std::move(text);
  hooks_.news(std::move(news));
}

}  // namespace dray::worker
