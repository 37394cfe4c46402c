#!/usr/bin/env python3
"""Workers are killed under a steady load of calls. What was in flight there ends as `unknown` soon,
or is repeated if it is idempotent; nothing stays without an end, nothing else runs twice.

usage: tests/system/calls_kill.sh    short runs kill 4 times under 1,000 calls/s, long ones 20 times
                                     under 2,000; SEED=N repeats the choice of workers
"""
import collections
import os
import random
import sys
import time

from cluster import LONG, Cluster, Report, finish, is_alive, wait_for

RATE, KILLS = (2000, 20) if LONG else (1000, 4)
SEED = int(os.environ.get("SEED", time.time()))
WORKERS = 3
# Below the 10 repeats that a router has saved up when it has done nothing else.
SLOTS = 6
US_PER_CALL = 2000
UNKNOWN_WITHIN_S = 1 if LONG else 3
DEADLINE_S, SLACK_S = 10, 3

Call = collections.namedtuple("Call", "id idempotent start_us end_us end code attempts")


def read_calls(path):
    rows = [line.split() for line in path.read_text().splitlines()]
    return [Call(r[0], r[1] == "1", int(r[2]), int(r[3]), r[4], r[5], int(r[6])) for r in rows]


def knows_router(cluster, worker):
    state = cluster.state(worker)
    return bool(state) and bool(state.get("core", state)["calls"]["routers"])


def kill_workers(cluster, rng):
    """Kills one worker after the other, each when all of them take calls; [(pid, moment)]"""
    kills = []
    while len(kills) < KILLS:
        wait_for(lambda: cluster.state("router")["workers"] == WORKERS, 60, "all workers to take calls")
        time.sleep(rng.uniform(0.05, 0.3))
        name = f"worker-{rng.randrange(WORKERS)}"
        pid, at_us = cluster.kill(name)
        wait_for(lambda: not is_alive(pid), 10, "the worker to die", 0.001)
        kills.append((pid, at_us))
        # The router may still count the dead one: with its next life there is one more until it is
        # lost, so an exact count tells.
        cluster.pid(name, timeout=60, other_than=pid)
        wait_for(lambda: knows_router(cluster, name), 60, "its next life to know the router")
    return kills


def is_at_rest(cluster):
    """Nothing is open, and every worker may be sent at least as much as it runs at once."""
    router, d = cluster.state("router"), cluster.deployment("call.witness")
    replicas = d["replica_list"]
    return (router["calls"] == router["call_bytes"] == d["queued"] == d["ongoing_calls"]
            == d["ongoing_batches"] == 0 and len(replicas) == WORKERS
            and all(r["ongoing"] == 0 and r["credit"] >= SLOTS for r in replicas))


def judge(report, calls, runs, kills):
    """calls: Call of every call; runs: how often each id was executed."""
    by_end = collections.Counter((c.end, c.idempotent) for c in calls)
    twice = [c.id for c in calls if not c.idempotent and runs[c.id] > 1]
    report.check(not twice, f"no call that is not idempotent ran twice {twice[:5]}")
    report.check(all(runs[c.id] <= 3 for c in calls), "no call ran more than three times")
    lost = [c for c in calls if c.end == "unknown"]
    report.check(all(not c.idempotent for c in lost) and set(by_end) <= {
        ("reply", True), ("reply", False), ("unknown", False)},
        f"every idempotent call succeeded, every other one too or ended as unknown: {dict(by_end)}")
    longest = max(c.end_us - c.start_us for c in calls) / 1e6
    report.check(longest <= DEADLINE_S + SLACK_S,
                 f"no call ended after its deadline, the slowest took {longest:.2f} of {DEADLINE_S} s")
    report.check(all(runs[c.id] >= 1 for c in calls if c.end == "reply"), "every reply was a run")
    late = [min((c.end_us - at for _, at in kills if at <= c.end_us), default=None) for c in lost]
    report.check(all(us is not None and us <= UNKNOWN_WITHIN_S * 1e6 for us in late),
                 f"{len(lost)} calls ended as unknown, the slowest "
                 f"{max(late, default=0) / 1000:.1f} ms after the kill")
    report.fact(unknown=len(lost), slowest_unknown_ms=f"{max(late, default=0) / 1000:.1f}",
                idempotent_run_again=sum(c.idempotent and runs[c.id] > 1 for c in calls))


def main():
    report = Report("calls_kill")
    rng = random.Random(SEED)
    with Cluster(workers=WORKERS, settings={"worker.call_slots": SLOTS}) as cluster:
        wait_for(lambda: cluster.has_workers("router", WORKERS), 30, "workers that take calls")
        witness, log = cluster.dir / "witness.log", cluster.dir / "calls.log"
        stop = cluster.dir / "stop"
        load = cluster.start_calls("load", "--witness", witness, "--us", US_PER_CALL, "--rate", RATE,
                                   "--until", stop, "--idempotent", 500, "--log", log,
                                   "--deadline", DEADLINE_S * 1000)
        time.sleep(0.5)
        kills = kill_workers(cluster, rng)
        time.sleep(0.5)
        stop.touch()
        out = finish(load, 120)
        report.check(out["without_end"] == 0 and out["ended_twice"] == 0 and out["wrong_replies"] == 0,
                     f"each of {out['calls']} calls ended once: {out['ends']}, idempotent {out['idempotent']}")
        runs = collections.Counter(line.split()[0] for line in witness.read_text().splitlines())
        judge(report, read_calls(log), runs, kills)
        wait_for(lambda: is_at_rest(cluster), 30, "nothing to be open, and full credit")
        report.check(True, "afterwards nothing is open and the credit of every worker is full")
        retries = cluster.deployment("call.witness")["retries"]
        report.check(retries <= out["calls"] / 10, f"{retries} repeats, at most 10 % of the calls")
        report.fact(kills=len(kills), calls=out["calls"], retries=retries, p50_ms=out["p50_ms"],
                    p99_ms=out["p99_ms"], max_ms=out["max_ms"], seed=SEED)
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
