#!/usr/bin/env python3
"""A client that submits as fast as it can, and never waits when asked to, against a slow worker and
small budgets: every submit is answered, memory stays bounded, everything accepted ends.

usage: tests/system/overload.sh      short runs flood for 8 s, long ones for 60 s
"""
import sys
import threading
import time

from cluster import LONG, Cluster, Report, finish, memory_of

SECONDS = 60 if LONG else 8
# What the broker may hold: 16 MiB of cached payloads, 5,000 tasks, and what is on its way to it.
BROKER_MIB_MAX = 128
ROUTER_MIB_MAX = 128
SETTINGS = {
    "worker.slots": 8,
    "broker.tasks_max": 5000, "broker.payload_cache": "16MiB", "broker.segment_bytes": "4MiB",
    "broker.journal_budget": "64MiB", "broker.journal_keep": "8MiB",
    "router.client_bytes": "16MiB", "router.inflight_bytes": "32MiB",
}


class Watch(threading.Thread):
    """Highest memory of the services while it runs."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.pids = cluster.pids()
        self.peak = {}
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.1):
            for name, pid in self.pids.items():
                self.peak[name] = max(self.peak.get(name, 0), memory_of(pid, "VmHWM"))


def flood(cluster, report, title, *args):
    client = cluster.start_raw("flood", "--seconds", SECONDS / 2, "--patience", 120, *args)
    out = finish(client, SECONDS + 300)
    refused = out["refused"]
    report.check(out["unanswered"] == 0 and out["not_fresh"] == 0, f"{title}: each of {out['requests']} requests was answered")
    report.check(set(refused) <= {"overloaded"} and refused.get("overloaded", 0) > 0,
                 f"{title}: refusals are OVERLOADED: {refused}, by {out['limits']}")
    report.check(out["overloaded_without_hint"] == 0, f"{title}: each names its budget and when to retry")
    report.check(out["succeeded"] == out["accepted"] > 0,
                 f"{title}: {out['succeeded']} of {out['accepted']} accepted tasks succeeded")
    return out


def main():
    report = Report("overload")
    with Cluster(workers=1, settings=SETTINGS) as cluster:
        before = cluster.pids()
        watch = Watch(cluster)
        watch.start()
        begin = time.monotonic()
        small = flood(cluster, report, "many small", "--batch", 64)
        large = flood(cluster, report, "large", "--batch", 32, "--bytes", 16384)
        watch.done.set()
        watch.join()
        report.check(watch.peak["broker"] <= BROKER_MIB_MAX,
                     f"broker: {watch.peak['broker']:.0f} MiB at most (limit {BROKER_MIB_MAX})")
        report.check(watch.peak["router"] <= ROUTER_MIB_MAX,
                     f"router: {watch.peak['router']:.0f} MiB at most (limit {ROUTER_MIB_MAX})")
        report.check(cluster.pids() == before, "no process ended")
        report.fact(seconds=f"{time.monotonic() - begin:.0f}",
                    accepted=small["accepted"] + large["accepted"],
                    overloaded=small["refused"].get("overloaded", 0) + large["refused"].get("overloaded", 0),
                    broker_mib=f"{watch.peak['broker']:.0f}", router_mib=f"{watch.peak['router']:.0f}")
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
