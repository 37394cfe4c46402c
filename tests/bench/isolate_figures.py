#!/usr/bin/env python3
"""What a process of its own costs: calls and tasks of `echo` and `noop` with worker.isolate off and on, in
alternation on two clusters that are up at the same time. Prints medians and their ratio.

usage: tests/bench/isolate_figures.py [rounds]
"""
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
from cluster import BIN, Cluster, wait_for  # noqa: E402

BENCHES = {
    "one call at a time, p50 us": (["call", "--requests", "15000", "--pairs", "3"], ["p50_us"]),
    "one call of 64 KiB, p50 us": (["call", "--requests", "6000", "--pairs", "3", "--payload", "65536"],
                                   ["p50_us"]),
    "64 calls open, calls/s": (["call", "--requests", "60000", "--pairs", "3", "--concurrency", "64"],
                               ["calls_per_s"]),
    "one task at a time, p50 us": (["queue", "--tasks", "2000", "--batch", "1", "--window", "1"],
                                   ["p50_us"]),
    "tasks of 256, tasks/s": (["queue", "--tasks", "200000", "--batch", "256"], ["tasks_per_s"]),
}


def find(doc, name):
    """The first number of that name, however deep."""
    if isinstance(doc, dict):
        if isinstance(doc.get(name), (int, float)):
            return doc[name]
        doc = list(doc.values())
    if isinstance(doc, list):
        for part in doc:
            value = find(part, name)
            if value is not None:
                return value
    return None


def run(cluster, args, names):
    done = subprocess.run([BIN / "dray", "bench", *args, "--no-floor", "-o", "json", "--endpoint",
                           cluster.endpoint], capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-500:])
    doc = json.loads(done.stdout)
    value = next((v for v in (find(doc, n) for n in names) if v is not None), None)
    if value is None:
        raise RuntimeError(f"none of {names} in {done.stdout[:2000]}")
    return value


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    settings = {"worker.allow_test_handlers": False}
    with Cluster(settings=settings) as plain, \
            Cluster(settings={**settings, "worker.isolate": True}) as isolated:
        for cluster in (plain, isolated):
            wait_for(lambda: cluster.has_workers("router", 1), 30, "a worker that takes calls")
        for title, (args, names) in BENCHES.items():
            pairs = [(run(plain, args, names), run(isolated, args, names)) for _ in range(rounds)]
            a, b = (statistics.median(side) for side in zip(*pairs))
            ratio = statistics.median(y / x for x, y in pairs)
            print(f"{title}: threads {a:.1f}, processes {b:.1f}, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
