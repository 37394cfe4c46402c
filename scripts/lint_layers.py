#!/usr/bin/env python3
"""Checks the layer rule on #include lines: which box may know which other box and library.

usage: scripts/lint_layers.py [file...]      default: every .h and .cpp git knows or would add
"""
import fnmatch
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# First match wins. (folder pattern, project folders it may include besides its own).
# The boxes marked PURE may also use no system header that reaches a clock, a thread or a file.
ANY_COMMON = ["common/*"]
BOXES = [
    ("common/base", []),
    ("common/wire", ["common/base"]),
    ("common/resources", ["common/base", "common/wire"]),
    ("common/deploy", ["common/base", "common/wire", "common/resources"]),
    ("common/gpu", ["common/base"]),
    ("common/journal", ["common/base"]),
    ("common/net", ["common/base", "common/wire"]),
    ("common/service", ANY_COMMON),
    ("broker/core", ["common/base", "common/wire", "common/resources"]),
    ("broker/shell", ["broker/*"] + ANY_COMMON),
    ("broker", ["broker/*"] + ANY_COMMON),
    ("services/aggregator/store", ["common/base"]),
    # The store's interface and its memory twin do no I/O; the core reads through it.
    ("services/aggregator/core", ["common/base", "common/wire", "services/aggregator/store"]),
    ("services/balancer/core", ["common/base", "common/wire", "common/resources", "common/deploy"]),
    ("services/*/core", ["common/base", "common/wire", "common/resources"]),
    ("services/*", ["client/include/dray"] + ANY_COMMON),  # plus its own service, see own_root
    ("client/core", ["common/base", "common/wire", "common/resources"]),
    ("client/*", ["client", "client/*"] + ANY_COMMON),
    ("tasks/*", ["client/include/dray"] + ANY_COMMON),
    ("tests", ["*"]),
    ("tests/*", ["*"]),
]
PURE = ["common/wire", "common/resources", "common/deploy", "broker/core", "services/*/core", "client/core"]
PURE_LIBRARIES = ["tsl/*", "xxhash.h", "*intrin.h", "msgpack*"]
IMPURE_STD = {"condition_variable", "filesystem", "fstream", "future", "iostream", "mutex",
              "semaphore", "shared_mutex", "stop_token", "thread", "ctime", "csignal"}

# Heavy or foreign libraries: (include pattern, files that may name it, why).
LIBRARIES = [
    ("msgpack*", ["common/wire/*.cpp", "common/wire/*.h"], "msgpack stays inside common/wire"),
    ("zmq*", ["common/net/*"], "sockets are common/net's business"),
    ("rocksdb/*", ["services/aggregator/store/*"], "RocksDB stays behind ResultStore"),
    ("toml++/*", ["common/service/config.cpp", "common/service/toml_doc.cpp"],
     "one reader of configuration files, one of other documents"),
    ("boost/*", ["common/service/*.cpp", "common/net/*.cpp", "client/include/dray/asio.h",
                 "client/examples/hello_asio.cpp", "tests/unit/client/call_asio_test.cpp"],
     "asio and beast stay in .cpp files, and in the adapter for users of asio"),
    ("spdlog/*", ["common/service/*.cpp"], "logging goes through common/service/log.h"),
    ("prometheus/*", ["common/service/*.cpp"], "metrics go through common/service/metrics.h"),
    ("CLI/*", ["*.cpp"], "CLI11 stays in .cpp files"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def matches(path, patterns):
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def own_root(folder):
    """The subtree a file may always include: its folder, or for a shell its whole service."""
    parts = folder.split("/")
    if parts[0] == "services" and len(parts) >= 2 and parts[2:3] not in (["core"], ["store"]):
        return "/".join(parts[:2])
    return folder


def check_project_include(folder, target):
    """Empty, or why `folder` may not include the project file `target`."""
    target_folder = target.rsplit("/", 1)[0] if "/" in target else ""
    root = own_root(folder)
    if target_folder == root or target_folder.startswith(root + "/"):
        return ""
    for pattern, allowed in BOXES:
        if fnmatch.fnmatchcase(folder, pattern):
            if matches(target_folder, allowed):
                return ""
            return f"{folder} may include {', '.join(allowed) or 'nothing'} of the project, not {target_folder or target}"
    return f"no rule for folder {folder}: add one to scripts/lint_layers.py"


def check_library(path, folder, name):
    """Empty, or why the file may not include the system header `name`."""
    if folder.startswith("tests"):
        return ""
    for pattern, files, why in LIBRARIES:
        if matches(name, [pattern]) and not matches(path, files):
            return why
    if matches(folder, PURE):
        is_std = "/" not in name and not name.endswith(".h")
        if is_std and name in IMPURE_STD:
            return f"{folder} is pure: no <{name}>"
        if not is_std and not matches(name, PURE_LIBRARIES):
            return f"{folder} is pure: only the standard library, tsl and xxhash"
    return ""


def check_file(path):
    folder = path.rsplit("/", 1)[0]
    problems = []
    for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        quote, name = found.groups()
        # A library header in quotes is still a library header.
        is_project = quote == '"' and (ROOT / name).exists() or name.startswith(("common/", "broker/", "services/"))
        why = check_project_include(folder, name) if is_project else check_library(path, folder, name)
        if why:
            problems.append(f"{path}:{number}: {why}")
    return problems


def msgpack_headers(paths):
    named = [p for p in paths if fnmatch.fnmatchcase(p, "common/wire/*.h")
             and re.search(r"#\s*include\s*[<\"]msgpack", (ROOT / p).read_text())]
    return [f"{p}:1: only one header of common/wire may include msgpack" for p in named[1:]]


def main(arguments):
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    paths = arguments or [p for p in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.h", "*.cpp"],
        cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        if (ROOT / p).is_file()]
    problems = [problem for path in paths for problem in check_file(path)]
    problems += msgpack_headers(paths)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"layers: ok ({len(paths)} files)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
