#!/usr/bin/env python3
"""Many streams at once with a slow reader: parts come in order and none is lost, nobody piles them
up; a cancelled stream and those of a client that is gone give their slots back.

usage: tests/system/calls_stream.sh  200 streams of 50 parts, in long runs with a reader four times
                                     slower and twice as many cancels
"""
import json
import sys

from cluster import LONG, Cluster, Report, finish, memory_of, wait_for
from overload import Watch

STREAMS, PARTS, BYTES = 200, 50, 16_000  # 160 MB
PAUSE_US = 1200 if LONG else 300
CANCELS = 40 if LONG else 20
CANCEL_MS = 50
# Windows of 64 KiB for each stream are 13 MB; whoever did not hold back would hold most of 160 MB.
GROWTH_MIB_MAX = 64
SERVICES = ("router", "worker-0", "worker-1")


def ongoing(cluster):
    return cluster.deployment("stream.count")["ongoing_batches"]


def slow_reader(cluster, report):
    pids = cluster.pids()
    before = {name: memory_of(pids[name], "VmRSS") for name in SERVICES}
    watch = Watch(cluster)
    watch.start()
    out = finish(cluster.start_calls("streams", "--count", STREAMS, "--parts", PARTS, "--bytes", BYTES,
                                     "--pause-us", PAUSE_US), 600)
    watch.done.set()
    watch.join()
    report.check(out["good"] == STREAMS and out["parts"] == STREAMS * PARTS and not out["out_of_order"],
                 f"{out['good']} of {STREAMS} streams came whole and in order, {out['parts']} parts "
                 f"in {out['seconds']:.1f} s {out['first_bad']}")
    growth = {name: round(watch.peak[name] - before[name]) for name in SERVICES}
    report.check(max(growth.values()) <= GROWTH_MIB_MAX,
                 f"growth of memory in MiB while {STREAMS * PARTS * BYTES >> 20} MiB passed: {growth} "
                 f"(limit {GROWTH_MIB_MAX})")
    report.fact(parts=out["parts"], seconds=f"{out['seconds']:.1f}", growth_mib=max(growth.values()))


def cancelled(cluster, report):
    out = finish(cluster.start_calls("cancel", "--rounds", CANCELS))
    # A busy machine may be late at times, but a wait that is built in would show every time.
    report.check(out["rounds"] == CANCELS and out["min_ms"] < CANCEL_MS,
                 f"{CANCELS} cancels freed their slots: {out['min_ms']:.2f} ms at best, median "
                 f"{out['p50_ms']:.2f}, {out['max_ms']:.2f} at worst")
    report.fact(cancel_p50_ms=out["p50_ms"], cancel_max_ms=out["max_ms"])


def vanished(cluster, report):
    client = cluster.start_calls("hold", "--count", STREAMS // 2)
    held = json.loads(client.stdout.readline())["holds"]
    before = ongoing(cluster)
    client.kill()
    client.wait()
    wait_for(lambda: ongoing(cluster) == 0, 30, "the slots of a client that is gone")
    state = cluster.state("router")
    report.check(held == before == STREAMS // 2 and state["calls"] == 0 and state["call_bytes"] == 0,
                 f"a client that held {before} streams was killed: its slots are free")


def main():
    report = Report("calls_stream")
    with Cluster(workers=2, settings={"worker.call_slots": STREAMS // 2}) as cluster:
        wait_for(lambda: cluster.has_workers("router", 2), 30, "workers that take calls")
        slow_reader(cluster, report)
        cancelled(cluster, report)
        vanished(cluster, report)
        report.check(not cluster.bad_exits(), f"no crash: {cluster.bad_exits()}")
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
