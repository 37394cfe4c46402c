// Corpus: the text files under some folders, cut into paragraphs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dray::demo {

struct Paragraph {
  uint32_t file = 0;  // index into Corpus::files
  uint64_t offset = 0;  // in that file
  std::string text;
};

struct Corpus {
  std::vector<std::string> files;
  std::vector<Paragraph> paragraphs;
  uint64_t bytes = 0;
};

// Folders with the C and C++ headers and licence texts that a Debian machine has.
std::vector<std::string> default_folders();

// Reads every text file (no NUL in its first 4 KiB, at most 4 MiB), in the order of its path, and
// cuts it at empty lines. Paragraphs shorter than 40 bytes are dropped, longer than 4 KiB cut.
Corpus read_corpus(const std::vector<std::string>& folders, size_t paragraphs_max);

}  // namespace dray::demo
