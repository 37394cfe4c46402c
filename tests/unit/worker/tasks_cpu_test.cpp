// Tests of the CPU kernels: embed against an independent version, topk and gemm against naive ones,
// and random damage to every payload.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <thread>

#include "common/base/ids.h"
#include "services/worker/shell/plugin_host.h"

namespace dray {
namespace {

using Kind = TaskOutput::Kind;
namespace fs = std::filesystem;

struct Rng {
  explicit Rng(uint64_t seed) : engine(seed) {}
  uint64_t below(uint64_t n) { return engine() % n; }
  std::mt19937_64 engine;
};

struct Rig {
  Rig() : dir(fs::temp_directory_path() / ("dray_tasks_cpu_" + std::to_string(getpid()))) {
    fs::create_directories(dir);
    host = std::make_unique<PluginHost>(PluginOptions{.data_dir = dir});
    const auto lib = fs::read_symlink("/proc/self/exe").parent_path().parent_path();
    REQUIRE(host->load(lib / "lib/dray/plugins/dray_tasks_cpu.so"));
    REQUIRE(host->load(lib / "lib/dray/plugins/dray_tasks_basic.so"));
  }
  ~Rig() { fs::remove_all(dir); }
  TaskOutput run(std::string_view handler, std::string_view payload, TaskView task = {}) {
    task.payload = payload;
    TaskOutput out;
    host->run(*host->find(handler), task, out);
    return out;
  }
  fs::path dir;
  std::unique_ptr<PluginHost> host;
};

template <class T>
void put(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
template <class T>
T get(std::string_view from, size_t offset) {
  T value;
  REQUIRE(offset + sizeof(T) <= from.size());
  std::memcpy(&value, from.data() + offset, sizeof(T));
  return value;
}
void put_floats(std::string& to, const std::vector<float>& values) {
  to.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}
std::vector<float> random_floats(Rng& rng, size_t count) {
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(rng.below(2001)) / 1000.0f - 1.0f;
  return values;
}

std::string embed_payload(const std::vector<std::string>& texts) {
  std::string payload;
  put(payload, static_cast<uint32_t>(texts.size()));
  for (const auto& text : texts) {
    put(payload, static_cast<uint32_t>(text.size()));
    payload += text;
  }
  return payload;
}

// The rules of embed.cpp, written again from its comment in the slow and obvious way.
std::vector<double> naive_embed(std::string text) {
  std::vector<std::string> words(1);
  for (char c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c & 0x80) != 0;
    if (word)
      words.back() += c;
    else
      words.emplace_back();
  }
  std::map<uint64_t, double> tf;
  const auto count = [&](const std::string& feature) {
    uint64_t h = 0xcbf29ce484222325ULL;
    for (char c : feature) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
    tf[mix64(h) % 65536] += 1;
  };
  for (const auto& word : words) {
    if (word.empty()) continue;
    const std::string marked = "^" + word + "$";
    for (size_t n = 3; n <= 5; ++n)
      for (size_t i = 0; i + n <= marked.size(); ++i) count(marked.substr(i, n));
    if (marked.size() > 5) count(marked);
  }
  std::vector<double> v(256, 0.0);
  for (const auto& [id, c] : tf) v[id % 256] += (id / 256 % 2 == 0 ? 1 : -1) * (1 + std::log(c));
  double square = 0;
  for (const double x : v) square += x * x;
  for (double& x : v) x = square > 0 ? x / std::sqrt(square) : 0;
  return v;
}

std::string random_text(Rng& rng, size_t size) {
  std::string text;
  while (text.size() < size) {
    const uint64_t kind = rng.below(20);
    if (kind < 3)
      text += ' ';
    else if (kind == 3)
      text += static_cast<char>(rng.below(256));
    else
      text += static_cast<char>((kind == 4 ? 'A' : 'a') + static_cast<int>(rng.below(26)));
  }
  return text;
}

void write_matrix(const fs::path& path, uint32_t dim, const std::vector<float>& values) {
  std::string file = "DRAYMAT1";
  put(file, dim);
  put(file, uint64_t{values.size() / dim});
  put_floats(file, values);
  std::ofstream(path, std::ios::binary) << file;
}

std::string topk_payload(uint32_t k, const std::string& path, uint32_t dim,
                         const std::vector<float>& queries) {
  std::string payload;
  put(payload, k);
  put(payload, static_cast<uint16_t>(path.size()));
  payload += path;
  put(payload, static_cast<uint32_t>(queries.size() / dim));
  put(payload, dim);
  put_floats(payload, queries);
  return payload;
}

double cosine(const float* a, const float* b, uint32_t dim) {
  double dot = 0, aa = 0, bb = 0;
  for (uint32_t i = 0; i < dim; ++i) {
    dot += double{a[i]} * double{b[i]};
    aa += double{a[i]} * double{a[i]};
    bb += double{b[i]} * double{b[i]};
  }
  return aa > 0 && bb > 0 ? dot / std::sqrt(aa * bb) : 0;
}

std::string gemm_payload(uint32_t m, uint32_t n, uint32_t k, const std::vector<float>& a,
                         const std::vector<float>& b) {
  std::string payload;
  put(payload, m);
  put(payload, n);
  put(payload, k);
  put_floats(payload, a);
  put_floats(payload, b);
  return payload;
}

// Flips, cuts, grows and overwrites some bytes.
std::string mutate(Rng& rng, std::string bytes) {
  for (uint64_t i = rng.below(4) + 1; i > 0; --i) {
    const uint64_t kind = rng.below(5);
    const size_t at = rng.below(bytes.size() + 1);
    if (kind == 0) bytes.resize(at);
    if (kind == 1) bytes.insert(at, rng.below(9), static_cast<char>(rng.below(256)));
    if (kind == 2 && at < bytes.size()) bytes[at] = static_cast<char>(rng.below(256));
    if (kind == 3 && at + 4 <= bytes.size()) {
      const uint32_t values[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff};
      std::memcpy(&bytes[at], &values[rng.below(5)], 4);
    }
    if (kind == 4 && !bytes.empty()) bytes[rng.below(std::min<size_t>(16, bytes.size()))] ^= 1;
  }
  return bytes;
}

}  // namespace

TEST_CASE("text.hash_embed agrees with its description") {
  Rig rig;
  Rng rng(1);
  std::vector<std::string> texts = {"",
                                    "a",
                                    "The quick brown fox",
                                    "na\xc3\xafve caf\xc3\xa9",
                                    "  ..  ",
                                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
  for (size_t i = 0; i < 60; ++i) texts.push_back(random_text(rng, rng.below(3000)));
  texts.push_back(random_text(rng, 300'000));
  texts.push_back(std::string(5000, 'z'));  // tf above the table of weights
  const auto out = rig.run("text.hash_embed", embed_payload(texts));
  REQUIRE(out.kind == Kind::ok);
  REQUIRE(out.bytes.size() == 8 + texts.size() * 1024);
  CHECK(get<uint32_t>(out.bytes, 0) == texts.size());
  CHECK(get<uint32_t>(out.bytes, 4) == 256);
  double worst = 0;
  for (size_t t = 0; t < texts.size(); ++t) {
    const auto expected = naive_embed(texts[t]);
    for (size_t i = 0; i < 256; ++i)
      worst = std::max(
          worst, std::abs(expected[i] - double{get<float>(out.bytes, 8 + (t * 256 + i) * 4)}));
  }
  CHECK(worst < 1e-6);
}

TEST_CASE("text.hash_embed: the test vectors of tasks/cpu/README.md") {
  struct Vector {
    const char* text;
    std::map<size_t, float> nonzero;
  };
  const Vector vectors[] = {
      {"a", {{237, -1.0f}}},
      {"GPU bus",
       {{52, -0.2886751f},
        {55, -0.2886751f},
        {62, 0.2886751f},
        {66, -0.2886751f},
        {94, 0.2886751f},
        {99, -0.2886751f},
        {106, -0.2886751f},
        {113, -0.2886751f},
        {132, 0.2886751f},
        {205, -0.2886751f},
        {208, 0.2886751f},
        {252, -0.2886751f}}},
      {"na\xc3\xafve a-a-a",
       {{67, -0.2213811f},
        {69, 0.2213811f},
        {72, -0.2213811f},
        {90, -0.2213811f},
        {92, 0.2213811f},
        {100, 0.2213811f},
        {117, 0.2213811f},
        {142, -0.2213811f},
        {151, -0.2213811f},
        {171, -0.2213811f},
        {176, -0.2213811f},
        {181, -0.2213811f},
        {190, 0.2213811f},
        {202, -0.2213811f},
        {220, 0.2213811f},
        {237, -0.4645930f},
        {254, -0.2213811f}}},
  };
  Rig rig;
  for (const Vector& v : vectors) {
    INFO(v.text);
    const auto out = rig.run("text.hash_embed", embed_payload({v.text}));
    for (size_t i = 0; i < 256; ++i) {
      INFO(i);
      const auto it = v.nonzero.find(i);
      CHECK(get<float>(out.bytes, 8 + i * 4) ==
            Approx(it == v.nonzero.end() ? 0.0f : it->second).margin(1e-6));
    }
  }
}

TEST_CASE("text.hash_embed: like texts are near") {
  Rig rig;
  const auto out = rig.run("text.hash_embed",
                           embed_payload({"how do I reset my password", "password reset how to",
                                          "pasta with tomato and basil"}));
  const auto* v = reinterpret_cast<const float*>(out.bytes.data() + 8);
  CHECK(cosine(v, v + 256, 256) > 0.4);
  CHECK(cosine(v, v + 512, 256) < 0.2);
}

TEST_CASE("vec.topk agrees with the naive search") {
  Rig rig;
  Rng rng(2);
  for (const auto& [rows, dim, nq, k] :
       {std::array<uint32_t, 4>{1, 1, 1, 1}, {10, 3, 2, 20}, {5000, 17, 1, 9}, {9000, 32, 5, 40}}) {
    auto matrix = random_floats(rng, size_t{rows} * dim);
    if (rows > 5) std::fill_n(matrix.begin(), dim, 0.0f);  // row 0 has no direction
    const auto queries = random_floats(rng, size_t{nq} * dim);
    const std::string name = "m" + std::to_string(rows);
    write_matrix(rig.dir / name, dim, matrix);
    const auto out = rig.run("vec.topk", topk_payload(k, name, dim, queries));
    INFO(out.text);
    REQUIRE(out.kind == Kind::ok);
    const size_t found = std::min(k, rows);
    REQUIRE(out.bytes.size() == nq * found * 12);
    for (uint32_t q = 0; q < nq; ++q) {
      std::vector<double> scores;
      for (uint32_t r = 0; r < rows; ++r)
        scores.push_back(cosine(&queries[size_t{q} * dim], &matrix[size_t{r} * dim], dim));
      auto sorted = scores;
      std::sort(sorted.rbegin(), sorted.rend());
      for (size_t i = 0; i < found; ++i) {
        const size_t at = (q * found + i) * 12;
        const auto row = get<uint64_t>(out.bytes, at);
        const double score = double{get<float>(out.bytes, at + 8)};
        REQUIRE(row < rows);
        CHECK(score == Approx(sorted[i]).margin(1e-5));
        CHECK(score == Approx(scores[row]).margin(1e-5));
      }
    }
  }
}

TEST_CASE("vec.topk: ties, rewritten files, many files") {
  Rig rig;
  write_matrix(rig.dir / "m", 2, {1, 0, 0, 1, 2, 0, 1, 0});
  const auto payload = topk_payload(3, "m", 2, {5, 0});
  auto out = rig.run("vec.topk", payload);
  REQUIRE(out.bytes.size() == 36);
  CHECK(get<uint64_t>(out.bytes, 0) == 0);
  CHECK(get<uint64_t>(out.bytes, 12) == 2);
  CHECK(get<uint64_t>(out.bytes, 24) == 3);
  write_matrix(rig.dir / "m.new", 2, {0, 1, 1, 1, 1, 0});
  fs::rename(rig.dir / "m.new", rig.dir / "m");
  out = rig.run("vec.topk", payload);
  CHECK(get<uint64_t>(out.bytes, 0) == 2);
  fs::create_directory(rig.dir / "sub");
  for (float i = 1; i < 30; ++i) {
    const std::string name = "sub/f" + std::to_string(static_cast<int>(i));
    write_matrix(rig.dir / name, 1, {i, -i});
    CHECK(rig.run("vec.topk", topk_payload(1, name, 1, {1})).kind == Kind::ok);
  }
  const float nan = std::nanf("");
  write_matrix(rig.dir / "nan", 1, {nan, -1, 1});
  out = rig.run("vec.topk", topk_payload(3, "nan", 1, {1}));
  CHECK(get<uint64_t>(out.bytes, 0) == 2);
  CHECK(get<uint64_t>(out.bytes, 12) == 0);
  CHECK(get<float>(out.bytes, 20) == 0.0f);
  out = rig.run("vec.topk", topk_payload(3, "nan", 1, {nan}));
  CHECK(get<float>(out.bytes, 8) == 0.0f);
}

TEST_CASE("kernels run in many threads at the same time") {
  Rig rig;
  Rng rng(7);
  write_matrix(rig.dir / "m", 8, random_floats(rng, 8 * 500));
  const std::pair<const char*, std::string> work[] = {
      {"text.hash_embed", embed_payload({random_text(rng, 500)})},
      {"vec.topk", topk_payload(5, "m", 8, random_floats(rng, 16))},
      {"linalg.gemm", gemm_payload(9, 9, 9, random_floats(rng, 81), random_floats(rng, 81))},
  };
  std::vector<std::string> expected;
  for (const auto& [name, payload] : work) expected.push_back(rig.run(name, payload).bytes);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < 600; ++i)
        wrong += rig.run(work[i % 3].first, work[i % 3].second).bytes != expected[i % 3];
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("vec.topk refuses what it can not serve") {
  Rig rig;
  write_matrix(rig.dir / "m", 2, {1, 0});
  for (const char* path : {"", "/etc/passwd", "../m", "a/../m", "./m", "m/", "a//m", ".."}) {
    INFO(path);
    CHECK(rig.run("vec.topk", topk_payload(1, path, 2, {1, 0})).kind == Kind::fail_final);
  }
  CHECK(rig.run("vec.topk", topk_payload(1, std::string("m\0", 2), 2, {1, 0})).kind ==
        Kind::fail_final);
  CHECK(rig.run("vec.topk", topk_payload(1, "absent", 2, {1, 0})).kind == Kind::fail);
  CHECK(rig.run("vec.topk", topk_payload(0, "m", 2, {1, 0})).kind == Kind::fail_final);
  CHECK(rig.run("vec.topk", topk_payload(65537, "m", 2, {1, 0})).kind == Kind::fail_final);
  CHECK(rig.run("vec.topk", topk_payload(1, "m", 1, {1, 0})).text ==
        "vec.topk: queries have dim 1, the matrix has 2");
  CHECK(rig.run("vec.topk", topk_payload(1, "m", 2, {1, 0}) + "x").kind == Kind::fail_final);
  CHECK(rig.run("vec.topk", topk_payload(1, "m", 2, {})).bytes.empty());
  fs::create_directory(rig.dir / "folder");
  CHECK(rig.run("vec.topk", topk_payload(1, "folder", 2, {1, 0})).kind == Kind::fail_final);
  Rng rng(3);
  std::string good = "DRAYMAT1";
  put(good, uint32_t{2});
  put(good, uint64_t{1});
  put_floats(good, {1, 0});
  for (int i = 0; i < 300; ++i) {
    const std::string bad = mutate(rng, good);
    std::ofstream(rig.dir / "bad.new", std::ios::binary) << bad;
    fs::rename(rig.dir / "bad.new", rig.dir / "bad");
    const auto out = rig.run("vec.topk", topk_payload(1, "bad", 2, {1, 0}));
    if (bad.substr(0, 20) != good.substr(0, 20) || bad.size() != good.size())
      CHECK(out.kind == Kind::fail_final);
  }
}

TEST_CASE("linalg.gemm agrees with the naive product") {
  Rig rig;
  Rng rng(4);
  for (const auto& [m, n, k] :
       {std::array<uint32_t, 3>{1, 1, 1}, {3, 5, 7}, {64, 33, 100}, {2, 3, 0}, {0, 3, 2}}) {
    const auto a = random_floats(rng, size_t{m} * k);
    const auto b = random_floats(rng, size_t{k} * n);
    const auto out = rig.run("linalg.gemm", gemm_payload(m, n, k, a, b));
    REQUIRE(out.kind == Kind::ok);
    REQUIRE(out.bytes.size() == size_t{m} * n * 4);
    for (uint32_t i = 0; i < m; ++i) {
      for (uint32_t j = 0; j < n; ++j) {
        double sum = 0;
        for (uint32_t l = 0; l < k; ++l) sum += double{a[i * k + l]} * double{b[l * n + j]};
        CHECK(double{get<float>(out.bytes, (i * n + j) * 4)} == Approx(sum).margin(1e-4));
      }
    }
  }
  CHECK(rig.run("linalg.gemm", gemm_payload(1 << 20, 1 << 20, 0, {}, {})).kind == Kind::fail_final);
  CHECK(rig.run("linalg.gemm", gemm_payload(1 << 21, 0, 0, {}, {})).kind == Kind::fail_final);
  CHECK(rig.run("linalg.gemm", gemm_payload(2, 2, 2, {1, 2}, {})).kind == Kind::fail_final);
}

TEST_CASE("no payload, however damaged, does harm") {
  Rig rig;
  Rng rng(5);
  write_matrix(rig.dir / "m", 3, random_floats(rng, 30));
  const std::pair<const char*, std::string> seeds[] = {
      {"echo", "hello"},
      {"noop", ""},
      {"sleep", "12"},
      {"fail", "3:text"},
      {"text.hash_embed", embed_payload({"hello world", "", "Zwei \xc3\x9c\xc3\x9c"})},
      {"vec.topk", topk_payload(4, "m", 3, random_floats(rng, 6))},
      {"linalg.gemm", gemm_payload(2, 3, 2, random_floats(rng, 4), random_floats(rng, 6))},
  };
  const std::atomic<bool> cancelled{true};
  TaskView stop_at_once;
  stop_at_once.cancelled = &cancelled;
  for (const auto& [name, seed] : seeds) {
    size_t refused = 0;
    for (int i = 0; i < 20'000; ++i) {
      const std::string payload = mutate(rng, seed);
      const bool sleeps = std::string_view(name) == "sleep";
      const auto out = rig.run(name, payload, sleeps ? stop_at_once : TaskView{});
      if (out.kind != Kind::ok && (out.text.empty() || !out.bytes.empty())) FAIL(name);
      refused += out.kind == Kind::fail_final;
    }
    INFO(name << " refused " << refused);
    if (std::string_view(name).find('.') != std::string_view::npos) CHECK(refused > 5'000);
  }
}

TEST_CASE("speed of the kernels", "[.bench]") {
  Rig rig;
  Rng rng(6);
  const auto timed = [&](const char* name, const std::string& payload, int runs, auto&& report) {
    rig.run(name, payload);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < runs; ++i) REQUIRE(rig.run(name, payload).kind == Kind::ok);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    report(took.count() / runs);
  };
  for (const size_t size : {size_t{100}, size_t{1000}, size_t{20'000}, size_t{1'000'000}}) {
    std::vector<std::string> texts;
    for (size_t total = 0; total < 1'000'000; total += size)
      texts.push_back(random_text(rng, size));
    if (texts.size() > 4000) texts.resize(4000);
    const auto bytes = static_cast<double>(size * texts.size());
    timed("text.hash_embed", embed_payload(texts), 20, [&](double s) {
      std::cout << "embed, texts of " << size << ": " << bytes / s / 1e6 << " MB/s\n";
    });
  }
  write_matrix(rig.dir / "m", 256, random_floats(rng, 256 * 100'000));
  for (const size_t nq : {size_t{1}, size_t{64}}) {
    timed("vec.topk", topk_payload(10, "m", 256, random_floats(rng, 256 * nq)), 20, [&](double s) {
      std::cout << "topk 100k x 256, nq " << nq << ": " << s * 1e3 << " ms, "
                << 2 * 256e5 * static_cast<double>(nq) / s / 1e9 << " GFlop/s\n";
    });
  }
  const auto a = random_floats(rng, 512 * 512);
  timed("linalg.gemm", gemm_payload(512, 512, 512, a, a), 50, [&](double s) {
    std::cout << "gemm 512: " << s * 1e3 << " ms, " << 2 * 512.0 * 512 * 512 / s / 1e9
              << " GFlop/s\n";
  });
}

}  // namespace dray
