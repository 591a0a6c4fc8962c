"""Runs of many registered nodes, of which each round asks a few.

    python benchmarks/populations.py [--nodes 1000,100000] [--asked 100] [--rounds 100]

Two servers of this machine, 500,000 synthetic examples of 64 features, logreg, a batch of 4
examples a node, the mean.  For each number of nodes: the seconds from the command to the end of the
first round, rounds a second over the others, and of each process the most memory that it has held
and the seconds of a core that it took, those of its start included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from attrs import frozen
from scale import peak, servers, train


@frozen
class Usage:
    """The most MiB that a process has held, and the seconds of a core that it took."""

    memory: float
    seconds: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        return cls(peak(pid), ticks / os.sysconf("SC_CLK_TCK"))


@frozen
class Measurement:
    first: float  # seconds from the command to the end of the first round
    round: float  # seconds of a later one
    trainer: Usage
    servers: list[Usage]


def options(nodes: int, asked: int, rounds: int) -> list[str]:
    sampled = ["--participants", str(asked)] if asked < nodes else []
    return [
        "--num-honest", str(nodes), "--num-byz", "0", "--f", "0", *sampled, "--aggregator", "mean",
        "--dataset", "synthetic:n=500000,features=64", "--model", "logreg", "--batch-size", "4",
        "--rounds", str(rounds), "--eval-interval", "0",
    ]  # fmt: skip


def measure(nodes: int, asked: int, rounds: int) -> Measurement:
    with tempfile.TemporaryDirectory() as name, servers(2, Path(name)) as started:
        records = Path(name) / "run" / "rounds.jsonl"
        command = [
            sys.executable, __file__, "--train", *options(nodes, asked, rounds), "--quiet",
            "--remote-hosts", ",".join(f"tcp://127.0.0.1:{port}" for port, _ in started),
            "--run-dir", str(records.parent),
        ]  # fmt: skip
        begun, first, last = time.monotonic(), 0.0, Usage(0.0, 0.0)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as trainer:
            while trainer.poll() is None:
                if not first and records.exists() and records.stat().st_size:
                    first = time.monotonic() - begun
                try:
                    last = Usage.of(trainer.pid)
                except StopIteration:  # it has ended
                    break
                time.sleep(0.01)
        if trainer.returncode:
            raise SystemExit(f"the trainer ended with code {trainer.returncode}")
        lines = [json.loads(line) for line in records.read_text().splitlines()][1:]
        seconds = sum(line["seconds"] for line in lines) / len(lines)
        return Measurement(first, seconds, last, [Usage.of(p.pid) for _, p in started])


def main() -> None:
    if "--train" in sys.argv:
        train(sys.argv[sys.argv.index("--train") + 1 :])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", default="1000,100000")
    parser.add_argument("--asked", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    print(f"{'nodes':>8}{'asked':>7}{'first s':>9}{'rounds/s':>10}{'trainer MiB':>13}{'CPU s':>7}"
          f"{'server MiB':>12}{'CPU s':>7}")  # fmt: skip
    for nodes in map(int, args.nodes.split(",")):
        found = measure(nodes, args.asked, args.rounds)
        memory = max(server.memory for server in found.servers)
        seconds = max(server.seconds for server in found.servers)
        print(
            f"{nodes:8}{args.asked:7}{found.first:9.1f}{1 / found.round:10.1f}"
            f"{found.trainer.memory:13.0f}{found.trainer.seconds:7.1f}{memory:12.0f}{seconds:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
