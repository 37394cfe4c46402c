// Reading in turns, running, answering.
#include "services/worker/executor/child.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace dray::worker {
namespace {
using Clock = std::chrono::steady_clock;
constexpr auto kProgressEvery = std::chrono::milliseconds(100);  // per task
}  // namespace

// One run; the worker's frames about it come while it runs.
struct Child::Run : ProgressSink, PartSink {
  Run(Child& owner, uint64_t number, std::string bytes)
      : child(owner), id(number), body(std::move(bytes)) {}

  uint16_t index_of(const TaskView& task) const {
    return static_cast<uint16_t>(&task - views.data());
  }
  void on_progress(const TaskView& task, double fraction, std::string_view text) override {
    const uint16_t i = index_of(task);
    {
      std::lock_guard lock(mutex);
      const auto now = Clock::now();
      if (now < progress_at[i]) return;
      progress_at[i] = now + kProgressEvery;
    }
    std::string word;
    put_word(word, static_cast<uint32_t>(std::lround(std::clamp(fraction, 0.0, 1.0) * 1000)), text);
    child.send(ChildFrame::progress, id, i, word);
  }
  // Blocks until the whole part is within what was granted.
  bool send_part(const TaskView& task, std::string_view bytes) override {
    const uint16_t i = index_of(task);
    while (!bytes.empty()) {
      const std::string_view piece = bytes.substr(0, kChildPartMax);
      {
        std::unique_lock lock(mutex);
        moved.wait(lock,
                   [&] { return cancelled[i].load() || sent[i] + piece.size() <= granted[i]; });
        if (cancelled[i].load()) return false;
        sent[i] += piece.size();
      }
      child.send(ChildFrame::part, id, i, piece);
      bytes.remove_prefix(piece.size());
    }
    return true;
  }

  Child& child;
  const uint64_t id;
  const std::string body;  // the views point into it
  const Handler* handler = nullptr;
  std::vector<TaskView> views;
  std::vector<TaskOutput> outs;
  std::unique_ptr<std::atomic<bool>[]> cancelled;
  std::mutex mutex;
  std::condition_variable moved;
  std::vector<uint64_t> granted, sent;
  std::vector<Clock::time_point> progress_at;
};

// --- frames ------------------------------------------------------------------------------------

void Child::send(ChildFrame type, uint64_t id, uint16_t index, std::string_view body) {
  std::string head;
  put_head(head, {static_cast<uint32_t>(body.size()), type, index, id});
  std::lock_guard lock(write_mutex_);
  iovec parts[2] = {{head.data(), head.size()}, {const_cast<char*>(body.data()), body.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  while (message.msg_iovlen > 0) {
    const ssize_t n = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // the worker is gone, and so are we soon
    auto left = static_cast<size_t>(n);
    while (message.msg_iovlen > 0 && left >= message.msg_iov->iov_len) {
      left -= message.msg_iov->iov_len;
      ++message.msg_iov;
      --message.msg_iovlen;
    }
    if (message.msg_iovlen == 0) return;
    message.msg_iov->iov_base = static_cast<char*>(message.msg_iov->iov_base) + left;
    message.msg_iov->iov_len -= left;
  }
}

// False: the worker closed the socket, or is none of ours.
bool Child::read(Frame& frame) {
  std::string_view body;
  while (!reader_.next(frame.head, body)) {
    if (reader_.bad()) return false;
    if (reader_.fill(fd_, 0) == FrameReader::Got::end) return false;
  }
  frame.body.assign(body);
  return true;
}

void Child::on_log(int level, std::string_view text) {
  std::string word;
  put_word(word, static_cast<uint32_t>(level), text);
  send(ChildFrame::log, 0, 0, word);
}

// --- life --------------------------------------------------------------------------------------

Status Child::load(const ChildStart& start) {
  PluginOptions options;
  options.allow_test_handlers = start.allow_test_handlers;
  options.worker_name = start.worker_name;
  options.data_dir = start.data_dir;
  options.log = this;
  options.only = start.handlers;
  options.user_config = start.user_config;
  options.deployment = start.deployment;
  threads_max_ = std::clamp<uint32_t>(start.threads, 1, 8192) + 1;
  host_ = std::make_unique<PluginHost>(std::move(options));
  for (const std::string& path : start.plugins) DRAY_TRY(host_->load(path));
  for (const std::string& name : start.handlers)
    if (host_->find(name) == nullptr)
      return make_error(Errc::config, "no handler '" + name + "' in " +
                                          (start.plugins.empty() ? "" : start.plugins[0]));
  return {};
}

int Child::run() {
  Frame first;
  if (!read(first)) return 0;
  auto start = decode_start(first.body);
  if (!start || first.head.type != ChildFrame::start) return 64;
  if (Status loaded = load(*start); !loaded) {
    send(ChildFrame::failed, 0, 0, loaded.error().detail);
    return 0;
  }
  std::vector<ReplicaHandler> offered;
  for (HandlerInfo& info : host_->handlers()) {
    handlers_.push_back(host_->find(info.name));
    offered.push_back({std::move(info.offer), info.max_concurrency, info.can_batch});
  }
  send(ChildFrame::ready, 0, 0, encode_handlers(offered));
  std::unique_lock lock(mutex_);
  add_thread();
  ended_.wait(lock, [this] { return over_; });
  // Threads that still run something can not be joined, and nobody wants what they make.
  if (busy_ != 0) return -1;
  lock.unlock();
  host_.reset();
  return 0;
}

// Under mutex_.
void Child::add_thread() {
  ++threads_;
  std::thread([this] { serve(); }).detach();
}

void Child::serve() {
  for (;;) {
    Frame frame;
    {
      std::lock_guard reading(read_mutex_);
      if (!end_ && !read(frame)) end_ = true;
      if (end_) break;
      const bool is_work = frame.head.type == ChildFrame::run ||
                           frame.head.type == ChildFrame::health ||
                           frame.head.type == ChildFrame::config;
      if (is_work) {
        std::lock_guard lock(mutex_);
        ++busy_;
        if (busy_ == threads_ && threads_ < threads_max_ + 1) add_thread();
        if (frame.head.type == ChildFrame::run) start_run(frame);  // before a cancel is read
      } else if (frame.head.type == ChildFrame::cancel) {
        on_cancel(frame);
      } else if (frame.head.type == ChildFrame::grant) {
        on_grant(frame);
      }
      if (!is_work) continue;
    }
    take(frame);
    std::lock_guard lock(mutex_);
    --busy_;
  }
  std::lock_guard lock(mutex_);
  over_ = true;
  ended_.notify_all();
}

void Child::take(Frame& frame) {
  if (frame.head.type == ChildFrame::run) {
    if (const std::shared_ptr<Run> run = find(frame.head.id)) {
      execute(*run);
      answer(*run);
    }
    return;
  }
  const bool is_health = frame.head.type == ChildFrame::health;
  const Status status = is_health ? host_->health() : host_->reconfigure(frame.body);
  std::string word;
  put_word(word, status ? 1 : 0, status ? std::string_view() : status.error().detail);
  send(is_health ? ChildFrame::pong : ChildFrame::configured, frame.head.id, 0, word);
}

// --- runs --------------------------------------------------------------------------------------

// Under mutex_. What makes no sense is not run: its worker, which is of our build, never says it.
void Child::start_run(Frame& frame) {
  auto run = std::make_shared<Run>(*this, frame.head.id, std::move(frame.body));
  auto decoded = decode_run(run->body);
  if (!decoded || decoded->handler >= handlers_.size()) return;
  const size_t n = decoded->tasks.size();
  run->handler = handlers_[decoded->handler];
  run->outs.resize(n);
  run->cancelled = std::make_unique<std::atomic<bool>[]>(n);
  run->granted.assign(n, kChildWindow);
  run->sent.assign(n, 0);
  run->progress_at.assign(n, {});
  run->views.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    const ChildTask& task = decoded->tasks[i];
    TaskView view;
    view.id = task.id;
    view.token = task.token;
    view.attempt = task.attempt;
    view.payload = task.payload;
    view.user_header = task.user_header;
    view.deadline_ns = task.deadline_ns;
    view.cancelled = &run->cancelled[i];
    view.progress = run.get();
    view.model = task.model;
    view.is_call = task.is_call;
    view.items = task.items;
    view.parts = task.parts ? run.get() : nullptr;
    run->views.push_back(view);
  }
  runs_[run->id] = run;
}

std::shared_ptr<Child::Run> Child::find(uint64_t id) {
  std::lock_guard lock(mutex_);
  const auto it = runs_.find(id);
  return it == runs_.end() ? nullptr : it->second;
}

void Child::execute(Run& run) {
  if (run.handler->info().can_batch) return host_->run_batch(*run.handler, run.views, run.outs);
  for (size_t i = 0; i < run.views.size(); ++i) host_->run(*run.handler, run.views[i], run.outs[i]);
}

void Child::answer(Run& run) {
  std::string body;
  for (size_t i = 0; i < run.outs.size(); ++i) {
    const TaskOutput& out = run.outs[i];
    const bool ok = out.kind == TaskOutput::Kind::ok;
    put_result(body, {static_cast<uint16_t>(i), out.kind, ok ? out.bytes : out.text});
    if (body.size() < kChildResultsBytes || i + 1 == run.outs.size()) continue;
    send(ChildFrame::results, run.id, 0, body);
    body.clear();
  }
  {
    std::lock_guard lock(mutex_);
    runs_.erase(run.id);
  }
  send(ChildFrame::done, run.id, 0, body);
}

void Child::on_cancel(const Frame& frame) {
  const std::shared_ptr<Run> run = find(frame.head.id);
  if (run == nullptr || frame.head.index >= run->views.size()) return;
  {
    std::lock_guard lock(run->mutex);
    run->cancelled[frame.head.index].store(true);
  }
  run->moved.notify_all();
}

void Child::on_grant(const Frame& frame) {
  const std::shared_ptr<Run> run = find(frame.head.id);
  auto granted = decode_grant(frame.body);
  if (run == nullptr || !granted || frame.head.index >= run->views.size()) return;
  {
    std::lock_guard lock(run->mutex);
    uint64_t& all = run->granted[frame.head.index];
    all = std::max(all, *granted);
  }
  run->moved.notify_all();
}

}  // namespace dray::worker
