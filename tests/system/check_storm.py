#!/usr/bin/env python3
"""Judges a kill storm from what was written outside the system: the client's log (kill_storm.cpp says
what its lines mean), the witness lines of the tasks, the killer's log, and what a fresh client
fetched before and after one more restart of everything.

usage: check_storm.py --dir DIR [--json]     files: client.log witness.log kills.log fetch1.log fetch2.log
Exit code 0: every rule holds. One summary line; --json: the numbers too.
"""
import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

SUCCEEDED, FAILED, CANCELLED, EXPIRED, DEAD = 10, 11, 12, 13, 14
MAY_END = {"w": {SUCCEEDED}, "l": {SUCCEEDED}, "f": {SUCCEEDED}, "p": {FAILED}, "d": {DEAD},
           "e": {SUCCEEDED, EXPIRED}}
WITNESSES = "wel"


class Task:
    __slots__ = ("kind", "number", "round", "accepted", "told", "twin", "cancels", "conflict")

    def __init__(self, kind, number, round_):
        self.kind, self.number, self.round = kind, number, round_
        self.accepted = False
        self.told = self.twin = None
        self.cancels = None
        self.conflict = False


class Judge:
    def __init__(self, folder):
        self.dir = Path(folder)
        self.tasks = {}
        self.broken = Counter()  # rule -> how often
        self.examples = defaultdict(list)
        self.numbers = {}

    def breach(self, rule, text):
        self.broken[rule] += 1
        if len(self.examples[rule]) < 3:
            self.examples[rule].append(text)

    def lines(self, name):
        path = self.dir / name
        if not path.exists():
            self.breach("complete", f"no {name}")
            return
        with open(path, errors="replace") as f:
            for line in f:
                yield line.split()

    # --- the client's log -----------------------------------------------------------------------

    def read_client(self):
        rounds = set()
        for w in self.lines("client.log"):
            tag, task = w[0], self.tasks.get(w[1])
            if tag == "P" or tag == "S":
                if task is not None and task.number is not None:
                    self.breach("unique ids", w[1])
                new = Task(w[2], w[3], w[4] if tag == "P" else None)
                if task is not None:  # a result may be logged before the line of its submit
                    new.told, new.twin, new.cancels = task.told, task.twin, task.cancels
                self.tasks[w[1]] = new
            elif tag == "A":
                rounds.add(w[1])
            elif tag == "E":
                self.breach("client", " ".join(w[1:]))
            else:
                if task is None:
                    task = self.tasks[w[1]] = Task(None, None, None)
                self.note(tag, task, w)
        for id_, task in self.tasks.items():
            if task.kind is None:
                self.breach("known ids", id_)
                task.kind = "w"
            if task.round in rounds and not (task.told and task.told[0] == 0):
                task.accepted = True

    def note(self, tag, task, w):
        if tag == "R":
            if task.told is not None:
                self.breach("one result", f"{w[1]}: {task.told} and {w[2:]}")
            task.told = self.outcome(w)
        elif tag == "T":
            task.twin = self.outcome(w)
        elif tag == "C":
            task.cancels = (task.cancels or ()) + (int(w[2]),)
        elif tag == "X":
            task.conflict = True
        elif tag in "BD":
            task.accepted = True

    @staticmethod
    def outcome(w):
        return int(w[2]), int(w[3]), int(w[4]), w[5] if len(w) > 5 else ""

    def judge_results(self):
        for id_, t in self.tasks.items():
            if not t.accepted:
                continue
            if t.told is None or t.told[0] == 0:
                self.breach("accepted is never lost", f"{id_}: {t.told}")
                continue
            if t.twin is not None and t.twin != t.told:
                self.breach("one state", f"{id_}: {t.told}, second client {t.twin}")
            self.judge_end(id_, t)

    def judge_end(self, id_, t):
        state, _, _, text = t.told
        if state == CANCELLED:
            if not t.cancels:
                self.breach("right end", f"{id_}: cancelled, and nobody asked for it")
        elif state not in MAY_END[t.kind]:
            self.breach("right end", f"{id_}: kind {t.kind} ended as {t.told}")
        elif state == SUCCEEDED and text != t.number:
            self.breach("right bytes", f"{id_}: {text} instead of {t.number}")
        for answer in t.cancels or ():
            if answer >= SUCCEEDED and answer != state:
                self.breach("one state", f"{id_}: cancel was told {answer}, the result is {state}")

    def judge_stored(self):
        stored = []
        for name in ("fetch1.log", "fetch2.log"):
            stored.append({w[1]: self.outcome(w) for w in self.lines(name)})
        for id_, t in self.tasks.items():
            first, second = (s.get(id_) for s in stored)
            if first != second:
                self.breach("state never changes", f"{id_}: {first}, later {second}")
            if t.told and t.told[0] and first != t.told:
                self.breach("stored is what was told", f"{id_}: told {t.told}, stored {first}")
            if t.accepted and (first is None or first[0] < SUCCEEDED):
                self.breach("accepted is never lost", f"{id_}: stored {first}")

    # --- witnesses ------------------------------------------------------------------------------

    def read_kills(self):
        kills = [json.loads(line) for line in open(self.dir / "kills.log")]
        self.died = {k["pid"]: k["at_us"] for k in kills}
        self.numbers["kills"] = len(kills)
        self.numbers["kills_by_service"] = dict(Counter(k["name"] for k in kills))
        self.worker_kills = sum(k["name"].startswith("worker") for k in kills)

    def read_witnesses(self):
        runs = defaultdict(dict)  # id -> token -> [attempt, pid, start, end, last word]
        pids = Counter()
        first, last = None, 0
        for w in self.lines("witness.log"):
            if len(w) != 6:
                self.breach("whole witness lines", " ".join(w))
                continue
            word, id_, attempt, token, pid, at = w
            at, pid = int(at), int(pid)
            first, last = first or at, at
            if word == "start":
                pids[pid] += 1
                if token in runs[id_]:
                    self.breach("one run for a token", f"{id_} {token}")
                runs[id_][token] = [int(attempt), pid, at, None, word]
            elif token in runs[id_]:
                runs[id_][token][3:] = at, word
            else:
                self.breach("start before end", f"{id_} {token}")
        self.runs = runs
        self.numbers["seconds"] = round((last - (first or 0)) / 1e6, 1)

    def judge_runs(self):
        starts, lost_running, lost_done, overlaps = 0, 0, 0, 0
        for id_, by_token in self.runs.items():
            t = self.tasks.get(id_)
            if t is None:
                self.breach("known ids", f"{id_} ran and was never submitted")
                continue
            runs = sorted(by_token.values(), key=lambda r: r[2])
            starts += len(runs)
            if len({r[0] for r in runs}) != len(runs):
                self.breach("one token for an attempt", f"{id_}: {runs}")
            for earlier, later in zip(runs, runs[1:]):
                end = earlier[3] or self.died.get(earlier[1])
                if end is None or later[2] < end:
                    overlaps += 1
                    self.breach("no two runs at once", f"{id_}: {earlier} and {later}")
                if earlier[1] not in self.died:
                    self.breach("run again only after a kill", f"{id_}: {earlier} then {later}")
                lost_running += earlier[3] is None
                lost_done += earlier[3] is not None
        self.numbers.update(starts=starts, runs_lost_running=lost_running,
                            runs_lost_unsettled=lost_done, overlaps=overlaps)
        for id_, t in self.tasks.items():
            if t.kind in WITNESSES and t.told and t.told[0] == SUCCEEDED:
                ends = [r for r in self.runs.get(id_, {}).values() if r[4] == "end"]
                if not any(r[0] == t.told[2] for r in ends):
                    self.breach("a success was witnessed", f"{id_}: {t.told}, ends {ends}")

    # --- all ------------------------------------------------------------------------------------

    def judge(self):
        self.read_client()
        self.read_kills()
        self.read_witnesses()
        self.judge_results()
        self.judge_stored()
        self.judge_runs()
        accepted = [t for t in self.tasks.values() if t.accepted]
        states = Counter(t.told[0] for t in accepted if t.told)
        self.numbers.update(
            tasks=len(self.tasks), accepted=len(accepted), states=dict(sorted(states.items())),
            told_twice_the_same=sum(t.twin is not None for t in accepted),
            conflicts=sum(t.conflict for t in accepted),
            cancel_wishes=sum(len(t.cancels or ()) for t in accepted),
            worker_kills=self.worker_kills)
        return not self.broken

    def summary(self):
        n = self.numbers
        b = self.broken
        lost = b["accepted is never lost"]
        twice = b["one result"] + b["state never changes"] + b["one run for a token"]
        two = b["one state"] + b["stored is what was told"]
        return (f"{n['tasks']} tasks, {n['accepted']} accepted, {n['kills']} kills: {lost} lost, "
                f"{twice} committed twice, {two} in two states, {n['overlaps']} overlaps, "
                f"{n['starts']} starts ({n['runs_lost_running']} lost running, "
                f"{n['runs_lost_unsettled']} lost unsettled, {n['worker_kills']} worker kills)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", required=True)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    judge = Judge(args.dir)
    good = judge.judge()
    for rule, count in judge.broken.items():
        print(f"FAIL {rule}: {count} times, such as")
        for text in judge.examples[rule]:
            print(f"     {text}")
    if args.json:
        print(json.dumps({**judge.numbers, "breaches": dict(judge.broken)}))
    print(f"check_storm: {'ok' if good else 'FAILED'}: {judge.summary()}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
