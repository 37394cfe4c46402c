// text.hash_embed: texts to unit vectors by signed feature hashing of character n-grams.
//
// Payload  u32 count, then count times: u32 length, that many bytes of text (UTF-8, not checked).
// Result   u32 count, u32 dim (= 256), then count * dim float32. All numbers little-endian.
//          At most 4 MiB of result: 4095 texts a task.
//
// The vector of a text, exactly:
//  1. Bytes A-Z become a-z. A word is a longest run of bytes that are a-z, 0-9 or >= 0x80.
//  2. Each word gets a '^' in front and a '$' behind. Its features are all byte strings of length
//     3, 4 and 5 in the marked word and, when the marked word is longer than 5, the marked word
//     itself. ("ab" -> "^ab" "ab$" "^ab$".) A feature is counted as often as it occurs.
//  3. h(feature): FNV-1a 64 over its bytes (start 0xcbf29ce484222325; per byte: h ^= byte, then
//     h *= 0x100000001b3), then the splitmix64 finaliser: h ^= h >> 30, h *= 0xbf58476d1ce4e5b9,
//     h ^= h >> 27, h *= 0x94d049bb133111eb, h ^= h >> 31. All modulo 2^64.
//  4. id = h mod 2^16; features with the same id are the same feature. tf(id) is its count.
//  5. v[id mod 256] += s * (1 + ln tf(id)), s = +1 if bit 8 of id is 0, else -1; in float64.
//  6. v is divided by its Euclidean length and rounded to float32. A text without words, or one
//     whose sums all cancel, is the zero vector.
//
// Test vectors: README.md.
#include <dray/worker.h>

#include <cmath>

#include "payload.h"

namespace {

constexpr uint32_t kDim = 256;
constexpr size_t kIds = 65536;
constexpr uint64_t kFnvStart = 0xcbf29ce484222325ULL;
constexpr uint64_t kFnvPrime = 0x100000001b3ULL;

// The letter a byte stands for inside a word, 0 for a byte between words.
constexpr std::array<uint8_t, 256> make_letters() {
  std::array<uint8_t, 256> letters{};
  for (size_t b = 0; b < 256; ++b) {
    const bool upper = b >= 'A' && b <= 'Z';
    const bool word = upper || (b >= 'a' && b <= 'z') || (b >= '0' && b <= '9') || b >= 0x80;
    if (word) letters[b] = static_cast<uint8_t>(upper ? b + ('a' - 'A') : b);
  }
  return letters;
}
constexpr std::array<uint8_t, 256> kLetters = make_letters();

constexpr uint64_t step(uint64_t h, uint8_t byte) { return (h ^ byte) * kFnvPrime; }

constexpr uint16_t feature_id(uint64_t h) {
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
  return static_cast<uint16_t>(h ^ (h >> 31));
}

class Embedder {
 public:
  Embedder() : counts_(kIds, 0), weights_(kWeights) {
    seen_.reserve(kIds);
    for (size_t tf = 1; tf < kWeights; ++tf) weights_[tf] = 1 + std::log(static_cast<double>(tf));
  }

  void embed(std::string_view text, char* out) {
    marked_.resize(text.size() + 2);
    size_t pos = 0;
    while (pos < text.size()) {
      size_t size = 1;
      while (pos < text.size()) {
        const uint8_t letter = kLetters[static_cast<uint8_t>(text[pos++])];
        if (letter == 0) break;
        marked_[size++] = letter;
      }
      if (size == 1) continue;
      marked_[0] = '^';
      marked_[size++] = '$';
      count_word(size);
    }
    write(out);
  }

 private:
  void count_word(size_t size) {
    const uint8_t* word = marked_.data();
    for (size_t i = 0; i + 3 <= size; ++i) {
      uint64_t h = step(step(step(kFnvStart, word[i]), word[i + 1]), word[i + 2]);
      count(h);
      if (i + 4 > size) break;
      count(h = step(h, word[i + 3]));
      if (i + 5 <= size) count(step(h, word[i + 4]));
    }
    if (size <= 5) return;
    uint64_t whole = kFnvStart;
    for (size_t i = 0; i < size; ++i) whole = step(whole, word[i]);
    count(whole);
  }

  void count(uint64_t h) {
    const uint16_t id = feature_id(h);
    if (counts_[id]++ == 0) seen_.push_back(id);
  }

  double weight(uint32_t tf) const {
    return tf < kWeights ? weights_[tf] : 1 + std::log(static_cast<double>(tf));
  }

  void write(char* out) {
    std::array<double, kDim> v{};
    for (const uint16_t id : seen_) {
      const double w = weight(counts_[id]);
      v[id % kDim] += (id & kDim) == 0 ? w : -w;
      counts_[id] = 0;
    }
    seen_.clear();
    double square = 0;
    for (const double x : v) square += x * x;
    const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
    for (const double x : v) out = dray_tasks::put(out, static_cast<float>(x * scale));
  }

  static constexpr size_t kWeights = 256;
  std::vector<uint32_t> counts_;  // tf by id; all zero between texts
  std::vector<uint16_t> seen_;  // ids with tf > 0, in order of first sight
  std::vector<double> weights_;
  std::vector<uint8_t> marked_;
};

// Walks the payload; visits each text. Called twice, so that nothing is done for a malformed one.
template <class Visit>
uint32_t for_each_text(std::string_view payload, Visit&& visit) {
  dray_tasks::Reader in(payload);
  const auto count = in.number<uint32_t>("count");
  if (count > in.left() / 4)
    throw dray::FinalError("text.hash_embed: count is larger than the payload can hold");
  for (uint32_t i = 0; i < count; ++i) visit(in.bytes(in.number<uint32_t>("a length"), "a text"));
  in.end();
  return count;
}

dray::Outcome hash_embed(dray::Context& ctx) {
  const uint32_t count = for_each_text(ctx.payload(), [](std::string_view) {});
  char* out = ctx.result_buffer(8 + size_t{count} * kDim * sizeof(float));
  out = dray_tasks::put(dray_tasks::put(out, count), kDim);
  static thread_local Embedder embedder;
  for_each_text(ctx.payload(), [&](std::string_view text) {
    if (ctx.cancelled()) throw std::runtime_error("cancelled");
    embedder.embed(text, out);
    out += kDim * sizeof(float);
  });
  return dray::ok();
}

}  // namespace

DRAY_HANDLER("text.hash_embed", hash_embed);
