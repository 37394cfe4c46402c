#include "client/demo/corpus.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace dray::demo {
namespace fs = std::filesystem;
namespace {

constexpr uintmax_t kFileBytesMax = 4 << 20;
constexpr size_t kParagraphMin = 40;
constexpr size_t kParagraphMax = 4096;

bool looks_like_text(const std::string& data) {
  return data.find('\0', 0) >= std::min<size_t>(data.size(), 4096);
}

void cut(const std::string& data, uint32_t file, Corpus& corpus, size_t max) {
  size_t at = 0;
  while (at < data.size() && corpus.paragraphs.size() < max) {
    size_t end = std::min(data.find("\n\n", at), data.size());
    size_t size = std::min(end - at, kParagraphMax);
    if (size >= kParagraphMin) {
      corpus.paragraphs.push_back({file, at, data.substr(at, size)});
      corpus.bytes += size;
    }
    at = at + size < end ? at + size : end + 2;
  }
}

std::vector<std::string> list_files(const std::vector<std::string>& folders) {
  std::vector<std::string> out;
  for (const auto& folder : folders) {
    std::error_code ec;
    auto options = fs::directory_options::skip_permission_denied;
    for (fs::recursive_directory_iterator it(folder, options, ec), end; it != end;
         it.increment(ec)) {
      if (ec) break;
      if (it->is_regular_file(ec) && !it->is_symlink(ec)) out.push_back(it->path());
    }
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace

std::vector<std::string> default_folders() {
  return {"/usr/include", "/usr/lib/gcc", "/usr/share/common-licenses", "/usr/share/doc"};
}

Corpus read_corpus(const std::vector<std::string>& folders, size_t paragraphs_max) {
  Corpus corpus;
  for (const auto& path : list_files(folders)) {
    if (corpus.paragraphs.size() >= paragraphs_max) break;
    std::error_code ec;
    uintmax_t size = fs::file_size(path, ec);
    if (ec || size == 0 || size > kFileBytesMax) continue;
    std::ifstream in(path, std::ios::binary);
    std::string data((std::istreambuf_iterator<char>(in)), {});
    if (!looks_like_text(data)) continue;
    corpus.files.push_back(path);
    cut(data, static_cast<uint32_t>(corpus.files.size() - 1), corpus, paragraphs_max);
  }
  return corpus;
}

}  // namespace dray::demo
