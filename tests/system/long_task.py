#!/usr/bin/env python3
"""A task much longer than the lease time: it starts once, whatever happens to the broker; and the
result of a worker that was away for too long is refused.

usage: tests/system/long_task.sh
"""
import os
import signal
import sys
import time

from cluster import Cluster, Report, finish, wait_for

LEASE_MS = 1000
KILLS = 5
SETTINGS = {"broker.lease_ttl": f"{LEASE_MS}ms", "broker.beat_interval": "200ms",
            "broker.resume_window": "6s", "worker.slots": 2}


def lines(path):
    """Witness lines as (word, attempt, token, pid, Unix microseconds)."""
    if not path.exists():
        return []
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(w[0], int(w[2]), w[3], int(w[4]), int(w[5])) for w in rows]


def words(path, word):
    return [row for row in lines(path) if row[0] == word]


def one_start(cluster, report):
    witness = cluster.dir / "long.log"
    task = cluster.start_client("submit", "--handler", "witness", "--payload",
                                f"{witness}\n{20 * LEASE_MS}\nlong", "--wait", 120_000)
    wait_for(lambda: words(witness, "start"), 10, "the long task to start")
    begin = time.monotonic()
    for n in range(KILLS):
        pid, _ = cluster.kill("broker")
        cluster.pid("broker", other_than=pid)
        cluster.wait_ready(names=["broker"])
        time.sleep(max(0, begin + (n + 1) * 18 * LEASE_MS / 1000 / KILLS - time.monotonic()))
    still = not words(witness, "end")
    out = finish(task, 60)
    report.check(still, f"the broker was killed {KILLS} times while the task ran")
    report.check(len(words(witness, "start")) == 1 and len(words(witness, "end")) == 1,
                 f"it started once and ended once: {[row[0] for row in lines(witness)]}")
    report.check(out.get("state") == "succeeded" and out.get("attempt") == 1,
                 f"its client was told: {out.get('state')}, attempt {out.get('attempt')}")
    report.fact(task=f"{20 * LEASE_MS / 1000:.0f} s", lease=f"{LEASE_MS} ms", broker_kills=KILLS,
                starts=len(words(witness, "start")))


def zombie(cluster, report):
    witness = cluster.dir / "zombie.log"
    # Longer than the stop: elsewhere it still runs when the first worker comes back.
    task = cluster.start_client("submit", "--handler", "witness", "--payload",
                                f"{witness}\n{LEASE_MS}\nzombie", "--wait", 60_000)
    first = wait_for(lambda: words(witness, "start"), 10, "the task to start")[0]
    before = cluster.counters()
    os.kill(first[3], signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        out = finish(task, 60)
        time.sleep(max(0, stopped + 2 * LEASE_MS / 1000 - time.monotonic()))
    finally:
        os.kill(first[3], signal.SIGCONT)
    # On busy CPUs the word that it is void may come before its thread does.
    back = wait_for(lambda: len(words(witness, "end")) + len(words(witness, "stop")) == 2, 10,
                    "the first run to end too")
    late = len(words(witness, "end")) == 2
    stale = late and wait_for(lambda: cluster.counters()["stale"] - before["stale"], 10,
                              "the broker to refuse the old result")
    starts = words(witness, "start")
    report.check(back and len(starts) == 2 and starts[1][3] != first[3],
                 f"the task ran again on the other worker: pids {[s[3] for s in starts]}")
    report.check(out.get("state") == "succeeded" and out.get("attempt") == starts[1][1],
                 f"its one result is the second run's: attempt {out.get('attempt')}")
    report.check(stale == 1 or not late,
                 f"the result of the stopped worker was refused: stale {stale}" if late
                 else "the stopped worker's run was stopped before it had a result")
    stored = cluster.client("fetch", out["id"])["tasks"][0]
    report.check((stored["state"], stored["attempt"]) == (out["state"], out["attempt"]),
                 f"and it did not change: {stored['state']}, attempt {stored['attempt']}")
    report.fact(zombie_results_refused=stale)


def main():
    report = Report("long_task")
    with Cluster(workers=2, settings=SETTINGS) as cluster:
        one_start(cluster, report)
        zombie(cluster, report)
        report.check(not cluster.bad_exits(), f"no crash: {cluster.bad_exits()}")
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
