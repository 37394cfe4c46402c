// Frames between worker and executor: round trips, and bytes that are none.
#include "services/worker/shell/child_frames.h"

#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <random>

#include "services/worker/shell/frame_reader.h"
#include "services/worker/shell/line_reader.h"

namespace dray::worker {
namespace {

ReplicaHandler info(const std::string& name) {
  ReplicaHandler h;
  h.can_batch = true;
  h.max_concurrency = 3;
  h.offer.name = name;
  h.offer.max_batch_size = 16;
  return h;
}

// Every prefix and every changed byte: never a crash, never a read past the end (sanitizers).
template <class Decode>
void damage(const std::string& good, Decode&& decode) {
  for (size_t n = 0; n < good.size(); ++n) CHECK_FALSE(decode(good.substr(0, n)));
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = good;
    for (int k = 0; k < 3; ++k) bytes[random() % bytes.size()] = static_cast<char>(random());
    decode(bytes);
  }
}

}  // namespace

TEST_CASE("child frames: round trips and damaged ones") {
  const ChildStart start{"w", "/data", "dep", "config", {"a.so", "b.so"}, {"x"}, 9, true};
  CHECK(*decode_start(encode_start(start)) == start);
  damage(encode_start(start),
         [](const std::string& b) { return static_cast<bool>(decode_start(b)); });

  const std::vector<ReplicaHandler> handlers{info("a"), info("b")};
  CHECK(*decode_handlers(encode_handlers(handlers)) == handlers);
  std::mt19937_64 random(2);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = encode_handlers(handlers);
    bytes.resize(random() % (bytes.size() + 1));
    for (int k = 0; k < 3 && !bytes.empty(); ++k)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    (void)decode_handlers(bytes);
  }

  TaskView view;
  view.id = {1, 2};
  view.token = {3, 4};
  view.payload = "payload";
  view.user_header = "header";
  view.model = "model";
  view.attempt = 5;
  view.items = 6;
  view.is_call = true;
  view.deadline_ns = 77;
  const std::vector<TaskView> views{view, view};
  std::string run;
  put_run(run, 8, views);
  const auto back = decode_run(run);
  REQUIRE(back);
  CHECK(back->handler == 8);
  REQUIRE(back->tasks.size() == 2);
  const ChildTask& task = back->tasks[1];
  CHECK(task.id == view.id);
  CHECK(task.token == view.token);
  CHECK(task.payload == "payload");
  CHECK(task.user_header == "header");
  CHECK(task.model == "model");
  CHECK(task.deadline_ns == 77);
  CHECK((task.attempt == 5 && task.items == 6 && task.is_call && !task.parts));
  damage(run, [](const std::string& b) { return static_cast<bool>(decode_run(b)); });

  std::string word;
  put_word(word, 9, "text");
  CHECK(decode_word(word)->text == "text");
  damage(word, [](const std::string& b) { return static_cast<bool>(decode_word(b)); });
}

TEST_CASE("child frames: results; a child can not say that it crashed") {
  std::string body;
  put_result(body, {1, TaskOutput::Kind::ok, "one"});
  put_result(body, {0, TaskOutput::Kind::fail_final, "two"});
  const auto results = decode_results(body);
  REQUIRE(results);
  CHECK((*results)[0].bytes == "one");
  CHECK((*results)[1].kind == TaskOutput::Kind::fail_final);
  std::string lie;
  put_result(lie, {0, TaskOutput::Kind::crashed, "x"});
  CHECK_FALSE(decode_results(lie));
  std::string many;
  for (int i = 0; i < 5000; ++i) put_result(many, {0, TaskOutput::Kind::ok, ""});
  CHECK_FALSE(decode_results(many));
}

TEST_CASE("frame reader: any cut of the stream gives the same frames; nonsense is noticed") {
  int fds[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
  std::mt19937_64 random(3);
  std::string stream;
  std::vector<std::string> bodies;
  for (int i = 0; i < 300; ++i) {
    bodies.emplace_back(random() % (i % 50 == 0 ? 300'000 : 200), static_cast<char>('a' + i % 26));
    put_frame(stream, ChildFrame::part, static_cast<uint64_t>(i), 7, bodies.back());
  }
  FrameReader reader;
  size_t seen = 0;
  std::string_view left = stream;
  while (seen < bodies.size()) {
    const size_t n = std::min<size_t>(left.size(), 1 + random() % 5000);
    if (n > 0) REQUIRE(write(fds[0], left.data(), n) == static_cast<ssize_t>(n));
    left.remove_prefix(n);
    REQUIRE(reader.fill(fds[1], MSG_DONTWAIT) != FrameReader::Got::end);
    ChildHead head;
    std::string_view body;
    while (reader.next(head, body)) {
      CHECK(head.id == seen);
      CHECK(head.index == 7);
      CHECK((body == bodies[seen]));
      ++seen;
    }
  }
  CHECK_FALSE(reader.bad());
  REQUIRE(write(fds[0], "this is no frame", 16) == 16);
  REQUIRE(reader.fill(fds[1], 0) == FrameReader::Got::bytes);
  ChildHead head;
  std::string_view body;
  CHECK_FALSE(reader.next(head, body));
  CHECK(reader.bad());
  close(fds[0]);
  CHECK(reader.fill(fds[1], 0) == FrameReader::Got::end);
  close(fds[1]);
}

TEST_CASE("line reader: cuts long lines and the budget counts what is left out") {
  LineReader reader;
  std::vector<std::string> lines;
  const auto take = [&](std::string_view line) { lines.emplace_back(line); };
  reader.feed("one\ntw", take);
  reader.feed("o\n\n" + std::string(5000, 'x'), take);
  reader.feed(std::string(5000, 'y') + "\nlast", take);
  reader.flush(take);
  REQUIRE(lines.size() == 4);
  CHECK(lines[1] == "two");
  CHECK(lines[2] == std::string(kLineBytesMax, 'x'));
  CHECK(lines[3] == "last");

  LineBudget budget;
  auto now = LineBudget::Clock::time_point(std::chrono::hours(1));
  int spent = 0;
  for (int i = 0; i < 1000; ++i) spent += budget.spend(now);
  CHECK(spent == 200);
  CHECK(budget.take_dropped() == 800);
  now += std::chrono::seconds(1);
  for (int i = 0; i < 100; ++i) spent += budget.spend(now);
  CHECK(spent == 250);
}

}  // namespace dray::worker
