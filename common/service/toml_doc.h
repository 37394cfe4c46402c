// TomlDoc: a TOML file as a document, with the line of every field, for files that are no settings
// of ours (config.h reads those).
#pragma once

#include <map>
#include <string>

#include "common/base/result.h"
#include "common/wire/doc.h"

namespace dray {

struct TomlDoc {
  Doc doc;
  std::map<std::string, int> lines;  // by path, such as "deployment.app.gpus" or "a.list.0.x"
  // The line of a field, or of the nearest thing around it that has one; 0: none.
  int line_of(const std::string& path) const;
};

// The error names the line. Dates are refused; the file may have 1 MiB.
Result<TomlDoc> read_toml(const std::string& path);

}  // namespace dray
