"""Searching attacks on a sample of the coordinates: their damage, and the time of a round.

    python benchmarks/search.py --data-root DIR [--attack opt-alie] [--rounds 200] [--turns 3]
        [--only damage,time]

The job: ten honest and two Byzantine nodes, `cnn-mnist` on full MNIST (``DIR/MNIST/raw`` has its
files), batch 25, ``gamma:gamma=0.66``, ``clipping:c=2 | nnm | trimmed-mean``, in one process.

damage   one run of `--rounds` rounds that follows the sample; in each round the exact search is
         made too, and both strengths are scored on all coordinates.  The damage of one is the
         distance that it moves the pipeline's output from the honest mean.
time     by turns, a run with ``--search sample`` and one with ``--search exact``: medians of the
         rounds and of their phases, and the processor time of a round, which other programs on the
         same cores change less.

Nothing is evaluated.  Each run has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from statistics import median
from typing import Any

from byzpy_tw.plugins import hookimpl

SKIPPED = 5  # rounds at the start of each run
TIMED = 40  # rounds of a turn


def words(args: argparse.Namespace, folder: str, rounds: int, search: str) -> list[str]:
    return [
        "--in-process", "--num-honest", "10", "--num-byz", "2", "--f", "2",
        "--model", "cnn-mnist", "--batch-size", "25", "--dataset", "mnist",
        "--data-root", args.data_root, "--partition", "gamma:gamma=0.66",
        "--pre-aggregator", "clipping:c=2", "nnm", "--aggregator", "trimmed-mean",
        "--attack", args.attack, "--search", search, "--rounds", str(rounds), "--lr", "0.1",
        "--worker-momentum", "0.9", "--momentum", "0", "--weight-decay", "0.0001",
        "--eval-interval", "0", "--checkpoint-interval", "0", "--quiet",
        "--run-dir", f"{folder}/run",
    ]  # fmt: skip


class Clock:
    """A plugin: the processor time at the end of each round."""

    def __init__(self) -> None:
        self.at: list[float] = []

    @hookimpl
    def round_completed(self, record: Any) -> None:
        self.at.append(time.process_time())


def train(args: argparse.Namespace, rounds: int, search: str) -> dict[str, Any]:
    """Milliseconds of a round, of its phases and of the processor; medians of one run."""
    from byzpy_tw.cli.run import run_program
    from byzpy_tw.cli.train import configuration
    from byzpy_tw.plugins import load

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(words(args, folder, rounds, search))
        code = run_program(config, load(extra={"clock": clock}))
        assert code == 0, code
        with open(f"{folder}/run/rounds.jsonl") as lines:
            records = [json.loads(line) for line in lines][SKIPPED:]
    spent = [b - a for a, b in zip(clock.at, clock.at[1:])][SKIPPED - 1 :]
    found = {"round": median(r["seconds"] for r in records), "cpu": median(spent)}
    for phase in records[0]["phases"]:
        found[phase] = median(r["phases"][phase] for r in records)
    return {name: 1e3 * value for name, value in found.items()}


def damage(args: argparse.Namespace) -> list[dict[str, float]]:
    """Both searches in each round of a run: their damage, and their processor time."""
    from byzpy_tw.attacks import optimal
    from byzpy_tw.attacks.line_search import line_maximize
    from byzpy_tw.attacks.target import Target
    from byzpy_tw.kernels.parallel import run_single_threaded

    rounds: list[dict[str, float]] = []

    def both(attack: Any, known: Any, *, context: Any = None, memory: Any = None) -> float:
        aim = Target(
            pipeline=attack.aggregator, copies=2, known=known, context=context, memory=memory
        )
        near = partial(attack.coefficients, known)

        def measure() -> float:
            begun = time.process_time()
            exact = aim.score_from_vectors(partial(attack.at, known))
            best = line_maximize(exact)
            turned = time.process_time()
            sampled = line_maximize(aim.score_from_sample(attack.direction, near, attack.at))
            ended = time.process_time()
            rounds.append(
                {
                    "share": (exact(sampled) / exact(best)) ** 0.5,
                    "exact": 1e3 * (turned - begun),
                    "sample": 1e3 * (ended - turned),
                    "same": float(best == sampled),
                }
            )
            return sampled

        return run_single_threaded(measure)

    optimal._Search.strength = both  # type: ignore[assignment]
    train(args, args.rounds, "sample")
    return rounds


def apart(args: argparse.Namespace, *more: str) -> Any:
    command = [
        sys.executable, __file__, "--data-root", args.data_root, "--attack", args.attack,
        "--rounds", str(args.rounds), *more,
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_damage(args: argparse.Namespace) -> None:
    found = apart(args, "--measure", "damage")
    shares = sorted(one["share"] for one in found)
    same = sum(one["same"] for one in found) / len(found)
    print(
        f"{args.attack}, {len(found)} rounds: damage of the sampled search over the exact one's: "
        f"median {median(shares):.4f}, one in twenty below {shares[len(shares) // 20]:.4f}, "
        f"least {shares[0]:.4f}; the same strength in {same:.0%} of the rounds"
    )
    for name in ("exact", "sample"):
        spent = median(one[name] for one in found)
        print(f"processor time of the {name} search: {spent:.0f} ms a round")


def print_time(args: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, float]]] = {"exact": [], "sample": []}
    for turn in range(args.turns):
        for search, runs in found.items():
            runs.append(apart(args, "--measure", search))
            print(f"turn {turn}: {search} {runs[-1]['round']:.0f} ms", flush=True)
    names = list(found["exact"][0])
    print(f"\n{'ms a round':12}" + "".join(f"{name:>11}" for name in names))
    for search, runs in found.items():
        print(f"{search:12}" + "".join(f"{median(r[n] for r in runs):11.1f}" for n in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", default="./data")
    parser.add_argument("--attack", default="opt-alie")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", default="damage,time")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure == "damage":
        print(json.dumps(damage(args)))
    elif args.measure:
        print(json.dumps(train(args, TIMED, args.measure)))
    else:
        if "damage" in args.only:
            print_damage(args)
        if "time" in args.only:
            print_time(args)


if __name__ == "__main__":
    main()
