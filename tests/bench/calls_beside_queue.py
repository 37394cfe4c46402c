#!/usr/bin/env python3
"""Calls at a moderate load, alone and beside a flood of queued tasks, in alternation: one line of
JSON for each slice, then one for both sides. Wanted: the p99 beside the flood is at most 3 times the
quiet one. Nothing is asserted here.

usage: tests/bench/calls_beside_queue.py [--pairs N] [--seconds S] [--rate N] [--workers N]
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
from cluster import BIN, Cluster, die_with_parent, finish, wait_for  # noqa: E402


def slice_of(cluster, args, side):
    out = finish(cluster.start_calls("load", "--handler", "echo", "--rate", args.rate, "--seconds",
                                     args.seconds), args.seconds + 60)
    row = {"side": side, "calls": out["calls"], "ends": out["ends"], "p50_ms": out["p50_ms"],
           "p99_ms": out["p99_ms"], "max_ms": out["max_ms"]}
    print(json.dumps(row), flush=True)
    return row


def flood(cluster):
    """Runs until it is killed."""
    return subprocess.Popen(
        [BIN / "dray", "--dir", cluster.dir, "bench", "queue", "--no-floor", "--tasks", "100000000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)


def finished(cluster):
    return cluster.counters().get("succeeded", 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    sides = {"quiet": [], "beside": []}
    with Cluster(workers=args.workers) as cluster:
        wait_for(lambda: cluster.has_workers("router", args.workers), 30, "workers that take calls")
        for _ in range(args.pairs):
            sides["quiet"].append(slice_of(cluster, args, "quiet"))
            load = flood(cluster)
            time.sleep(1)
            before, begin = finished(cluster), time.monotonic()
            row = slice_of(cluster, args, "beside")
            row["tasks_per_s"] = round((finished(cluster) - before) / (time.monotonic() - begin))
            sides["beside"].append(row)
            load.kill()
            load.wait()
            wait_for(lambda: (cluster.state("broker") or {}).get("tasks") == 0, 120, "the queue to empty")
    p99 = {side: statistics.median(r["p99_ms"] for r in rows) for side, rows in sides.items()}
    print(json.dumps({"median_p99_ms": p99, "ratio": round(p99["beside"] / p99["quiet"], 2),
                      "median_tasks_per_s": statistics.median(
                          r["tasks_per_s"] for r in sides["beside"])}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
