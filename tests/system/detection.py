#!/usr/bin/env python3
"""Who notices how soon that a worker is dead or frozen, and that nobody is declared dead who is not:
beside a handler that blocks its worker, a balancer that is stopped, and 200 workers that join at once.

usage: tests/system/detection.sh   short runs block 15 s and kill 3 workers, long ones 60 s and 10
"""
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone

from cluster import BIN, LONG, Cluster, Report, die_with_parent, finish, wait_for

KILLS, BLOCK_S = (10, 60) if LONG else (3, 15)
CROWD, CROWD_S = 200, 30 if LONG else 12
WORKERS = 2
# Which line of which log says that a worker is gone.
SIGNS = {"broker": r"worker_gone worker={}\b", "router": r"worker_lost name={}\b",
         "balancer": r"node_lost node={}\b"}


class Extra:
    """A worker that supervisord does not know, so that nobody starts it again."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        env = {**os.environ, "DRAY_DIR": str(cluster.dir)}
        log = open(cluster.dir / "log" / f"{name}.log", "w")
        self.process = subprocess.Popen(
            [cluster.dir / "bin/dray-worker", "--config", cluster.dir / "dray.toml", "--set",
             f"worker.name={name}",
             "--set", "worker.http=off"], env=env, cwd=cluster.dir,
            stdout=log, stderr=log, preexec_fn=die_with_parent)
        wait_for(lambda: self.known() == 3, 30, f"{name} to be known everywhere")

    def known(self):
        c = self.cluster
        return (re.search(rf"worker_attached worker={self.name}\b", c.log("broker")) is not None) \
            + ("offered router=" in c.log(self.name)) \
            + any(n["name"] == self.name and n["state"] == "up"
                  for n in c.admin("balancer", "nodes")["nodes"])

    def signal(self, sig):
        at = time.time()
        self.process.send_signal(sig)
        return at

    def noticed(self, at, timeout):
        """Seconds from `at` until each service said so."""
        found = {}

        def look():
            for service, sign in SIGNS.items():
                for line in self.cluster.log(service).splitlines():
                    if service not in found and re.search(sign.format(self.name), line):
                        found[service] = stamp(line) - at
            return len(found) == len(SIGNS)
        try:
            wait_for(look, timeout, "")
        except RuntimeError:
            pass
        return found

    def end(self):
        self.process.kill()
        self.process.wait()


def stamp(line):
    text = line.split()[0].rstrip("Z")
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


def deaths(cluster):
    """How often each service has said of any worker of supervisord's that it is gone."""
    return {s: len(re.findall(sign.format(r"worker-\d+"), cluster.log(s))) for s, sign in SIGNS.items()}


def killed(cluster, report):
    slowest = {s: [] for s in SIGNS}
    for i in range(KILLS):
        extra = Extra(cluster, f"dead-{i}")
        found = extra.noticed(extra.signal(signal.SIGKILL), 20)
        for service in SIGNS:
            slowest[service].append(found.get(service, 99))
        extra.end()
    worst = max(max(times) for times in slowest.values())
    report.check(worst <= 1.5, f"{KILLS} workers killed: noticed after "
                 + ", ".join(f"{s} {statistics.median(t):.3f} (at most {max(t):.3f}) s"
                             for s, t in slowest.items()))
    report.fact(killed_s=f"{worst:.2f}")


def frozen(cluster, report):
    extra = Extra(cluster, "frozen")
    found = extra.noticed(extra.signal(signal.SIGSTOP), 20)
    extra.end()
    worst = max(found.get(s, 99) for s in SIGNS)
    report.check(worst <= 10.5, f"a frozen worker is noticed: "
                 f"{', '.join(f'{s} {t:.1f} s' for s, t in found.items())}")
    report.fact(frozen_s=f"{worst:.1f}")


def not_dead(cluster, report):
    """Three things at the same time that must not look like a death."""
    before = deaths(cluster)
    blocked = cluster.start_client("bulk", "--handler", "crash", "--payload", f"block:{BLOCK_S * 1000}",
                                   "--count", 2 * WORKERS, "--bytes", 1, "--wait", BLOCK_S + 60)
    balancer, _ = cluster.kill("balancer", signal.SIGSTOP)
    time.sleep(5)
    os.kill(balancer, signal.SIGCONT)
    endpoint = f"ipc://{cluster.dir}/run/"
    crowd = subprocess.Popen(
        [BIN / "worker_crowd", "crowd", "--broker", endpoint + "broker.sock", "--router",
         endpoint + "router-workers.sock", "--balancer", endpoint + "balancer.sock", "--count",
         str(CROWD), "--seconds", str(CROWD_S)], stdout=subprocess.PIPE, text=True,
        preexec_fn=die_with_parent)
    nodes = wait_for(lambda: (lambda n: n if n >= CROWD + WORKERS else 0)(count_nodes(cluster)), 30,
                     "the crowd to be nodes of the balancer")
    out = finish(crowd, CROWD_S + 60)
    report.check(out["lost"] == 0 and out["joined"] == 3 * CROWD,
                 f"{CROWD} workers joined in {out['joined_s']:.2f} s ({nodes} nodes), none was lost "
                 f"in {CROWD_S} s: {out}")
    tasks = finish(blocked, BLOCK_S + 90)
    report.check(tasks.get("succeeded") == 2 * WORKERS,
                 f"handlers that block their worker for {BLOCK_S} s end well: {tasks}")
    after = deaths(cluster)
    report.check(after == before, f"nobody was declared dead: {after}")
    lost = cluster.counters()["lost_leases"]
    report.check(lost == 0, f"no lease was lost: {lost}")


def count_nodes(cluster):
    state = cluster.state("balancer") or {}
    return state.get("core", state).get("nodes", 0)


def main():
    report = Report("detection")
    with Cluster(workers=WORKERS, settings={"worker.slots": 2}) as cluster:
        killed(cluster, report)
        frozen(cluster, report)
        not_dead(cluster, report)
        report.check(not cluster.bad_exits(), f"no service crashed: {cluster.bad_exits()}")
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
