// dray-demo: embeds every paragraph of many files as queued tasks, kills a worker and the broker on
// the way, stores the matrix, and answers searches from it.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <unordered_map>

#include "client/demo/corpus.h"
#include "client/demo/killer.h"
#include "client/demo/matrix_file.h"
#include "client/include/dray/client.h"

namespace dray::demo {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint32_t kDim = 256;
constexpr uint32_t kTextsPerTask = 32;
constexpr uint32_t kTopK = 3;
const char* const kQueries[] = {"redistribution and use in source and binary forms",
                                "lock a mutex and unlock it when the scope ends",
                                "convert a string to an integer number",
                                "open a socket and connect to an address"};

struct Options {
  std::string endpoint;
  std::string dir;
  std::vector<std::string> folders;
  size_t paragraphs_max = 400'000;
  bool kills = true;
};

void put_u32(std::string& out, uint32_t v) { out.append(reinterpret_cast<char*>(&v), sizeof v); }
uint32_t get_u32(std::string_view in, size_t at) {
  uint32_t v = 0;
  std::memcpy(&v, in.data() + at, sizeof v);
  return v;
}

struct IdHash {
  size_t operator()(const Id& id) const { return std::hash<uint64_t>()(id.lo ^ id.hi * 31); }
};

// Collects results; called on the client's thread and by the main one.
class Collector {
 public:
  Collector(const Corpus& corpus, MatrixFile& matrix) : corpus_(corpus), matrix_(matrix) {}

  void expect(const std::vector<Id>& ids, size_t first_task) {
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < ids.size(); ++i) {
      tasks_.emplace(ids[i], first_task + i);
      auto early = early_.find(ids[i]);
      if (early == early_.end()) continue;
      store(first_task + i, early->second);
      early_.erase(early);
    }
  }
  void on_results(std::span<const ResultView> results) {
    std::lock_guard lock(mutex_);
    for (const ResultView& r : results) {
      ++ends_;
      if (!seen_.emplace(r.id, true).second) ++repeated_;
      if (r.state != State::succeeded) {
        ++failed_;
        if (error_.empty()) error_ = std::string(r.bytes);
        continue;
      }
      lost_attempts_ += r.attempt - 1;
      auto task = tasks_.find(r.id);
      if (task == tasks_.end()) {
        early_.emplace(r.id, std::string(r.bytes));
      } else {
        store(task->second, r.bytes);
      }
    }
    changed_.notify_all();
  }
  size_t wait_for(size_t ends, Millis timeout) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout, [&] { return ends_ >= ends; });
    return ends_;
  }
  size_t ends() {
    std::lock_guard lock(mutex_);
    return ends_;
  }
  std::vector<Id> ids() {
    std::lock_guard lock(mutex_);
    std::vector<Id> out;
    for (const auto& [id, task] : tasks_) out.push_back(id);
    return out;
  }
  size_t failed() const { return failed_; }
  size_t repeated() const { return repeated_; }
  size_t lost_attempts() const { return lost_attempts_; }
  const std::string& error() const { return error_; }

 private:
  void store(size_t task, std::string_view result) {
    size_t first = task * kTextsPerTask;
    size_t n = std::min<size_t>(kTextsPerTask, corpus_.paragraphs.size() - first);
    if (result.size() != 8 + n * kDim * sizeof(float) || get_u32(result, 0) != n) {
      ++failed_;
      error_ = "a result has the wrong size";
      return;
    }
    for (size_t i = 0; i < n; ++i)
      matrix_.set_row(first + i, result.data() + 8 + i * kDim * sizeof(float));
  }

  const Corpus& corpus_;
  MatrixFile& matrix_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::unordered_map<Id, size_t, IdHash> tasks_;
  std::unordered_map<Id, std::string, IdHash> early_;
  std::unordered_map<Id, bool, IdHash> seen_;
  size_t ends_ = 0;
  size_t failed_ = 0;
  size_t repeated_ = 0;
  size_t lost_attempts_ = 0;
  std::string error_;
};

void show_progress(size_t done, size_t total, Clock::time_point begin, bool last) {
  static Clock::time_point shown{};
  bool tty = isatty(STDERR_FILENO);
  auto now = Clock::now();
  if (!last && now - shown < (tty ? Millis(100) : Millis(2000))) return;
  shown = now;
  double s = std::chrono::duration<double>(now - begin).count();
  double rate = s > 0 ? static_cast<double>(done) / s : 0;
  double eta = rate > 0 ? static_cast<double>(total - done) / rate : 0;
  size_t filled = total ? done * 30 / total : 30;
  std::string bar = std::string(filled, '#') + std::string(30 - filled, '.');
  std::fprintf(stderr, "%s[%s] %zu/%zu paragraphs  %.0f/s  ETA %.0f s%s", tty ? "\r" : "",
               bar.c_str(), done, total, rate, eta, tty && !last ? "  " : "\n");
}

std::string make_payload(const Corpus& corpus, size_t task) {
  size_t first = task * kTextsPerTask;
  size_t n = std::min<size_t>(kTextsPerTask, corpus.paragraphs.size() - first);
  std::string out;
  put_u32(out, static_cast<uint32_t>(n));
  for (size_t i = 0; i < n; ++i) {
    const std::string& text = corpus.paragraphs[first + i].text;
    put_u32(out, static_cast<uint32_t>(text.size()));
    out += text;
  }
  return out;
}

struct Kill {
  const char* program;
  size_t at;  // tasks done
  int pid = 0;
};

int fail(const std::string& what) {
  std::fprintf(stderr, "dray-demo: %s\n", what.c_str());
  return 1;
}

// Submits all tasks, at most 2,000 open at a time, and strikes when it is time.
bool embed(Client& client, const Options& o, const Corpus& corpus, Collector& results,
           std::vector<Kill>& kills) {
  size_t tasks = (corpus.paragraphs.size() + kTextsPerTask - 1) / kTextsPerTask;
  auto begin = Clock::now();
  TaskOptions options;
  options.max_lost = 100;
  size_t next = 0;
  while (results.ends() < tasks) {
    size_t done = results.ends();
    for (Kill& k : kills)
      if (o.kills && k.pid == 0 && done >= k.at) {
        k.pid = kill_one(k.program, o.dir);
        std::fprintf(stderr, "\n  kill -9 %s (pid %d)\n", k.program, k.pid);
      }
    if (next < tasks && next - done < 2000) {
      std::vector<std::string> payloads;
      std::vector<std::string_view> views;
      for (size_t i = next; i < std::min(tasks, next + 64); ++i)
        payloads.push_back(make_payload(corpus, i));
      views.assign(payloads.begin(), payloads.end());
      auto ids = client.post_many("text.hash_embed", views, options, Millis(60'000));
      if (!ids) return fail("submit: " + ids.error().text()), false;
      results.expect(*ids, next);
      next += payloads.size();
    } else if (results.wait_for(done + 1, Millis(60'000)) == done) {
      return fail("no result for 60 s; see dray status --dir " + o.dir), false;
    }
    show_progress(std::min(done * kTextsPerTask, corpus.paragraphs.size()),
                  corpus.paragraphs.size(), begin, false);
  }
  show_progress(corpus.paragraphs.size(), corpus.paragraphs.size(), begin, true);
  return true;
}

std::string first_line(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\n' && out.size() > 20) break;
    out += c >= ' ' && c < 0x7f ? c : ' ';
    if (out.size() == 70) break;
  }
  return out;
}

bool search(Client& client, const Corpus& corpus) {
  std::printf("\nsearch (cosine over %zu stored vectors, vec.topk as a queued task)\n",
              corpus.paragraphs.size());
  for (const char* query : kQueries) {
    std::string payload;
    put_u32(payload, 1);
    put_u32(payload, static_cast<uint32_t>(std::strlen(query)));
    payload += query;
    auto embed_task = client.submit("text.hash_embed", payload);
    if (!embed_task) return fail("query: " + embed_task.error().text()), false;
    TaskOutcome vector = embed_task->get();
    if (!vector.ok()) return fail("query: " + vector.bytes), false;
    std::string top;
    put_u32(top, kTopK);
    std::string path = "demo.mat";
    auto length = static_cast<uint16_t>(path.size());
    top.append(reinterpret_cast<char*>(&length), sizeof length);
    top += path;
    put_u32(top, 1);
    put_u32(top, kDim);
    top += vector.bytes.substr(8);
    auto topk = client.submit("vec.topk", top);
    if (!topk) return fail("search: " + topk.error().text()), false;
    TaskOutcome hits = topk->get(Millis(60'000));
    if (!hits.ok()) return fail("search: " + hits.bytes), false;
    std::printf("\n  \"%s\"\n", query);
    for (size_t at = 0; at + 12 <= hits.bytes.size(); at += 12) {
      uint64_t row = 0;
      float score = 0;
      std::memcpy(&row, hits.bytes.data() + at, sizeof row);
      std::memcpy(&score, hits.bytes.data() + at + 8, sizeof score);
      if (row >= corpus.paragraphs.size()) return fail("search: row out of range"), false;
      const Paragraph& p = corpus.paragraphs[row];
      std::printf("    %.3f  %s\n           %s\n", static_cast<double>(score),
                  corpus.files[p.file].c_str(), first_line(p.text).c_str());
    }
  }
  return true;
}

// Every task has exactly one stored, successful result. The broker's push may be a moment ahead of
// the aggregator's store, so what is not there yet is asked for again for a few seconds.
bool count_stored(Client& client, const std::vector<Id>& ids, size_t& stored) {
  stored = 0;
  for (size_t at = 0; at < ids.size(); at += 256) {
    std::span<const Id> some(ids.data() + at, std::min<size_t>(256, ids.size() - at));
    auto found = client.fetch(some, Millis(60'000));
    if (!found) return fail("fetch: " + found.error().text()), false;
    for (const TaskOutcome& r : *found) stored += r.ok();
  }
  return true;
}

bool check_stored(Client& client, const std::vector<Id>& ids, size_t& stored) {
  for (int i = 0; i < 50; ++i) {
    if (!count_stored(client, ids, stored)) return false;
    if (stored == ids.size()) break;
    usleep(100'000);
  }
  return true;
}

int run(const Options& o) {
  std::printf("reading text files ...\n");
  Corpus corpus = read_corpus(o.folders, o.paragraphs_max);
  std::printf("%zu files, %zu paragraphs, %.1f MB\n", corpus.files.size(), corpus.paragraphs.size(),
              static_cast<double>(corpus.bytes) / 1e6);
  if (corpus.paragraphs.empty()) return fail("no text found; give a folder with --input DIR");
  auto client =
      Client::connect({.endpoint = o.endpoint, .name = "demo", .timeout = Millis(60'000)});
  if (!client) return fail(client.error().text());
  MatrixFile matrix;
  std::filesystem::create_directories(o.dir + "/data/work");
  if (!matrix.create(o.dir + "/data/work/demo.mat", kDim, corpus.paragraphs.size())) return 1;
  Collector results(corpus, matrix);
  client->on_results([&](std::span<const ResultView> r) { results.on_results(r); });
  size_t tasks = (corpus.paragraphs.size() + kTextsPerTask - 1) / kTextsPerTask;
  std::vector<Kill> kills{{"dray-worker", tasks / 4}, {"dray-broker", tasks / 2}};
  auto begin = Clock::now();
  if (!embed(*client, o, corpus, results, kills)) return 1;
  double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  if (results.failed()) return fail("a task failed: " + results.error());
  if (!matrix.publish()) return fail("cannot store the matrix");
  size_t stored = 0;
  if (!check_stored(*client, results.ids(), stored)) return 1;
  if (!search(*client, corpus)) return 1;
  auto struck = std::count_if(kills.begin(), kills.end(), [](const Kill& k) { return k.pid != 0; });
  bool exact = stored == tasks && results.repeated() == 0;
  std::printf("\nsummary\n");
  std::printf("  items                   %zu paragraphs of %zu files, in %zu tasks\n",
              corpus.paragraphs.size(), corpus.files.size(), tasks);
  std::printf("  seconds                 %.2f\n", seconds);
  std::printf("  items/s                 %.0f\n",
              static_cast<double>(corpus.paragraphs.size()) / seconds);
  std::printf("  kills survived          %ld (SIGKILL: one worker, the broker)\n",
              static_cast<long>(struck));
  std::printf("  attempts lost           %zu (run again)\n", results.lost_attempts());
  std::printf("  results committed once  %zu of %zu%s\n", stored, tasks,
              exact ? ", none twice" : "  <-- WRONG");
  return exact && (!o.kills || struck == 2) ? 0 : 1;
}

}  // namespace
}  // namespace dray::demo

int main(int argc, char** argv) {
  dray::demo::Options o;
  for (int i = 1; i < argc; ++i) {
    std::string_view arg = argv[i];
    bool has_value = i + 1 < argc;
    if (arg == "--no-kills") {
      o.kills = false;
    } else if (arg == "--endpoint" && has_value) {
      o.endpoint = argv[++i];
    } else if (arg == "--dir" && has_value) {
      o.dir = argv[++i];
    } else if (arg == "--input" && has_value) {
      o.folders.emplace_back(argv[++i]);
    } else if (arg == "--paragraphs" && has_value) {
      o.paragraphs_max = static_cast<size_t>(std::max(1L, std::atol(argv[++i])));
    } else {
      std::fprintf(stderr,
                   "usage: dray-demo --endpoint E --dir CLUSTER [--input DIR]... [--paragraphs N] "
                   "[--no-kills]\n");
      return 2;
    }
  }
  if (o.folders.empty()) o.folders = dray::demo::default_folders();
  return dray::demo::run(o);
}
