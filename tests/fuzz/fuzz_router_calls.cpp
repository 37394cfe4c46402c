// Any sequence of messages of clients and workers about calls: the router's tables stay whole, and
// each call ends exactly once, by its deadline.
#include <cstdint>
#include <cstdlib>
#include <set>

#include "common/wire/offer.h"
#include "services/router/core/router.h"
#include "tests/fuzz/input.h"

using namespace dray;

namespace {

constexpr uint64_t kClients = 2, kWorkers = 3;  // sessions 1 and 2; 11, 12 and 13
constexpr uint64_t kUsedAgain = uint64_t{1} << 40;  // numbers from here on may stand for several

class World {
 public:
  World(const uint8_t* data, size_t size) : in_(data, size), router_(options(in_)) {
    for (uint64_t i = 1; i <= kClients; ++i) open(SessionId{i});
    for (uint64_t i = 11; i <= 10 + kWorkers; ++i) open(SessionId{i});
    end_turn();
  }

  void run() {
    while (!in_.empty()) {
      in_.below(2) ? client_speaks() : worker_speaks();
      const uint64_t step = in_.below(16);
      if (step == 0) reopen();
      if (step == 1 && in_.below(8) == 0) router_.begin_drain(now_, out_);
      if (step < 6) now_.mono += std::chrono::microseconds(1 << in_.below(22));
      if (step % 2 == 0) end_turn();
    }
    now_.mono += std::chrono::hours(2);  // no deadline is later
    end_turn();
    for (const auto& open : open_)
      if (!open.empty()) std::abort();
  }

 private:
  static RouterOptions options(Input& in) {
    RouterOptions o;
    if (in.below(2)) o.calls.client_calls = 1 + in.below(6);
    if (in.below(4) == 0) o.calls.call_bytes = 40;
    if (in.below(2)) o.calls.max_queued = 1 + in.below(6);
    if (in.below(2)) o.calls.settle = 1s;
    return o;
  }
  static bool is_worker(SessionId id) { return static_cast<uint64_t>(id) > 10; }
  void open(SessionId id) {
    SessionInfo info;
    info.id = id;
    info.port = is_worker(id) ? Router::kWorkers : Router::kClients;
    info.role = is_worker(id) ? Role::worker : Role::client;
    info.name = "peer" + std::to_string(static_cast<uint64_t>(id));
    router_.on_open(info, now_, out_);
  }
  void reopen() {
    const SessionId id{in_.below(2) ? 1 + in_.below(kClients) : 11 + in_.below(kWorkers)};
    router_.on_close(id, static_cast<CloseReason>(in_.below(5)), now_, out_);
    if (!is_worker(id)) open_[static_cast<uint64_t>(id)].clear();
    end_turn();
    open(id);
    end_turn();
  }
  void send(SessionId from, const Message& m) {
    Envelope e;
    e.req = in_.below(4);
    e.granted = is_worker(from) ? in_.number(40) : 0;
    Frames frames = encode(e, m);
    const auto seen = decode_envelope(frames);
    router_.on_frames(from, *seen, std::move(frames), now_, out_);
  }

  void client_speaks() {
    const uint64_t client = 1 + in_.below(kClients);
    switch (in_.below(5)) {
      case 0:
        return send(SessionId{client},
                    CallCancel{make_rows<CallIdRow>(std::vector<CallIdRow>{{some_call()}})});
      case 1:
        return send(SessionId{client},
                    CallCredit{make_rows<CallCreditRow>(
                        std::vector<CallCreditRow>{{some_call(), in_.number(200)}})});
      default:
        send(SessionId{client}, some_calls(client));
    }
  }
  uint64_t some_call() {
    return in_.below(4) ? calls_ - std::min(calls_, in_.below(20)) : kUsedAgain + in_.below(3);
  }
  Call some_calls(uint64_t client) {
    static const char* const kHandlers[] = {"a", "b", "nobody"};
    Call m;
    m.handler = kHandlers[in_.below(3)];
    if (in_.below(3) == 0) m.key = in_.below(2) ? "k" : "l";
    if (in_.below(4) == 0) m.window = 1 + in_.below(100);
    RowsBuilder<CallRow> rows;
    std::string bytes;
    for (uint64_t n = 1 + in_.below(4); n > 0; --n) {
      CallRow row;
      const bool fresh = in_.below(12) != 0;
      row.call = fresh ? ++calls_ : kUsedAgain + in_.below(3);
      if (fresh) open_[client].insert(row.call);
      row.deadline_us = std::min<uint64_t>(in_.number(50) * 20'000, 3'600'000'000);
      row.items = static_cast<uint16_t>(1 + in_.below(in_.below(8) ? 3 : 255));
      row.flags = static_cast<uint16_t>(in_.below(5));
      row.len = static_cast<uint32_t>(in_.below(10));
      bytes.append(row.len, 'x');
      rows.add(row);
    }
    m.rows = rows.take();
    m.bytes = Bytes(bytes);
    return m;
  }

  void worker_speaks() {
    const SessionId worker{11 + in_.below(kWorkers)};
    switch (in_.below(8)) {
      case 0:
        return send(worker, some_offer());
      case 1:
        return send(worker, Drain{in_.below(2) == 0});
      default:
        return send(worker, some_done());
    }
  }
  Offer some_offer() {
    Offer m;
    m.slots = static_cast<uint32_t>(in_.number(5));
    m.draining = in_.below(8) == 0;
    for (uint64_t n = in_.below(4); n > 0; --n) {
      HandlerOffer o;
      o.name = in_.below(2) ? "a" : "b";
      o.max_ongoing = static_cast<uint32_t>(in_.number(3));
      o.max_batch_size = static_cast<uint32_t>(in_.number(6));
      o.max_batch_bytes = in_.number(30);
      o.batch_wait_us = static_cast<uint32_t>(in_.number(3) * 1000);
      o.flags = static_cast<uint32_t>(in_.below(4));
      o.max_models = static_cast<uint32_t>(in_.number(3));
      m.handlers.push_back(encode_offer(o));
    }
    if (in_.below(8) == 0) m.handlers.push_back("garbage");
    return m;
  }
  Done some_done() {
    RowsBuilder<DoneRow> rows;
    std::string bytes;
    for (uint64_t n = in_.below(4); n > 0; --n) {
      DoneRow row;
      row.call =
          runs_.empty() || in_.below(12) == 0 ? in_.number(9) : runs_[in_.below(runs_.size())];
      row.status = static_cast<uint8_t>(in_.below(7));
      row.flags = static_cast<uint16_t>(in_.below(4));
      row.run_us = static_cast<uint32_t>(in_.number(200) * 100);
      row.wait_us = static_cast<uint32_t>(in_.number(200));
      row.len = static_cast<uint32_t>(in_.below(5));
      bytes.append(row.len, 'y');
      rows.add(row);
    }
    return {rows.take(), Bytes(bytes)};
  }

  void end_turn() {
    router_.end_turn(now_, out_);
    router_.check();
    for (const Send& s : out_.now) {
      if (const auto* run = std::get_if<Run>(&s.message)) note_runs(*run);
      if (const auto* reply = std::get_if<Reply>(&s.message))
        for (size_t i = 0; i < reply->rows.size(); ++i)
          note_end(static_cast<uint64_t>(s.to), reply->rows[i]);
    }
    out_.clear();
  }
  void note_runs(const Run& run) {
    for (size_t i = 0; i < run.rows.size(); ++i) runs_.push_back(run.rows[i].call);
    if (runs_.size() > 32) runs_.erase(runs_.begin(), runs_.end() - 32);
  }
  void note_end(uint64_t client, const ReplyRow& row) {
    if (row.call >= kUsedAgain || row.status == 0) return;
    if (open_[client].erase(row.call) == 0) std::abort();  // its second end
  }

  Input in_;
  Now now_{at_ms(1000), 1'800'000'000'000};
  Router router_;
  RouterOut out_;
  uint64_t calls_ = 0;
  std::set<uint64_t> open_[kClients + 1];  // by client
  std::vector<uint64_t> runs_;  // the last numbers that workers got
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  World(data, size).run();
  return 0;
}
