#!/usr/bin/env python3
"""Handlers in processes of their own (worker.isolate): executors crash, hang and are killed under
load. No task is lost, every call ends, and no worker goes down with them.

usage: tests/system/isolate.sh       short runs kill 8 executors, long ones 40; SEED=N repeats the choice
"""
import collections
import os
import random
import signal
import sys
import time
from pathlib import Path

from cluster import LONG, Cluster, Report, finish, is_alive, wait_for

KILLS, TASKS, RATE = (40, 30_000, 500) if LONG else (8, 8_000, 300)
SEED = int(os.environ.get("SEED", time.time()))
WORKERS = 2
SETTINGS = {"worker.isolate": True, "worker.slots": 4, "worker.call_slots": 4}


def executors(cluster):
    """Pids of all executors of this cluster, by their workers' pids."""
    found = collections.defaultdict(list)
    for pid in cluster.leftovers():
        try:
            if os.readlink(f"/proc/{pid}/exe").endswith("dray-executor"):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
                found[parent].append(pid)
        except OSError:
            pass
    return found


def worker_pids(cluster):
    return {n: cluster.pid(n) for n in cluster.names() if n.startswith("worker-")}


def crashes(cluster, report):
    for mode, text in (("segv", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "exit code 3")):
        out = cluster.client("submit", "--handler", "crash", "--payload", mode, "--max-lost", 2,
                             "--wait", 30_000)
        report.check(out.get("code") == "worker_lost" and text in out.get("bytes", ""),
                     f"a task that ends its executor ({mode}) is lost twice, then dead: "
                     f"{out.get('code')}: {out.get('bytes')}")
    # The handler ignores its limit and every cancel; only a process can be taken from it.
    begin = time.monotonic()
    out = cluster.client("submit", "--handler", "crash", "--payload", "ignore_cancel",
                         "--time-limit", 500, "--max-failures", 1, "--wait", 30_000)
    report.check(out.get("code") == "time_limit",
                 f"one that ignores its limit fails: {out.get('code')} after "
                 f"{time.monotonic() - begin:.1f} s")


def kill_some(cluster, rng):
    killed = []
    while len(killed) < KILLS:
        time.sleep(rng.uniform(0.2, 0.6))
        pids = sorted(pid for list_ in executors(cluster).values() for pid in list_)
        if not pids:
            continue
        pid = rng.choice(pids)
        sig = rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
        os.kill(pid, sig)
        wait_for(lambda: not is_alive(pid), 10, "the executor to die", 0.001)
        killed.append(pid)
    return killed


def judge_calls(report, log, witness):
    runs = collections.Counter(line.split()[0] for line in witness.read_text().splitlines())
    rows = [line.split() for line in log.read_text().splitlines()]  # call_client.cpp
    twice = [r[0] for r in rows if r[1] == "0" and runs[r[0]] > 1]
    report.check(not twice, f"no call that is not idempotent ran twice {twice[:5]}")
    ends = collections.Counter((r[4], "idempotent" if r[1] == "1" else "once") for r in rows)
    # Executors that are killed again and again are away for some time (back-off). An idempotent call
    # that was lost with one, and could not be repeated by its deadline, may have been executed.
    report.check({end for end, _ in ends} <= {"reply", "unknown", "rejected", "expired"},
                 f"how calls ended: {dict(ends)}")
    report.check(all(runs[r[0]] == 0 for r in rows if r[4] in ("rejected", "expired")),
                 "what was refused or expired never ran")
    replies = sum(n for (end, _), n in ends.items() if end == "reply")
    report.check(LONG or replies >= len(rows) * 9 / 10, f"{replies} of {len(rows)} were answered")


def main():
    report = Report("isolate")
    rng = random.Random(SEED)
    with Cluster(workers=WORKERS, settings=SETTINGS) as cluster:
        wait_for(lambda: cluster.has_workers("router", WORKERS), 30, "workers that take calls")
        before = worker_pids(cluster)
        plugins = len(executors(cluster)[before["worker-0"]])
        report.check(plugins >= 4, f"every plugin has a process: {plugins}")
        crashes(cluster, report)
        log, stop = cluster.dir / "calls.log", cluster.dir / "stop"
        witness = cluster.dir / "witness.log"
        load = cluster.start_calls("load", "--witness", witness, "--us", 3000, "--rate", RATE,
                                   "--until", stop, "--idempotent", 500, "--log", log,
                                   "--deadline", 10_000)
        tasks = cluster.start_client("bulk", "--handler", "sleep", "--payload", "5", "--count", TASKS,
                                     "--bytes", 1, "--max-lost", 1000, "--wait", 120)
        kills = kill_some(cluster, rng)
        out = finish(tasks, 180)
        time.sleep(1)
        stop.touch()
        calls = finish(load, 120)
        report.check(out.get("succeeded") == TASKS, f"every task succeeded: {out}")
        report.check(calls["without_end"] == 0 and calls["ended_twice"] == 0
                     and calls["wrong_replies"] == 0,
                     f"each of {calls['calls']} calls ended once: {calls['ends']}")
        judge_calls(report, log, witness)
        report.check(worker_pids(cluster) == before, "no worker went down")
        lost = cluster.counters()["lost_leases"]
        wait_for(lambda: all(len(p) == plugins for p in map(executors(cluster).get, before.values())),
                 90, "every executor to be back")
        report.check(not cluster.bad_exits(), f"no service crashed: {cluster.bad_exits()}")
        for name in before:
            cluster.stop_service(name)
        report.check(not executors(cluster), "no executor outlives its worker")
        report.fact(kills=len(kills), tasks=TASKS, lost_leases=lost, calls=calls["calls"],
                    ends=calls["ends"], p50_ms=calls["p50_ms"], seed=SEED)
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
