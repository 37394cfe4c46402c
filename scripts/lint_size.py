#!/usr/bin/env python3
"""Checks sizes: a function has at most 70 lines, a file 500 (800 under tests/).

usage: scripts/lint_size.py [--all] [file...]      default: every .h and .cpp git knows or would add
  --all   list the ten largest files and functions
"""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_MAX = 70
FILE_MAX = 500
TEST_FILE_MAX = 800

NOISE = re.compile(
    r'R"([^()\\\s]{0,16})\(.*?\)\1"'   # raw string
    r'|//[^\n]*|/\*.*?\*/'             # comments
    r'|"(?:\\.|[^"\\\n])*"'            # string
    r"|(?<![0-9A-Za-z_])'(?:\\.|[^'\\\n])+'"  # character, not a digit separator
    r'|^[ \t]*\#(?:\\\n|[^\n])*',      # preprocessor line
    re.DOTALL | re.MULTILINE)
SCOPE = re.compile(r"^(?:template\s*<.*>\s*)?(?:inline\s+|typedef\s+)*"
                   r"(?:namespace|class|struct|union|enum|extern)\b", re.DOTALL)
BRACE_INIT = re.compile(r"\)[^{};]*(?<!:):(?!:)[^{};]*[\w>]\s*$", re.DOTALL)  # Foo() : member_{...


def blank(match):
    """Same length and lines, no code: the kind of quote keeps `f("x")` a call with an argument."""
    return re.sub(r"[^\n]", " ", match.group(0))


def opens_function(header):
    header = header.strip()
    # An access label or a macro line before the signature is not part of it.
    header = re.sub(r"^(?:public|private|protected)\s*:", "", header).strip()
    if ")" not in header:
        return False
    if SCOPE.match(header) and not re.search(r"\)\s*(?:const|noexcept|override|final|\s)*$", header):
        return False
    before_parenthesis = header.split("(", 1)[0]
    if re.search(r"(?<!operator)=(?!=)", before_parenthesis) and "operator" not in before_parenthesis:
        return False
    return not BRACE_INIT.search(header)


def functions(text):
    """Yields (first line, line count, name) of every outermost function body."""
    code = NOISE.sub(blank, text)
    depth_in_function = 0
    header_start = 0
    signature = ""
    first = 0
    for found in re.finditer(r"[{};]", code):
        position, mark = found.start(), found.group(0)
        if depth_in_function:
            depth_in_function += {"{": 1, "}": -1, ";": 0}[mark]
            if depth_in_function == 0:
                last = code.count("\n", 0, position) + 1
                yield first, last - first + 1, signature
                header_start = position + 1
            continue
        if mark == "{":
            header = code[header_start:position]
            if opens_function(header):
                depth_in_function = 1
                lead = len(header) - len(header.lstrip())
                first = code.count("\n", 0, header_start + lead) + 1
                names = re.findall(r"([~\w:]+)\s*\(", header)
                signature = names[0] if names else "?"
                continue
            if BRACE_INIT.search(header):
                continue  # the header goes on after the initialiser
        header_start = position + 1


def main(arguments):
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    show_all = "--all" in arguments
    paths = [a for a in arguments if a != "--all"] or [p for p in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.h", "*.cpp"],
        cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        if (ROOT / p).is_file()]
    files, bodies, problems = [], [], []
    for path in paths:
        text = (ROOT / path).read_text()
        lines = text.count("\n")
        limit = TEST_FILE_MAX if path.startswith("tests/") else FILE_MAX
        files.append((lines, path))
        if lines > limit:
            problems.append(f"{path}:1: file has {lines} lines, limit {limit}")
        for first, length, name in functions(text):
            bodies.append((length, f"{path}:{first} {name}"))
            if length > FUNCTION_MAX:
                problems.append(f"{path}:{first}: {name} has {length} lines, limit {FUNCTION_MAX}")
    for problem in problems:
        print(problem)
    top = 10 if show_all else 1
    for length, where in sorted(files, reverse=True)[:top] + sorted(bodies, reverse=True)[:top] if show_all else []:
        print(f"{length:5} {where}")
    if not problems:
        largest_file, largest_body = max(files, default=(0, "-")), max(bodies, default=(0, "-"))
        print(f"sizes: ok ({len(files)} files, {len(bodies)} functions; largest {largest_file[0]} "
              f"{largest_file[1]}, {largest_body[0]} {largest_body[1]})")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
