// The completion script for bash, from the tree of commands.
#include <CLI/CLI.hpp>

#include "client/console/commands.h"

namespace dray::console {
namespace {

std::vector<std::string> options_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
    for (const auto& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

// One case per command: "path) words=...;;".
void add_cases(const CLI::App& app, const std::string& path, const std::string& global,
               std::string& out, std::string& paths) {
  std::string words;
  const auto is_shown = [](const CLI::App* sub) { return !sub->get_group().empty(); };
  for (const CLI::App* sub : app.get_subcommands(is_shown)) words += sub->get_name() + " ";
  for (const auto& name : options_of(app)) words += name + " ";
  out += "    '" + path + "') words='" + words + global + "' ;;\n";
  for (const CLI::App* sub : app.get_subcommands(is_shown)) {
    const std::string next = path.empty() ? sub->get_name() : path + " " + sub->get_name();
    paths += "|" + next;
    add_cases(*sub, next, global, out, paths);
  }
}

}  // namespace

std::string bash_completion(const CLI::App& root) {
  std::string global, cases, paths;
  for (const auto& name : options_of(root)) global += name + " ";
  add_cases(root, "", global, cases, paths);
  return "# bash completion of dray; source <(dray completion bash)\n"
         "_dray() {\n"
         "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path='' word "
         "next\n"
         "  local words='' paths='" +
         paths +
         "|'\n"
         "  case $prev in\n"
         "    -o|--output) COMPREPLY=($(compgen -W 'table wide json' -- \"$cur\")); return ;;\n"
         "    --dir) COMPREPLY=($(compgen -d -- \"$cur\")); return ;;\n"
         "  esac\n"
         "  if [[ $cur == @* ]]; then\n"
         "    COMPREPLY=($(compgen -P @ -f -- \"${cur#@}\")); return\n"
         "  fi\n"
         "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
         "    next=${path:+$path }$word\n"
         "    [[ $paths == *\"|$next|\"* ]] && path=$next\n"
         "  done\n"
         "  case $path in\n" +
         cases +
         "  esac\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "}\n"
         "complete -o default -F _dray dray\n";
}

}  // namespace dray::console
