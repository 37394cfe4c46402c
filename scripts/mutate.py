#!/usr/bin/env python3
"""Hunts the planted bugs: builds dray_sim_mutants and runs every mutant of
common/base/mutant_list.h against the simulation. Each must be found, or the run fails.

usage: scripts/mutate.py [--build-dir DIR] [--seeds N] [--jobs J] [MUTANT...]
  --build-dir DIR  a configured build (default build/release)
  --seeds N        seeds to try on each mutant (default 1000)
"""
import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build/release")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("mutants", nargs="*")
    args = parser.parse_args()
    subprocess.run(["ninja", "-C", args.build_dir, "dray_sim_mutants"], check=True,
                   stdout=subprocess.DEVNULL)
    program = args.build_dir / "bin/dray_sim_mutants"
    options = ["--seeds", str(args.seeds), "--jobs", str(args.jobs)]
    if not args.mutants:
        return subprocess.run([program, "--all", *options], check=False).returncode
    alive = []
    for name in args.mutants:
        known = subprocess.run([program, "--mutant", name, "--seed", "1"], check=False,
                               capture_output=True).returncode
        if known == 2:
            sys.exit(f"no mutant '{name}'; see common/base/mutant_list.h")
        run = subprocess.run([program, "--mutant", name, *options], check=False,
                             capture_output=True, text=True)
        found = [line for line in run.stdout.splitlines() if line.startswith("FAILED: seed")]
        print(f"{name}: {found[0] if found else 'SURVIVES'}")
        if not found:
            alive.append(name)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
