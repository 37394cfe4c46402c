#!/usr/bin/env python3
"""A GPU leaves the bus (XID 79, told by a fake NVML) while a task runs on it: its capacity is gone at
once at broker and router, the task runs on the other one, and `explain` says why a third waits.

usage: tests/system/gpu_lost.sh
"""
import json
import subprocess
import time

from cluster import BIN, Cluster, Report, wait_for

LIBRARY = BIN.parent / "lib/libfake_nvml.so"
LOST_AFTER_MS = 9000  # after the worker's start
SCENARIO = f"""driver 580.65.06
gpu uuid=GPU-aaaa name=Test memory=24576 free=24000 cc=9.0 cores=16896
gpu uuid=GPU-bbbb name=Test memory=24576 free=24000 cc=9.0 cores=16896
at {LOST_AFTER_MS} xid 79 device=0
"""


def dray(cluster, *args):
    done = subprocess.run([BIN / "dray", "--endpoint", cluster.endpoint, "-o", "json", *args],
                          capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"dray {' '.join(args)}: {done.stderr}")
    return json.loads(done.stdout)


def gpus(cluster):
    return {g["uuid"]: g for g in dray(cluster, "gpus")}


def explain(cluster, task):
    return dray(cluster, "task", "explain", task)


def main():
    report = Report("gpu_lost")
    cluster = Cluster(settings={"worker.gpus": "auto", "worker.nvml_library": str(LIBRARY),
                                "worker.slots": 4})
    scenario = cluster.dir / "scenario"
    scenario.write_text(SCENARIO)
    cluster.env["DRAY_FAKE_NVML"] = str(scenario)
    with cluster:
        run(cluster, report)
    return report.end()


def run(c, report):
    before = gpus(c)
    report.check(sorted(before) == ["GPU-aaaa", "GPU-bbbb"] and
                 all(g["health"] == "ok" and g["share_free"] == 1 for g in before.values()),
                 f"both GPUs are offered: {sorted(before)}")
    router = dray(c, "status")["router"]["gpus"]
    report.check(router["usable"] == 2, f"the router knows them: {router}")
    # Without failures allowed: to lose a GPU is none.
    task = dray(c, "submit", "sleep", "25000", "--gpus", "1", "--max-failures", "1")[0]["id"]
    taken = wait_for(lambda: [u for u, g in gpus(c).items() if g["share_taken"] == 1], 5,
                     "the task to take a GPU")
    report.check(taken == ["GPU-aaaa"], f"it runs on the first one: {taken}")

    lost = wait_for(lambda: (g := gpus(c)["GPU-aaaa"])["health"] == "lost" and g, 20,
                    "the broker to hear of the loss")
    at = time.monotonic()
    report.check(lost["share_free"] == 0 and lost["memory_mib"] == 0 and lost["reason"] == "XID 79",
                 f"the broker gives nothing of it: {lost['share_free']}, {lost['reason']}")
    router = dray(c, "status")["router"]["gpus"]
    report.check(router["usable"] == 1 and router["unusable"][0]["reason"] == "XID 79",
                 f"the router counts one: {router}")
    again = wait_for(lambda: (d := explain(c, task))["attempt"] == 2 and d["state"] == "running" and d,
                     5, "the task to run again")
    report.fact(moved_in=f"{time.monotonic() - at:.2f} s at most")
    report.check(again["lost"] == 1 and again["failures"] == 0 and
                 "GPU-aaaa is lost: XID 79" in again["errors"][0],
                 f"the task moved, not failed: {again['errors']}")
    report.check(gpus(c)["GPU-bbbb"]["share_taken"] == 1, "it has the other GPU")

    other = dray(c, "submit", "sleep", "10", "--gpus", "0.5")[0]["id"]
    why = wait_for(lambda: explain(c, other)["why"], 5, "an explanation")
    report.check(any("no device with 0.5 free" in line for line in why) and
                 any("GPU-aaaa gives nothing: XID 79" in line for line in why),
                 f"a second task waits, and explain says why: {why}")
    report.check(c.bad_exits() == [], f"no process ended: {c.bad_exits()}")


if __name__ == "__main__":
    raise SystemExit(main())
