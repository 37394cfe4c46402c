#!/usr/bin/env python3
"""Calls need no broker: they go on while it is down.

usage: tests/system/calls_broker.sh  the broker is down for 5 s, in long runs for 30 s
"""
import statistics
import sys
import time

from calls_kill import read_calls
from cluster import LONG, Cluster, Report, finish, wait_for

DOWN_S = 30 if LONG else 5
QUIET_S = 2
RATE = 500
# A call that takes longer than this has failed.
DEADLINE_MS = 3000


def in_ms(calls, begin_us, end_us):
    """Median and 99th percentile of the calls that began then."""
    took = sorted(c.end_us - c.start_us for c in calls if begin_us <= c.start_us < end_us)
    return f"{statistics.median(took) / 1000:.2f}/{took[int(len(took) * 0.99)] / 1000:.2f}"


def main():
    report = Report("calls_broker")
    with Cluster(workers=2, settings={"worker.call_slots": 4}) as cluster:
        wait_for(lambda: cluster.has_workers("router", 2), 30, "workers that take calls")
        log, stop = cluster.dir / "calls.log", cluster.dir / "stop"
        load = cluster.start_calls("load", "--handler", "echo", "--rate", RATE, "--deadline",
                                   DEADLINE_MS, "--until", stop, "--log", log)
        time.sleep(QUIET_S)
        down_us = time.time_ns() // 1000
        cluster.stop_service("broker")
        gone_us = time.time_ns() // 1000
        time.sleep(DOWN_S)
        report.check(cluster.live_pid("broker") == 0, f"the broker was down for {DOWN_S} s")
        up_us = time.time_ns() // 1000
        cluster.start_service("broker")
        cluster.wait_ready(names=["broker"])
        time.sleep(QUIET_S / 2)
        stop.touch()
        out = finish(load, 120)
        report.check(set(out["ends"]) == {"reply"} and out["without_end"] == out["wrong_replies"] == 0,
                     f"each of {out['calls']} calls was answered: {out['ends']} {out['first_bad']}")
        calls = read_calls(log)
        during = sum(gone_us <= c.start_us < up_us for c in calls)
        report.check(during > 0, f"{during} of them began while there was no broker")
        task = cluster.client("submit", "--handler", "echo", "--payload", "hi", "--wait", 20_000)
        report.check(task.get("state") == "succeeded", "and tasks run again afterwards")
        report.fact(calls=out["calls"], p50_p99_ms_before=in_ms(calls, 0, down_us),
                    p50_p99_ms_during=in_ms(calls, gone_us, up_us), max_ms=out["max_ms"])
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
