"""Runs with faulty nodes beside runs without: what they cost, in accuracy and in time.

    python benchmarks/faulty.py [--seeds 3] [--rounds 60]

Six honest nodes and f = 2 that from the first round on are silent, slow, send garbage or
old vectors, or lie, on two servers of this machine; logreg on mnist5k, nnm before
trimmed-mean (alone, that loses six points to label-flip, which nnm wins back).  The
accuracy is the mean of a run's last three evaluations and of all seeds.  A run waits in a
round that takes longer than half of the first phase's deadline; that is the number that
the last column gives, of the worst run.  Then f + 1 of them: the run must pause, exit
code 3.  The exit code is the number of lines that do not keep what docs/faults.md says.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

TIMEOUT, F = 2.0, 2
KINDS = (
    "none", "silent", "slow", "garbage", "replay", "nan", "sign-flip", "alie:tau=1.5", "empire",
    "gaussian", "label-flip",
)  # fmt: skip
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
READY = re.compile(r"listening on (tcp://\S+?),")
JOB = [
    *("--dataset", "mnist5k", "--model", "logreg", "--num-honest", "6", "--f", str(F)),
    *("--pre-aggregator", "nnm"),
    *("--aggregator", "trimmed-mean", "--round-timeout", str(TIMEOUT), "--eval-interval", "5"),
    *("--replace-timeout", "2"),
]


@contextmanager
def servers(count: int) -> Iterator[str]:
    """So many, at addresses that are one option's value."""
    command = [*TWISTD, "-n", "--pidfile=", "byzpy-server", "--port", "0", "--until-eof"]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        found = []
        for server in started:
            assert server.stdout is not None
            found.append(next(m.group(1) for line in server.stdout if (m := READY.search(line))))
        yield ",".join(found)
    finally:
        for server in started:
            server.kill()
            server.wait()


def trained(hosts: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        command = [sys.executable, "-m", "byzpy_tw.train", "--remote-hosts", hosts, *JOB]
        command += [*options, "--quiet", "--run-dir", str(path)]
        code = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
        ).returncode
        return code, [json.loads(line) for line in (path / "rounds.jsonl").open()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    chosen = parser.parse_args()
    usual, bad = 0.0, 0
    with servers(2) as hosts:
        print(f"{'attack':12} accuracy   points   longest round   rounds that waited", flush=True)
        for kind in KINDS:
            found = [
                trained(hosts, "--rounds", str(chosen.rounds), "--seed", str(seed),
                        "--attack", kind, "--num-byz", str(F if kind != "none" else 0))
                for seed in range(chosen.seeds)
            ]  # fmt: skip
            accuracies = [[r["accuracy"] for r in rounds if "accuracy" in r] for _, rounds in found]
            accuracy = mean(mean(each[-3:]) for each in accuracies)
            usual = usual or accuracy
            longest = max(r["seconds"] for _, rounds in found for r in rounds)
            waited = max(sum(r["seconds"] > TIMEOUT / 4 for r in rounds) for _, rounds in found)
            kept = (
                all(code == 0 for code, _ in found)
                and accuracy > usual - 0.03
                and longest < TIMEOUT + 0.5
                and waited <= 5 * F
            )
            bad += not kept
            points = 100 * (accuracy - usual)
            print(f"{kind:12} {accuracy:8.4f} {points:+8.2f} {longest:13.2f} s {waited:12}"
                  f"{'' if kept else '   NOT KEPT'}", flush=True)  # fmt: skip
        for kind in ("silent", "garbage"):
            code, rounds = trained(
                hosts, "--rounds", "20", "--attack", kind, "--num-byz", str(F + 1)
            )
            bad += code != 3
            print(f"{F + 1} of them {kind}: exit code {code} after {len(rounds)} rounds")
    return bad


if __name__ == "__main__":
    sys.exit(main())
