#!/usr/bin/env python3
"""A full disk and a failing one: nothing is acknowledged that is not on disk, what runs may end, and
service resumes when there is room again; a failed sync ends the broker, and its restart tells the
truth.

usage: tests/system/disk_full.sh     the full disk is a tmpfs, so that part needs root; else skipped
"""
import os
import subprocess
import sys
import time
from pathlib import Path

from cluster import Cluster, Report, finish, wait_for

DISK_MIB = 700  # the result store keeps 512 MiB free
RESUME_SECONDS = 10
SMALL = {"worker.slots": 8, "broker.segment_bytes": "1MiB", "broker.journal_budget": "32MiB",
         "broker.journal_keep": "1MiB", "broker.min_free_disk": "8MiB", "broker.lease_ttl": "5s",
         "broker.beat_interval": "500ms", "broker.resume_window": "5s"}


class SmallDisk(Cluster):
    """A cluster whose data folder is a small file system."""

    def prepare(self):
        super().prepare()
        self.data = self.dir / "data"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", self.data],
                       check=True, capture_output=True)

    def stop(self):
        keep, self.keep = self.keep, True
        super().stop()
        subprocess.run(["umount", "-l", self.data], check=False, capture_output=True)
        self.keep = keep
        super().stop()

    def free_mib(self):
        s = os.statvfs(self.data)
        return s.f_bavail * s.f_frsize / 2 ** 20

    def fill(self, leave_mib):
        with open(self.data / "ballast", "ab", buffering=0) as f:
            try:
                while (left := self.free_mib() - leave_mib) > 0:
                    f.write(b"b" * max(4096, min(2 ** 20, int(left * 2 ** 20))))
            except OSError:
                pass  # full

    def empty(self):
        (self.data / "ballast").unlink()


def start_running(cluster, name, milliseconds, count=4):
    """Tasks that run for so long, seen to have started; the client waits for their ends."""
    witness = cluster.dir / name
    client = cluster.start_client("bulk", "--handler", "witness", "--payload",
                                  f"{witness}\n{milliseconds}\nrest", "--count", count, "--wait", 90)
    wait_for(lambda: witness.exists() and witness.read_text().count("start") == count, 20,
             f"{count} tasks of {name} to start")
    return client


def try_submit(cluster, timeout=2000):
    out = cluster.client("submit", "--handler", "echo", "--payload", "x", "--timeout", timeout)
    return out["accepted"], out.get("error"), out.get("detail")


def low_disk(cluster, report):
    running = start_running(cluster, "low.log", 4000)
    cluster.fill(leave_mib=4)
    wait_for(lambda: cluster.state("broker")["disk_low"], 10, "the broker to notice")
    accepted, error, detail = try_submit(cluster)
    report.check(not accepted and error == "disk_low", f"disk nearly full: submit -> {error}: {detail}")
    out = finish(running)
    report.check(out["succeeded"] == 4, f"results of running tasks still go: {out['succeeded']} of 4")


def full_disk(cluster, report):
    cluster.empty()
    wait_for(lambda: try_submit(cluster)[0], 10, "room again")
    running = start_running(cluster, "full.log", 2500)
    cluster.fill(leave_mib=0)
    time.sleep(0.5)
    told = [try_submit(cluster, 700)[:2] for _ in range(3)]
    report.check(not any(accepted for accepted, _ in told), f"disk full: submits -> {[e for _, e in told]}")
    time.sleep(2)
    cluster.empty()
    begin = time.monotonic()
    wait_for(lambda: try_submit(cluster)[0], 60, "service to resume")
    seconds = time.monotonic() - begin
    report.check(seconds <= RESUME_SECONDS, f"room again: submits accepted after {seconds:.1f} s")
    out = finish(running)
    report.check(out["succeeded"] == 4, f"the tasks that ran meanwhile ended well: {out['succeeded']} of 4")
    end = cluster.client("submit", "--handler", "echo", "--payload", "x", "--wait", 20_000)
    stored = wait_for(lambda: (t := cluster.client("fetch", end["id"])["tasks"][0])["state"] != "unknown"
                      and t, 20, "the aggregator to store again")
    report.check(stored["state"] == "succeeded", "results are stored again")
    report.fact(resumed_s=f"{seconds:.1f}", exits=len(cluster.bad_exits()))


def failing_sync(report):
    folder = os.environ.get("DRAY_DIR") or "/tmp"
    shim = Path(folder) / f"fail_sync-{os.getpid()}.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", shim,
                    Path(__file__).with_name("fail_sync.c")], check=True)
    trigger = shim.with_suffix(".trigger")
    cluster = Cluster(workers=1, settings={"worker.slots": 4},
                      env={"LD_PRELOAD": str(shim), "FAIL_SYNC": str(trigger)})
    with cluster:
        cluster.admin("broker", "pause", queue="shelf")
        bulk = ("bulk", "--handler", "echo", "--payload", "truth", "--queue", "shelf", "--wait", 60)
        first = cluster.start_client(*bulk, "--count", 5000)
        wait_for(lambda: cluster.state("broker")["tasks"] == 5000, 20, "5000 tasks")
        old = cluster.pid("broker")
        trigger.touch()
        second = cluster.start_client(*bulk, "--count", 2000)
        new = cluster.pid("broker", other_than=old)
        cluster.wait_ready(names=["broker"])
        exits = [line.split("exited: ")[1] for line in cluster.bad_exits()]
        report.check(new and not trigger.exists() and len(exits) == 1 and "exit status" in exits[0]
                     and "exit status 0" not in exits[0], f"a failed sync ends the broker: {exits}")
        report.check("sync" in cluster.log("broker"), "its log says so: " + next(
            (line[:150] for line in cluster.log("broker").splitlines() if "sync" in line), ""))
        wait_for(lambda: (cluster.state("broker") or {}).get("tasks") == 7000, 40,
                 "the acknowledged tasks and the repeated submit")
        cluster.admin("broker", "resume", queue="shelf")
        ends = [finish(first), finish(second)]
        report.check([e["succeeded"] for e in ends] == [5000, 2000] and not any(e["refused"] for e in ends),
                     f"after the restart all are there and end once: {[e['succeeded'] for e in ends]}")
    shim.unlink()


def main():
    report = Report("disk_full")
    cluster = SmallDisk(workers=1, settings=SMALL)
    try:
        with cluster:
            low_disk(cluster, report)
            full_disk(cluster, report)
            cluster.keep = bool(report.failed)
    except subprocess.CalledProcessError as error:
        if error.cmd[0] != "mount":
            raise
        print(f"SKIPPED the full disk: can not mount a tmpfs ({error.stderr.decode().strip()})")
        cluster.keep = False
        cluster.stop()
        report.fact(full_disk="SKIPPED")
    failing_sync(report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
