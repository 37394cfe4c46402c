#!/usr/bin/env python3
"""Hostile peers: random bytes, broken ZMTP, endless and oversized messages, and damaged messages of
the protocol, against router and broker while a good client works. And bad wishes of an honest user
get one clear line each. calls_hostile.py does the same for calls.

usage: tests/system/hostile.sh       short runs attack for 8 s, long ones for 60 s; SEED=N repeats
"""
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

from cluster import LONG, Cluster, Report, finish, memory_of

SECONDS = 60 if LONG else 8
SEED = int(os.environ.get("SEED", time.time()))
MIB_MAX = 1024
SETTINGS = {"worker.slots": 4, "broker.lease_ttl": "8s", "broker.beat_interval": "500ms",
            "broker.resume_window": "8s"}

GREETING = (b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0" + b"NULL".ljust(20, b"\0") + b"\0" + b"\0" * 31)


def ready_command(kind=b"DEALER"):
    name, value = b"Socket-Type", kind
    body = (b"\x05READY" + bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
            + b"\x08Identity" + (0).to_bytes(4, "big"))
    return b"\x04" + bytes([len(body)]) + body


# --- one attack each: bytes to write until the peer closes or the time is over ---------------------

def random_bytes(rng):
    while True:
        yield rng.randbytes(rng.randrange(1, 5000))


def greeting_garbage(rng):
    yield bytes([0xff]) + rng.randbytes(8) + b"\x7f" + rng.randbytes(rng.randrange(0, 60))


def wrong_mechanism(rng):
    yield GREETING[:12] + rng.choice([b"CURVE", b"PLAIN", b"GSSAPI", b"\xff" * 20]).ljust(20, b"\0") + GREETING[32:]
    yield rng.randbytes(200)


def half_handshake(rng):
    whole = GREETING + ready_command()
    yield whole[:rng.randrange(1, len(whole))]
    time.sleep(0.5)


def bad_ready(rng):
    yield GREETING
    yield b"\x04" + bytes([rng.randrange(0, 255)]) + rng.randbytes(rng.randrange(0, 300))


def wrong_type(rng):
    yield GREETING + ready_command(rng.choice([b"ROUTER", b"PUB", b"SUB", b"XYZ", b"REQ", b"PAIR"]))
    yield rng.randbytes(100)


def endless_multipart(_rng):
    yield GREETING + ready_command()
    frame = b"\x01\xff" + b"m" * 255  # "more" for ever
    while True:
        yield frame * 200


def endless_empty_parts(_rng):
    yield GREETING + ready_command()
    while True:
        yield b"\x01\x00" * 5000


def oversized_frame(rng):
    yield GREETING + ready_command()
    yield b"\x02" + rng.choice([2 ** 63 - 1, 2 ** 40, 2 ** 31, 200 << 20]).to_bytes(8, "big")
    while True:
        yield b"o" * 65536


def large_frames(_rng):
    yield GREETING + ready_command()
    while True:
        yield b"\x02" + (7 << 20).to_bytes(8, "big")
        for _ in range(7 << 4):
            yield b"l" * 65536


def many_small_messages(rng):
    yield GREETING + ready_command()
    while True:
        yield b"".join(b"\x00" + bytes([n]) + rng.randbytes(n) for n in rng.choices(range(1, 60), k=200))


ATTACKS = [random_bytes, greeting_garbage, wrong_mechanism, half_handshake, bad_ready, wrong_type,
           endless_multipart, endless_empty_parts, oversized_frame, large_frames,
           many_small_messages]


class Attacker(threading.Thread):
    def __init__(self, targets, seed, until):
        super().__init__(daemon=True)
        self.targets, self.rng, self.until = targets, random.Random(seed), until
        self.tried, self.bytes = {}, 0

    def run(self):
        while time.monotonic() < self.until:
            attack = self.rng.choice(ATTACKS)
            self.tried[attack.__name__] = self.tried.get(attack.__name__, 0) + 1
            try:
                self.attack(attack)
            except OSError:
                pass  # closed or refused: what it should do

    def attack(self, attack):
        target = self.rng.choice(self.targets)
        family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET
        stop = min(self.until, time.monotonic() + 1.5)
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(0.5)
            s.connect(target)
            for piece in attack(self.rng):
                s.sendall(piece)
                self.bytes += len(piece)
                if time.monotonic() > stop:
                    break


def attack_sockets(cluster, report, tcp):
    begin = time.monotonic()
    targets = [str(cluster.dir / "run/router.sock"), str(cluster.dir / "run/broker.sock"),
               str(cluster.dir / "run/aggregator.sock"), ("127.0.0.1", tcp)]
    attackers = [Attacker(targets, SEED + n, begin + SECONDS / 2) for n in range(4)]
    good = cluster.start_client("ping", "--seconds", SECONDS / 2 + 1)
    for a in attackers:
        a.start()
    for a in attackers:
        a.join()
    tried = {}
    for a in attackers:
        for name, n in a.tried.items():
            tried[name] = tried.get(name, 0) + n
    out = finish(good)
    report.check(out["failed"] == 0 and out["good"] > 10,
                 f"raw bytes: {sum(a.bytes for a in attackers) >> 20} MiB in {sum(tried.values())} "
                 f"connections; the good client did {out['good']} tasks, slowest {out['slowest_s']:.2f} s")
    report.fact(connections=sum(tried.values()))


def attack_protocol(cluster, report):
    peers = [cluster.start_raw("mutate", "--role", role, "--seconds", SECONDS / 2, "--seed",
                               SEED + n, to=to)
             for n, (role, to) in enumerate([("client", "router"), ("worker", "broker"),
                                             ("router", "broker"), ("router", "aggregator")])]
    good = cluster.start_client("ping", "--seconds", SECONDS / 2)
    results = [finish(p) for p in peers]
    out = finish(good)
    report.check(all(r["sent"] > 100 for r in results),
                 f"damaged messages sent: {[r['sent'] for r in results]}, refused with {results[0]['rejects']}")
    report.check(out["failed"] == 0 and out["good"] > 10,
                 f"the good client did {out['good']} tasks, slowest {out['slowest_s']:.2f} s")
    report.fact(messages=sum(r["sent"] for r in results), slowest_s=f"{out['slowest_s']:.2f}")


def judge_processes(cluster, report, before):
    after = cluster.pids()
    report.check(after == before and not cluster.bad_exits(), f"no process ended {cluster.bad_exits()}")
    peak = {name: round(memory_of(pid, "VmHWM")) for name, pid in after.items()}
    report.check(max(peak.values()) <= MIB_MAX, f"peak memory in MiB: {peak} (limit {MIB_MAX})")


# --- honest mistakes ------------------------------------------------------------------------------

def expect(report, title, out, code, *words):
    text = f"{out.get('error') or out.get('code')}: {out.get('detail') or out.get('bytes')}"
    report.check((out.get("error") or out.get("code")) == code and all(w in text for w in words)
                 and "\n" not in text, f"{title} -> {text}")


def bad_wishes(cluster, report):
    one = lambda *args: cluster.client("submit", "--timeout", 5000, *args)  # noqa: E731
    expect(report, "unknown handler", one("--handler", "no.such"), "unknown_handler", "no.such")
    expect(report, "unknown resource", one("--handler", "echo", "--resource", "qpu"), "infeasible", "qpu")
    expect(report, "too much of a resource", one("--handler", "echo", "--resource", "cpu", "--amount", 999),
           "infeasible", "cpu")
    waits = cluster.admin("broker", "explain", id=one("--handler", "echo", "--label", "moon")["id"])["why"]
    report.check(any("lack a label" in line for line in waits), f"unknown label waits -> {waits}")
    expect(report, "payload too large", one("--handler", "echo", "--payload-bytes", (4 << 20) + 1),
           "too_large", str(4 << 20))
    expect(report, "max_lost out of range", one("--handler", "echo", "--max-lost", 0), "bad_argument", "max_lost")


def bad_config(cluster, report):
    def start(program, *sets):
        args = [a for s in sets for a in ("--set", s)]
        done = subprocess.run([cluster.dir / "bin" / program, "--dir", cluster.dir / "other", *args],
                              capture_output=True, text=True, timeout=20,
                              env={k: v for k, v in os.environ.items() if not k.startswith("DRAY_")})
        return done.returncode, done.stderr.strip()

    def refused(title, answer, *words):
        code, text = answer
        report.check(code not in (0, -6, -11) and all(w in text for w in words)
                     and len(text.splitlines()) <= 2, f"{title} -> exit {code}: {text}")
    (cluster.dir / "other").mkdir(exist_ok=True)
    refused("wrong key", start("dray-broker", "broker.lease_tll=1s"), "broker.lease_tll", "broker.lease_ttl")
    refused("wrong type", start("dray-broker", "broker.tasks_max=many"), "broker.tasks_max")
    refused("public address", start("dray-router", "router.endpoint=tcp://0.0.0.0:5555"), "router.endpoint", "0.0.0.0")
    refused("a rule between keys", start("dray-broker", "broker.lease_ttl=1s"), "broker.lease_ttl", "broker.beat_interval")
    shutil.rmtree(cluster.dir / "other", ignore_errors=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port, limit_s=10):
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False


def main():
    report = Report("hostile")
    tcp = free_port()
    # The good client's cluster, and a second router of it on a tcp port for the attackers.
    with Cluster(workers=1, settings=SETTINGS) as cluster:
        second = subprocess.Popen(
            [cluster.dir / "bin/dray-router", "--config", cluster.dir / "dray.toml", "--dir",
             cluster.dir, "--set", f"router.endpoint=tcp://127.0.0.1:{tcp}", "--set", "router.http=",
             "--set", "router.name=second",
             "--set", f"router.worker_endpoint=ipc://{cluster.dir}/run/second-workers.sock"],
            stdout=subprocess.DEVNULL, stderr=open(cluster.dir / "log/second.log", "w"))
        try:
            report.check(listens(tcp), f"a router listens on tcp port {tcp}")
            before = cluster.pids()
            bad_wishes(cluster, report)
            bad_config(cluster, report)
            attack_sockets(cluster, report, tcp)
            attack_protocol(cluster, report)
            judge_processes(cluster, report, before)
            report.check(second.poll() is None, "the router on tcp is up too")
            report.fact(seed=SEED)
        finally:
            second.kill()
            second.wait()
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
