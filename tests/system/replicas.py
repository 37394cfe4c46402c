#!/usr/bin/env python3
"""Deployments on real workers: a rolling update, a live change of user_config and a version that is
ill, all under a load of calls of which none may fail; scale from zero; a worker that dies.

usage: tests/system/replicas.sh   short runs have a load of 200 calls/s, long ones of 500
"""
import os
import shutil
import signal
import subprocess
import sys
import time

from cluster import BIN, LONG, Cluster, Report, finish, wait_for

RATE = 500 if LONG else 200
WORKERS = 2
SETTINGS = {"worker.call_slots": 8, "worker.slots": 2, "balancer.prove_time": "2s"}


class Console:
    def __init__(self, cluster):
        self.cluster = cluster
        self.code = cluster.dir / "probe.so"
        shutil.copy2(BIN.parent / "lib/dray/test_plugins/dray_test_child_probe.so", self.code)

    def run(self, *args, timeout=120):
        return subprocess.run([BIN / "dray", "--dir", self.cluster.dir, *map(str, args)],
                              capture_output=True, text=True, timeout=timeout)

    def deploy(self, name="probe", handlers=("child.act",), scale="num_replicas = 2", **fields):
        """Deploys and waits for the end of it; (exit code, output, seconds)."""
        lines = [f"[deployment.{name}]", 'code = "probe.so"',
                 f"handlers = [{', '.join(repr(h) for h in handlers)}]".replace("'", '"'), scale,
                 "health_check_period_s = 0.2", "health_check_timeout_s = 1", "start_timeout_s = 10"]
        lines += [f"{key} = {value}" for key, value in fields.items()]
        (self.cluster.dir / "app.toml").write_text("\n".join(lines) + "\n")
        begin = time.monotonic()
        done = self.run("deploy", self.cluster.dir / "app.toml")
        return done.returncode, done.stdout + done.stderr, time.monotonic() - begin

    def goal(self, name="probe"):
        listed = self.cluster.admin("balancer", "deployments")["deployments"]
        return next(d for d in listed if d["name"] == name)

    def call(self, handler, payload):
        return self.run("call", handler, payload, "--deadline", "30s")


def executors(cluster):
    found = {}
    for pid in cluster.leftovers():
        try:
            if os.readlink(f"/proc/{pid}/exe").endswith("dray-executor"):
                found[pid] = True
        except OSError:
            pass
    return set(found)


def rolls(cluster, console, report):
    code, out, took = console.deploy()
    report.check(code == 0, f"version 1 is stable after {took:.1f} s {out[-200:] if code else ''}")
    log, stop = cluster.dir / "calls.log", cluster.dir / "stop"
    load = cluster.start_calls("load", "--handler", "child.act", "--rate", RATE, "--until", stop,
                               "--deadline", 10_000, "--log", log)
    time.sleep(1)
    first = executors(cluster)
    code, out, took = console.deploy(max_ongoing_requests=6)
    report.check(code == 0, f"a rolling update took {took:.1f} s {out[-300:] if code else ''}")
    second = executors(cluster)
    report.check(len(second) == 2 and not first & second, "every process is a new one")

    code, out, took = console.deploy(max_ongoing_requests=6, user_config='"other"')
    answer = console.call("child.act", "config").stdout.strip()
    report.check(code == 0 and answer == "other" and executors(cluster) == second,
                 f"a new user_config reaches the same processes: {answer!r}")

    code, out, took = console.deploy(max_ongoing_requests=5, user_config='"ill"')
    goal = console.goal()
    report.check(code != 0 and "feels ill" in out, f"a version that is ill is refused after {took:.1f} s: "
                 f"{out.strip().splitlines()[-1] if out.strip() else out!r}")
    report.check(goal["version"] != goal.get("failed_version") and goal["state"] in ("ready", "rolling"),
                 f"and rolled back: {goal['state']}, version {goal['version']}")
    wait_for(lambda: console.goal()["state"] == "ready", 30, "the roll-back to be over")
    answer = console.call("child.act", "config").stdout.strip()
    report.check(answer == "other", f"the version before answers: {answer!r}")
    stop.touch()
    calls = finish(load, 60)
    report.check(set(calls["ends"]) == {"reply"}
                 and calls["without_end"] == calls["wrong_replies"] == calls["ended_twice"] == 0,
                 f"none of {calls['calls']} calls failed: {calls['ends']} {calls['first_bad']}")
    report.fact(calls=calls["calls"], p50_ms=calls["p50_ms"], p99_ms=calls["p99_ms"],
                max_ms=calls["max_ms"])


def from_zero(cluster, console, report):
    code, out, took = console.deploy("sleepy", ("child.alone",), 'num_replicas = "auto"\n'
                                     'autoscaling_config = { min_replicas = 0, initial_replicas = 0 }')
    ready = console.goal("sleepy")["ready"]
    report.check(code == 0 and ready == 0, f"a deployment without replicas is fine: {ready} ready")
    times = []
    begin = time.monotonic()
    done = console.call("child.alone", "hi")
    times.append(time.monotonic() - begin)
    report.check(done.stdout.strip() == "hi",
                 f"its first call is answered after {times[0]:.2f} s: {done.stdout}{done.stderr}")
    reasons = console.run("explain", "deployment", "sleepy").stdout
    report.check("zero" in reasons, "explain says why it was started")
    report.fact(from_zero_s=f"{times[0]:.2f}")


def death(cluster, console, report):
    """What a dead worker ran is started elsewhere; supervisord gives the name back soon."""
    before = executors(cluster)
    pid, _ = cluster.kill("worker-0", signal.SIGKILL)
    begin = time.monotonic()
    wait_for(lambda: console.goal()["ready"] < 2, 10, "the balancer to notice", 0.01)
    wait_for(lambda: console.goal()["ready"] == 2, 30, "both replicas to be ready again")
    took = time.monotonic() - begin
    wait_for(lambda: len(executors(cluster)) == len(before), 30, "no more processes than before")
    report.check(True, f"after a worker was killed both replicas are ready within {took:.1f} s")
    report.check(console.call("child.act", "hi").stdout.strip() == "hi", "and answer")
    report.fact(replaced_s=f"{took:.1f}")


def balancer_away(cluster, console, report):
    before = executors(cluster)
    cluster.kill("balancer", signal.SIGKILL)
    answers = {console.call("child.act", "hi").stdout.strip() for _ in range(5)}
    cluster.wait_ready(names=["balancer"])
    wait_for(lambda: console.goal()["ready"] == 2, 30, "the balancer to know its replicas again")
    time.sleep(3)
    report.check(answers == {"hi"} and executors(cluster) == before,
                 "a balancer that is killed changes nothing")


def main():
    report = Report("replicas")
    with Cluster(workers=WORKERS, settings=SETTINGS) as cluster:
        console = Console(cluster)
        wait_for(lambda: cluster.has_workers("router", WORKERS), 30, "workers that take calls")
        rolls(cluster, console, report)
        from_zero(cluster, console, report)
        balancer_away(cluster, console, report)
        death(cluster, console, report)
        done = console.run("undeploy", "probe")
        wait_for(lambda: len(executors(cluster)) <= 1, 30, "the processes of probe to end")
        report.check(done.returncode == 0, "undeploy ends its processes")
        report.check(not cluster.bad_exits(), f"no service crashed: {cluster.bad_exits()}")
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
