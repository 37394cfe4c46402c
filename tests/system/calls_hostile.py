#!/usr/bin/env python3
"""Hostile peers of the call lane: wishes that can not be, workers that answer with anything, a
router that sends anything, clients at the door of workers and the other way round; while good
clients call.

usage: tests/system/calls_hostile.sh   short runs attack for 4 s, long ones for 60 s; SEED=N repeats
"""
import os
import sys
import time

from cluster import LONG, Cluster, Report, finish, wait_for
from hostile import judge_processes

SECONDS = 60 if LONG else 4
SEED = int(os.environ.get("SEED", time.time()))
FALSE_ROUTER = "false-router"
# The good client's calls may wait behind what the false router makes the worker do.
DEADLINE_MS = 10_000
EVIL_DEADLINE_MS = 300

ANSWERS = {
    "unknown handler": "rejected: unknown_handler",
    "deadline 0": "reply",
    "deadline of an hour": "reply",
    "deadline of 2^63": "refused: bad_message",
    "no items": "refused: bad_message",
    "65535 items": "rejected: too_large",
    "strange flags": "reply",
    "no handler": "refused: bad_message",
    "a long name": "refused: bad_message",
    "a long model": "refused: bad_message",
    "a window of 2^64-1": "refused: bad_message",
    "bytes that are not there": "refused: bad_message",
    "bytes of nobody": "refused: bad_message",
    "no call at all": "silence",
    "one number twice": "refused: bad_argument + reply",
    "number 2^64-1": "reply",
    "OFFER": "refused: bad_message",
    "DONE": "refused: bad_message",
    "RUN": "refused: bad_message",
    "STOP": "refused: bad_message",
    "REPLY": "refused: bad_message",
    "DRAIN": "refused: bad_message",
    "cancels and credit for nothing": "reply",
}


def is_settled(cluster):
    """A router that has just started does not say yet that nobody ever offered a handler."""
    out = finish(cluster.start_calls("load", "--handler", "nobody", "--rate", 10, "--seconds", 0.1))
    return "unknown_handler" in out["first_bad"]


def impossible_wishes(cluster, report):
    wait_for(lambda: is_settled(cluster), 30, "the router to know its workers")
    answers = finish(cluster.start_hostile("client"))
    for title, answer in ANSWERS.items():
        report.check(answers[title] == answer, f"{title} -> {answers[title]}")


def attack(cluster, report):
    good = cluster.start_calls("load", "--handler", "echo", "--rate", 200, "--seconds", SECONDS + 2,
                               "--deadline", DEADLINE_MS)
    peers = {"a worker that lies": cluster.start_hostile("worker", "--seconds", SECONDS, "--seed", SEED,
                                                         to="router-workers"),
             "a router that lies": cluster.start_hostile("router", "--seconds", SECONDS, "--seed", SEED,
                                                         to=FALSE_ROUTER)}
    for role, to in (("client", "router"), ("worker", "router"), ("worker", "router-workers"),
                     ("client", "router-workers")):
        peers[f"damage from a {role} at {to}"] = cluster.start_raw(
            "mutate", "--role", role, "--seconds", SECONDS, "--seed", SEED, to=to)
    wait_for(lambda: cluster.deployment("evil"), 20, "the lying worker's offer")
    victim = cluster.start_calls("load", "--handler", "evil", "--rate", 50, "--seconds", SECONDS - 1,
                                 "--deadline", EVIL_DEADLINE_MS)
    for title, peer in peers.items():
        print(f"     {title}: {finish(peer)}")
    out = finish(good)
    report.check(set(out["ends"]) == {"reply"} and out["without_end"] == out["wrong_replies"] == 0,
                 f"the good client made {out['calls']} calls: {out['ends']} {out['first_bad']}")
    met = finish(victim)
    report.check(met["without_end"] == met["ended_twice"] == 0,
                 f"who called the lying worker got one end for each of {met['calls']} calls: {met['ends']} {met['first_bad']}")
    state = wait_for(lambda: left_nothing(cluster), 20, "the router to be empty")
    report.check(state["calls"] == state["call_bytes"] == 0, "no call is left at the router")
    report.fact(good_calls=out["calls"], slowest_ms=out["max_ms"], seed=SEED)


def left_nothing(cluster):
    state = cluster.state("router")
    return state if state and state["calls"] == 0 and state["workers"] == 1 else None


def main():
    report = Report("calls_hostile")
    # The worker dials the false router, too.
    settings = {"worker.call_slots": 4, "worker.allow_test_handlers": False,
                "worker.routers": [f"ipc://run/{name}.sock" for name in ("router-workers", FALSE_ROUTER)]}
    with Cluster(workers=1, settings=settings) as cluster:
        wait_for(lambda: cluster.has_workers("router", 1), 30, "a worker that takes calls")
        before = cluster.pids()
        impossible_wishes(cluster, report)
        attack(cluster, report)
        judge_processes(cluster, report, before)
        cluster.keep = bool(report.failed)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
