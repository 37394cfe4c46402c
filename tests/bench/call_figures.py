#!/usr/bin/env python3
"""Two ratios of the call lane, from slices in alternation; medians of the slices count.

streams  200 streams of 50 parts at once, alone and beside one slow reader of the same client: time
         to the first part, parts/s
single   one call at a time, alone and beside a flood of queued tasks: p50 and p99

Prints a table and one line of JSON. Nothing is asserted here.

usage: tests/bench/call_figures.py [--pairs N] [--seconds S] [--streams N] [--parts N] [--bytes B]
                                   [--slow-us N]
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

SIDES = ("alone", "beside")
STREAM_PAIRS = 4  # for each pair of the others: a slice of streams takes a fraction of a second


def run(cluster, verb, *args):
    tool = cluster.start_tool("call_figures", verb, cluster.endpoint, args)
    out = finish(tool, 300)
    if tool.returncode:
        raise RuntimeError(f"call_figures {verb}: {out}")
    return out


def flood(cluster):
    """Runs until it is killed."""
    return subprocess.Popen(
        [BIN / "dray", "--dir", cluster.dir, "bench", "queue", "--no-floor", "--tasks", "100000000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)


def measure_streams(cluster, args):
    wish = ("--count", args.streams, "--parts", args.parts, "--bytes", args.bytes)
    sides = {side: [] for side in SIDES}
    for _ in range(args.pairs * STREAM_PAIRS):
        sides["alone"].append(run(cluster, "streams", *wish))
        sides["beside"].append(run(cluster, "streams", *wish, "--slow-us", args.slow_us))
    return sides


def measure_single(cluster, args):
    sides = {side: [] for side in SIDES}
    for _ in range(args.pairs):
        sides["alone"].append(run(cluster, "single", "--seconds", args.seconds))
        load = flood(cluster)
        time.sleep(1)
        sides["beside"].append(run(cluster, "single", "--seconds", args.seconds))
        load.kill()
        load.wait()
        wait_for(lambda: (cluster.state("broker") or {}).get("tasks") == 0, 120, "an empty queue")
    return sides


def medians(sides, keys):
    """{key: {alone, beside, ratio}}"""
    table = {}
    for key in keys:
        row = {side: statistics.median(r[key] for r in sides[side]) for side in SIDES}
        table[key] = {**row, "ratio": round(row["beside"] / row["alone"], 2) if row["alone"] else None}
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--parts", type=int, default=50)
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--slow-us", type=int, default=20_000)
    args = parser.parse_args()
    # A slot for every stream and the slow one, wherever the router puts it.
    with Cluster(workers=2, settings={"worker.call_slots": args.streams // 2 + 1}) as cluster:
        wait_for(lambda: cluster.has_workers("router", 2), 30, "workers that take calls")
        run(cluster, "single", "--seconds", 0.5)  # everybody is warm
        result = {"streams": medians(measure_streams(cluster, args),
                                     ("first_p50_ms", "first_p99_ms", "parts_per_s")),
                  "single": medians(measure_single(cluster, args), (
                      "p50_ms", "p99_ms", "queue_p99_ms", "worker_p99_ms", "rest_p99_ms"))}
    print(f"{'':24}{'alone':>12}{'beside':>12}{'ratio':>8}")
    for part, table in result.items():
        for key, row in table.items():
            print(f"{part + ' ' + key:24}{row['alone']:12.3f}{row['beside']:12.3f}{row['ratio'] or 0:8.2f}")
    print(json.dumps({"pairs": args.pairs, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
