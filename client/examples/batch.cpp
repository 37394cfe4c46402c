// Bulk work: many tasks in large messages, results in batches, no future per task.
#include <dray/client.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <thread>

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

int main(int argc, char** argv) {
  const char* endpoint = argc > 1 ? argv[1] : "ipc:///run/dray/router.sock";
  const size_t total = argc > 2 ? std::stoul(argv[2]) : 100'000;
  auto client = dray::Client::connect({.endpoint = endpoint});
  if (!client) return std::fprintf(stderr, "%s\n", client.error().text().c_str()), 1;

  std::atomic<size_t> over{0}, good{0};
  client->on_results([&](std::span<const dray::ResultView> results) {
    size_t n = 0;
    for (const dray::ResultView& r : results) n += r.state == dray::State::succeeded;
    good += n;
    over += results.size();
  });

  const auto start = SteadyClock::now();
  std::vector<std::string> texts(10'000);
  for (size_t done = 0; done < total; done += texts.size()) {
    texts.resize(std::min(texts.size(), total - done));
    for (size_t i = 0; i < texts.size(); ++i) texts[i] = "item " + std::to_string(done + i);
    const std::vector<std::string_view> views(texts.begin(), texts.end());
    auto ids = client->post_many("echo", views);  // blocks while too much is on its way
    if (!ids) return std::fprintf(stderr, "%s\n", ids.error().text().c_str()), 1;
  }
  while (over < total && SteadyClock::now() - start < 10min) std::this_thread::sleep_for(1ms);
  const double seconds = std::chrono::duration<double>(SteadyClock::now() - start).count();
  std::printf("%zu tasks, %zu succeeded, %.2f s, %.0f tasks/s\n", over.load(), good.load(), seconds,
              static_cast<double>(over) / seconds);
  return good == total ? 0 : 1;
}
