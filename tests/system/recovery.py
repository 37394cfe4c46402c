#!/usr/bin/env python3
"""A broker with a million queued tasks is killed: how long until it works again, and in how much
memory.

usage: tests/system/recovery.sh
       RECOVERY_TASKS=N overrides the million. Fails above 5 s or 1 GiB.
"""
import os
import sys
import time

from cluster import Cluster, Report, memory_of, wait_for

TASKS = int(os.environ.get("RECOVERY_TASKS", 1_000_000))
BYTES = 256
SECONDS_MAX = 5.0
MIB_MAX = 1024


def recover(cluster, report):
    pid, _ = cluster.kill("broker")
    new = cluster.pid("broker", other_than=pid)
    begin = time.monotonic()  # supervisord's own delay is not the broker's
    wait_for(lambda: cluster.is_ready("broker"), 60, "the broker to be ready", step=0.005)
    seconds = time.monotonic() - begin
    state = cluster.state("broker")
    rss = memory_of(new, "VmHWM")
    report.check(state["tasks"] == TASKS, f"all tasks are there: {state['tasks']} of {TASKS}")
    report.check(seconds <= SECONDS_MAX, f"ready {seconds:.2f} s after its start (limit {SECONDS_MAX:.0f})")
    report.check(rss <= MIB_MAX, f"peak memory {rss:.0f} MiB (limit {MIB_MAX})")
    report.fact(tasks=TASKS, bytes_each=BYTES, ready_s=f"{seconds:.2f}", rss_mib=f"{rss:.0f}")


def main():
    report = Report("recovery")
    with Cluster(workers=1, settings={"worker.slots": 2}) as cluster:
        cluster.admin("broker", "pause", queue="shelf")
        done = cluster.client("bulk", "--handler", "noop", "--queue", "shelf", "--count", TASKS,
                              "--bytes", BYTES, timeout=400)
        report.check(done["flushed"] and done["refused"] == 0 and done["sent"] == TASKS,
                     f"{TASKS} tasks queued in {done['submit_s']:.1f} s")
        report.fact(submit_per_s=f"{TASKS / done['submit_s']:.0f}")
        recover(cluster, report)
        # And it works: a task of another queue runs at once, the shelf's order is intact.
        out = cluster.client("submit", "--handler", "echo", "--payload", "hi", "--wait", 20_000)
        report.check(out.get("state") == "succeeded", "a new task runs at once")
        cluster.admin("broker", "resume", queue="shelf")
        begin = time.monotonic()
        wait_for(lambda: (cluster.state("broker") or {}).get("tasks") == 0, 400, "the shelf to empty", 0.2)
        report.fact(drain_s=f"{time.monotonic() - begin:.1f}")
        report.check(not cluster.bad_exits(), f"no crash: {cluster.bad_exits()}")
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
