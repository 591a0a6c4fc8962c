"""Whole rounds of the seed job, against ByzPy 0.1.4 and against the bare gradients.

    python benchmarks/rounds.py [--peers DIRECTORY] [--pairs 5] [--rounds 40] [--servers 3]

The job: 3 honest and 1 Byzantine node (the honest mean, turned round), small-cnn on
mnist5k, batch 64, multi-krum with f = 1 and q = 2, on three servers of this machine.

    ours         `twistd byzpy-server` processes and a trainer
    in-process   the same run in one process
    byzpy        ByzPy's distributed example: remote actor servers, its ParameterServer
    byzpy-lean   the same, without pools and loaders (see `byzpy_example.py`)
    bare         the three gradients alone, one after the other, each by torch's own
                 threads on all cores; the network of the example
    bare-best    the same gradients as our nodes compute them: our network, two
                 micro-batches each on a pool of all cores, memory kept between rounds

Each has a turn in each pair; a turn is the median round of `--rounds`, without the
first five, and nothing is evaluated.  Two more are whole jobs, of the length that is the
default of both programs: 50 rounds from the first on, with an evaluation every ten.

    ours-job     ours; the evaluation goes on beside the next round
    byzpy-job    the example, which waits for it

The ratios are medians over the pairs; those of jobs are to the other's job.  Where the
peers are not installed beside this package, name a directory made with ``pip install
--no-deps --target DIRECTORY byzpy==0.1.4`` and what it imports (cloudpickle).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from byzpy_tw.plugins import hookimpl

BATCH = 64
WAYS = ("ours", "in-process", "byzpy", "byzpy-lean", "bare", "bare-best")
JOBS = ("ours-job", "byzpy-job")
SKIPPED = 5  # rounds at the start of each turn
JOB, EVERY = 50, 10  # rounds of a whole job, and between its evaluations


def options(folder: str, rounds: int, every: int) -> list[str]:
    return [
        "--dataset", "mnist5k", "--rounds", str(rounds), "--eval-interval", str(every),
        "--aggregator", "multi-krum", "--q", "2", "--quiet", "--run-dir", f"{folder}/run",
    ]  # fmt: skip


def ours(rounds: int, where: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "byzpy_tw.train", *where, *options(folder, rounds, 0)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(f"{folder}/run/rounds.jsonl") as lines:
            return median([json.loads(line)["seconds"] for line in lines][SKIPPED:])


class Stopwatch:
    """A plugin: when the first round began, and how long it was until the last was done."""

    begun = spent = 0.0

    @hookimpl
    def run_started(self, config: Any) -> None:
        self.begun = time.perf_counter()

    @hookimpl
    def round_completed(self, record: Any) -> None:
        self.spent = time.perf_counter() - self.begun


def our_job(servers: int) -> float:
    from byzpy_tw.cli.run import run_program
    from byzpy_tw.cli.train import configuration
    from byzpy_tw.plugins import load

    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        words = ["--local", str(servers), *options(folder, JOB, EVERY)]
        code = run_program(configuration(words), load(extra={"stopwatch": watch}))
    assert code == 0
    return watch.spent / JOB


def bare(rounds: int) -> float:
    from byzpy_example import BATCH, Learner

    from byzpy_tw import datasets

    data, nodes = datasets.mnist5k(), [Learner() for _ in range(3)]
    batches = []
    for i, node in enumerate(nodes):
        node.learn()
        part = slice(i * BATCH, (i + 1) * BATCH)
        batches.append((data.inputs(data.train.x[part]), data.train.y[part]))
    return clocked(rounds, lambda: [node.gradient(*batch) for node, batch in zip(nodes, batches)])


def bare_best(rounds: int) -> float:
    import torch

    from byzpy_tw import datasets, models
    from byzpy_tw.kernels.cpu import cores
    from byzpy_tw.kernels.memory import configure_malloc
    from byzpy_tw.kernels.parallel import pool

    configure_malloc()
    data = datasets.mnist5k()
    model = models.build(models.small_cnn, {}, seed=1)
    leaves, half = list(model.parameters()), BATCH // 2

    def gradient(turn: int) -> None:
        part = slice(turn * half, (turn + 1) * half)
        logits = model(data.inputs(data.train.x[part]))
        loss = torch.nn.functional.cross_entropy(logits, data.train.y[part], reduction="sum")
        torch.autograd.grad(loss / BATCH, leaves)

    with pool(cores()) as workers:
        return clocked(rounds, lambda: list(workers.map(gradient, range(6))))


def clocked(rounds: int, call: Callable[[], object]) -> float:
    """Seconds of a call, the median of `rounds` but for the first ones."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return median(times[SKIPPED:])


# -- ByzPy's servers, and a turn of each way


def byzpy(way: str, rounds: int, servers: int) -> float:
    import byzpy_example

    ports = []
    for _ in range(servers):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve", str(port)], stdout=subprocess.DEVNULL
        )
        for port in ports
    ]
    try:
        for port in ports:
            for _ in range(600):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.1)
        with tempfile.TemporaryDirectory() as folder:
            byzpy_example.write_mnist(Path(folder))
            if way == "byzpy-job":
                return asyncio.run(byzpy_example.job(JOB, EVERY, ports, folder))
            lean = way == "byzpy-lean"
            return asyncio.run(byzpy_example.rounds(rounds, SKIPPED, ports, folder, lean))
    finally:
        for process in started:
            process.kill()
            process.wait()


def turn(way: str, rounds: int, servers: int) -> float:
    if way == "ours":
        return ours(rounds, ["--local", str(servers)])
    if way == "in-process":
        return ours(rounds, ["--in-process"])
    # In a process of its own: its threads and memory are nobody else's.
    command = [sys.executable, __file__, "--turn", way, str(rounds), str(servers)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(answer.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", default=os.environ.get("BENCHMARK_PEERS", ""))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--only", default=",".join(WAYS + JOBS))
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peers:
        os.environ["BENCHMARK_PEERS"] = args.peers  # for processes that we start
        sys.path.append(args.peers)
    sys.path.append(str(Path(__file__).resolve().parent))
    if args.serve:
        from byzpy.engine.actor.backends.remote import start_actor_server

        asyncio.run(start_actor_server("127.0.0.1", args.serve))
        return
    if args.turn:
        way, rounds, servers = args.turn[0], int(args.turn[1]), int(args.turn[2])
        if way == "ours-job":
            print(our_job(servers))
        elif way.startswith("bare"):
            print((bare if way == "bare" else bare_best)(rounds))
        else:
            print(byzpy(way, rounds, servers))
        return
    ways = args.only.split(",")
    times: dict[str, list[float]] = {way: [] for way in ways}
    for pair in range(args.pairs):
        for way in ways:
            times[way].append(turn(way, args.rounds, args.servers))
        print(f"pair {pair}: " + ", ".join(f"{w} {times[w][-1] * 1e3:.1f} ms" for w in ways))
    print(f"\n{'way':12}{'ms a round':>11}{'x bare':>8}{'x bare-best':>13}{'x byzpy':>9}")
    for way in ways:
        row = f"{way:12}{median(times[way]) * 1e3:11.1f}"
        whole = way in JOBS  # a job is not a round: it is compared with a job
        for base, width in (("bare", 8), ("bare-best", 13), ("byzpy", 9)):
            others = times.get("byzpy-job" if whole and base == "byzpy" else base, [])
            shares = [a / b for a, b in zip(times[way], others)]
            known = shares and (base == "byzpy" or not whole)
            row += f"{median(shares):{width}.2f}" if known else f"{'-':>{width}}"
        print(row)


if __name__ == "__main__":
    main()
