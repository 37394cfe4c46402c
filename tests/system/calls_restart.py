#!/usr/bin/env python3
"""Every worker and every router is restarted on request, one after the other, under a load of calls:
no call fails.

usage: tests/system/calls_restart.sh   one round of restarts, in long runs three
"""
import sys
import time

from cluster import LONG, Cluster, Report, finish, wait_for

ROUNDS = 3 if LONG else 1
RATE = 500
WORKERS = 3
US_PER_CALL = 2000
DEADLINE_MS = 20_000


def all_here(cluster):
    return all(cluster.has_workers(router, WORKERS) for router in cluster.routers)


def restart(cluster, name):
    begin = time.monotonic()
    cluster.stop_service(name)
    cluster.start_service(name)
    cluster.wait_ready(names=[name])
    wait_for(lambda: all_here(cluster), 60, "every worker to take calls of every router")
    time.sleep(0.3)
    return time.monotonic() - begin


def main():
    report = Report("calls_restart")
    with Cluster(workers=WORKERS, settings={"worker.call_slots": 4}, routers=2) as cluster:
        wait_for(lambda: all_here(cluster), 30, "every worker to take calls of every router")
        before = cluster.pids()
        stop = cluster.dir / "stop"
        load = cluster.start_calls("load", "--witness", cluster.dir / "witness.log", "--us",
                                   US_PER_CALL, "--rate", RATE, "--deadline", DEADLINE_MS, "--until",
                                   stop)
        time.sleep(0.5)
        names = cluster.routers + [f"worker-{n}" for n in range(WORKERS)]
        took = [restart(cluster, name) for _ in range(ROUNDS) for name in names]
        stop.touch()
        out = finish(load, 120)
        report.check(all(cluster.pid(name) != before[name] for name in names),
                     f"{len(took)} restarts: {', '.join(names)}")
        report.check(set(out["ends"]) == {"reply"} and out["without_end"] == out["wrong_replies"] == 0,
                     f"each of {out['calls']} calls was answered: {out['ends']} {out['first_bad']}")
        runs = [line.split()[0] for line in (cluster.dir / "witness.log").read_text().splitlines()]
        report.check(len(runs) == len(set(runs)) == out["calls"], "and ran once")
        report.check(not cluster.bad_exits(), f"every process left with 0 {cluster.bad_exits()}")
        report.fact(restarts=len(took), slowest_restart_s=f"{max(took):.1f}", calls=out["calls"],
                    sent_again=out["resent"], p50_ms=out["p50_ms"], p99_ms=out["p99_ms"],
                    max_ms=out["max_ms"])
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
