"""Many small runs: what a run costs beside its rounds and evaluations.

    python benchmarks/many_runs.py [--runs 400] [--jobs N] [--in-folders]

A sweep of seeds: 5 rounds of `logreg` on `synthetic` in process, with the defaults of a run for
the rest, as ``python -m byzpy_tw sweep`` runs it.  The overhead of a run is

    (cores x wall time - seconds inside rounds and evaluations) / runs

in which the wall time is all of the command's: imports, the plan, the page, and the end.  The
second figure leaves out what a sweep of one run takes: it is that of a long sweep.  Seconds
inside rounds are those of their records.  An evaluation takes no time of its own there, for it goes
on beside the next round; so what it costs counts as overhead, but for the last one's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from byzpy_tw.kernels.cpu import cores

ROUNDS = 5


def sweep(runs: int, jobs: int, records: str, folder: Path) -> float:
    """Run the sweep, and return its seconds."""
    words = ["--model", "logreg", "--dataset", "synthetic", "--rounds", str(ROUNDS)]
    words += ["--num-honest", "3", "--num-byz", "1", "--aggregators", "multi-krum"]
    words += ["--attacks", "empire", "--partition", "stride", "--batch-size", "64"]
    words += ["--seeds", *map(str, range(runs)), "--eval-interval", "10"]
    words += ["--jobs", str(jobs), "--records", records, "--out", str(folder)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "byzpy_tw", "sweep", *words], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def seconds_in_rounds(folder: Path) -> float:
    """Return the sum over all runs."""
    lines = folder / "runs.jsonl"
    if lines.exists():
        entries = map(json.loads, lines.read_text("utf-8").splitlines())
        return sum(entry["seconds_a_round"] * entry["rounds"] for entry in entries)
    found = 0.0
    for path in folder.glob("cells/*/rounds.jsonl"):
        found += sum(json.loads(line)["seconds"] for line in path.read_text("utf-8").splitlines())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=cores())
    parser.add_argument("--in-folders", action="store_true", help="a folder for each run")
    chosen = parser.parse_args()
    records = "folders" if chosen.in_folders else "lines"
    with tempfile.TemporaryDirectory() as folder:
        alone = sweep(1, 1, records, Path(folder) / "one")
        wall = sweep(chosen.runs, chosen.jobs, records, Path(folder) / "all")
        inside = seconds_in_rounds(Path(folder) / "all")
    for name, seconds in (("all", wall), ("without the start", wall - alone)):
        overhead = (cores() * seconds - inside) / chosen.runs
        print(f"{name:18} {seconds:7.1f} s, {1000 * overhead:6.1f} ms a run beside its rounds")
    print(f"inside rounds      {1000 * inside / chosen.runs:6.1f} ms a run")


if __name__ == "__main__":
    main()
