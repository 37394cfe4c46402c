// Child: the inside of dray-executor: a plugin host and the threads that run what the worker sends.
//
// The threads take turns at the socket: one reads; when it got a run it lets another one read and
// runs it itself, so a run costs no hand-over here. There is always one more thread than runs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "services/worker/shell/child_frames.h"
#include "services/worker/shell/frame_reader.h"
#include "services/worker/shell/plugin_host.h"

namespace dray::worker {

class Child : public LogSink {
 public:
  explicit Child(int fd) : fd_(fd) {}
  int run();  // until the worker closes the socket; the exit status

  void on_log(int level, std::string_view text) override;

 private:
  struct Run;
  struct Frame {
    ChildHead head;
    std::string body;
  };
  Status load(const ChildStart& start);
  bool read(Frame& frame);
  void serve();
  void take(Frame& frame);
  void start_run(Frame& frame);
  void execute(Run& run);
  void answer(Run& run);
  void on_cancel(const Frame& frame);
  void on_grant(const Frame& frame);
  std::shared_ptr<Run> find(uint64_t id);
  void send(ChildFrame type, uint64_t id, uint16_t index, std::string_view body);
  void add_thread();

  const int fd_;
  std::unique_ptr<PluginHost> host_;
  std::vector<const Handler*> handlers_;
  uint32_t threads_max_ = 1;

  std::mutex read_mutex_;  // whoever has it reads
  FrameReader reader_;
  bool end_ = false;

  std::mutex write_mutex_;

  std::mutex mutex_;  // of all below
  std::condition_variable ended_;
  std::unordered_map<uint64_t, std::shared_ptr<Run>> runs_;
  uint32_t threads_ = 0;
  uint32_t busy_ = 0;  // threads that run something
  bool over_ = false;
};

}  // namespace dray::worker
