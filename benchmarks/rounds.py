"""Whole rounds of the seed job, against ByzPy 0.1.4 and against the bare gradients.

    python benchmarks/rounds.py [--peers DIRECTORY] [--pairs 5] [--rounds 40] [--servers 3]

The job: 3 honest and 1 Byzantine node (the honest mean, turned round), small-cnn on
mnist5k, batch 64, multi-krum with f = 1 and q = 2, on three servers of this machine.

    ours        `twistd byzpy-server` processes and a trainer
    in-process  the same run in one process
    byzpy       three `byzpy` remote actor servers and its ParameterServer; the same
                network as plain torch, as in its examples
    byzpy-last  the same, but for its model: ours, which works channels last
    bare        the three gradients alone, two micro-batches each, on a pool of all
                cores in one process, torch held to one thread in each

Each has a turn in each pair; a turn is the median round of `--rounds`, without the
first five.  The ratios are medians over the pairs.  Where the peers are not installed
beside this package, name a directory made with ``pip install --no-deps --target
DIRECTORY byzpy==0.1.4`` and what it imports (cloudpickle).
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
from pathlib import Path
from statistics import median
from typing import Any

BATCH, LR, SEED = 64, 0.05, 42
WAYS = ("ours", "in-process", "byzpy", "byzpy-last", "bare")
SKIPPED = 5  # rounds at the start of each turn


def ours(rounds: int, where: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "byzpy_tw.train", *where, "--dataset", "mnist5k",
            "--rounds", str(rounds), "--eval-interval", "0", "--aggregator", "multi-krum",
            "--q", "2", "--quiet", "--run-dir", f"{folder}/run",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(f"{folder}/run/rounds.jsonl") as lines:
            return median([json.loads(line)["seconds"] for line in lines][SKIPPED:])


def bare(rounds: int) -> float:
    import torch

    from byzpy_tw import datasets, models
    from byzpy_tw.kernels.machine import cores
    from byzpy_tw.kernels.parallel import pool

    data = datasets.mnist5k()
    model = models.build(models.small_cnn, {}, seed=1)
    leaves = list(model.parameters())
    half = BATCH // 2

    def gradient(turn: int) -> None:
        part = slice(turn * half, (turn + 1) * half)
        logits = model(data.inputs(data.train.x[part]))
        loss = torch.nn.functional.cross_entropy(logits, data.train.y[part], reduction="sum")
        torch.autograd.grad(loss / BATCH, leaves)

    times = []
    with pool(cores()) as workers:
        for _ in range(rounds):
            begun = time.perf_counter()
            list(workers.map(gradient, range(6)))
            times.append(time.perf_counter() - begun)
    return median(times[SKIPPED:])


# -- ByzPy: its nodes keep a model each, and are sent the aggregate


def nodes() -> tuple[type, type]:
    """Node classes that travel to the servers by value, as in ByzPy's examples."""
    import torch
    from byzpy.engine.node.base import ByzantineNode, HonestNode

    class Honest(HonestNode):
        def __init__(self, index: int, plain: bool) -> None:
            from byzpy_tw import datasets, models

            self.data = datasets.mnist5k()
            layers = list(models.build(models.small_cnn, {}, seed=1))
            # The first one has no parameters: it puts the channels last.
            self.model = torch.nn.Sequential(*layers[1 if plain else 0 :])
            self.leaves = list(self.model.parameters())
            self.optimizer = torch.optim.SGD(self.leaves, lr=LR, momentum=0.9)
            self.draw = torch.Generator().manual_seed(index)
            self.mine = torch.arange(index, 4000, 3)

        def next_batch(self) -> Any:
            chosen = self.mine[torch.randint(len(self.mine), (BATCH,), generator=self.draw)]
            return self.data.inputs(self.data.train.x[chosen]), self.data.train.y[chosen]

        def honest_gradient(self, x: Any, y: Any) -> Any:
            loss = torch.nn.functional.cross_entropy(self.model(x), y)
            return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, self.leaves)])

        def apply_server_gradient(self, grad_vec: Any) -> None:
            offset = 0
            for leaf in self.leaves:
                part = torch.as_tensor(grad_vec)[offset : offset + leaf.numel()]
                leaf.grad = part.reshape(leaf.shape).clone()
                offset += leaf.numel()
            self.optimizer.step()

    class Byzantine(ByzantineNode):
        def next_batch(self) -> Any: ...
        def apply_server_gradient(self, grad_vec: Any) -> None: ...

        def byzantine_gradient(self, x: Any, y: Any, honest_grads: Any = None) -> Any:
            return -torch.stack([torch.as_tensor(g) for g in honest_grads]).mean(dim=0)

    return Honest, Byzantine


async def byzpy_rounds(rounds: int, ports: list[int], plain: bool) -> float:
    from byzpy.aggregators.geometric_wise.krum import MultiKrum
    from byzpy.engine.actor.backends.remote import RemoteActorBackend
    from byzpy.engine.node.actors import ByzantineNodeActor, HonestNodeActor
    from byzpy.engine.parameter_server.ps import ParameterServer

    honest, byzantine = nodes()
    actors = [
        await HonestNodeActor.spawn(
            honest, backend=RemoteActorBackend("127.0.0.1", ports[i % len(ports)]), args=(i, plain)
        )
        for i in range(3)
    ]
    attacker = await ByzantineNodeActor.spawn(
        byzantine, backend=RemoteActorBackend("127.0.0.1", ports[0])
    )
    server = ParameterServer(actors, [attacker], MultiKrum(f=1, q=2))
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        await server.round()
        times.append(time.perf_counter() - begun)
    await server.shutdown()
    return median(times[SKIPPED:])


def byzpy(rounds: int, servers: int, plain: bool) -> float:
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
        return asyncio.run(byzpy_rounds(rounds, ports, plain))
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
    parser.add_argument("--only", default=",".join(WAYS))
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
        way, rounds, servers = args.turn
        if way == "bare":
            print(bare(int(rounds)))
        else:
            print(byzpy(int(rounds), int(servers), way == "byzpy"))
        return
    ways = args.only.split(",")
    times: dict[str, list[float]] = {way: [] for way in ways}
    for pair in range(args.pairs):
        for way in ways:
            times[way].append(turn(way, args.rounds, args.servers))
        print(f"pair {pair}: " + ", ".join(f"{w} {times[w][-1] * 1e3:.1f} ms" for w in ways))
    print(f"\n{'way':12}{'ms a round':>11}{'x bare':>8}{'x byzpy':>9}")
    for way in ways:
        row = f"{way:12}{median(times[way]) * 1e3:11.1f}"
        for base, width in (("bare", 8), ("byzpy", 9)):
            shares = [a / b for a, b in zip(times[way], times.get(base, []))]
            row += f"{median(shares):{width}.2f}" if shares else f"{'-':>{width}}"
        print(row)


if __name__ == "__main__":
    main()
