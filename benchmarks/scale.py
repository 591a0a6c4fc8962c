"""The cost of a round as nodes and parameters grow: seconds, peak memory, bytes.

    python benchmarks/scale.py [--rounds 12] [--only nodes,parameters,rounds] [--large]

Two servers of this machine, mnist5k, a batch of 4 examples a node.

    nodes       logreg (7,850 parameters) with 10, 100 and 1,000 nodes, multi-krum,
                a tenth of them Byzantine
    parameters  one honest node and a perceptron of 0.1, 1 and 10 million parameters;
                with ``--large`` also 100 million
    rounds      10,000 rounds of logreg on three honest nodes and a Byzantine one: what
                each process holds after the first half, and after the second

Peak memory is that of each process, from its start; for the trainer also what the
vectors themselves take (n d 4 bytes).  Meanwhile another connection pings the first
server a hundred times a second: the slowest answer tells how long its reactor was held.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from attrs import frozen

MIB = 2**20
MANY = 10_000  # rounds
SKIPPED = 2  # rounds at the start


@frozen
class Job:
    honest: int
    byzantine: int
    model: str

    @property
    def options(self) -> list[str]:
        rule = "multi-krum" if self.byzantine else "mean"
        return [
            "--num-honest", str(self.honest), "--num-byz", str(self.byzantine),
            "--f", str(self.byzantine), "--aggregator", rule, "--model", self.model,
            "--dataset", "mnist5k", "--batch-size", "4", "--replacement",
            "--eval-interval", "0", "--round-timeout", "600",
        ]  # fmt: skip


NODES = [Job(9, 1, "logreg"), Job(90, 10, "logreg"), Job(900, 100, "logreg")]
PARAMETERS = [Job(1, 0, f"mlp:hidden={hidden}") for hidden in (128, 1_258, 12_579)]
LARGE = [Job(1, 0, "mlp:hidden=125800")]


@contextmanager
def servers(count: int, folder: Path) -> Iterator[list[tuple[int, subprocess.Popen]]]:
    """`twistd` servers on free ports, ended afterwards."""
    started = []
    twistd = Path(sys.executable).with_name("twistd")
    try:
        for i in range(count):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            home = folder / f"server-{i}"
            home.mkdir()
            command = [
                str(twistd), "--nodaemon", f"--pidfile={home}/pid", "byzpy-server",
                "--port", str(port),
            ]  # fmt: skip
            process = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL)
            started.append((port, process))
        for port, process in started:
            while process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    continue
        yield started
    finally:
        for _, process in started:
            process.kill()
            process.wait()


def peak(pid: int) -> float:
    """The most memory that a process has held, MiB (Linux)."""
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@contextmanager
def pings(port: int) -> Iterator[list[float]]:
    """Milliseconds that each ping took, once the block is left."""
    command = [sys.executable, __file__, "--ping", str(port)]
    times: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is connected
        yield times
        process.terminate()
        times += [float(word) for word in process.stdout.read().split()]


def ping(port: int) -> None:
    """Ping a server until told to stop; then say how long each answer took."""
    from twisted.internet import endpoints, reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.task import LoopingCall

    import byzpy_tw
    from byzpy_tw.protocol import commands
    from byzpy_tw.protocol.limited_amp import LimitedAMP

    times: list[float] = []

    async def main() -> None:
        where = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        server = await endpoints.connectProtocol(where, LimitedAMP({}))
        await server.callRemote(
            commands.Hello.wire_command, protocol=commands.PROTOCOL, version=byzpy_tw.__version__
        )
        print("connected", flush=True)

        async def once() -> None:
            begun = time.monotonic()
            await server.callRemote(commands.Ping.wire_command, token=1)
            times.append(1000 * (time.monotonic() - begun))

        pinging = LoopingCall(lambda: Deferred.fromCoroutine(once())).start(0.01)
        pinging.addErrback(lambda _: None)  # the server has been stopped

    reactor.addSystemEventTrigger("after", "shutdown", lambda: print(*times))
    Deferred.fromCoroutine(main())
    reactor.run()


def measure(job: Job, rounds: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with servers(2, folder) as started:
            hosts = ",".join(f"tcp://127.0.0.1:{port}" for port, _ in started)
            command = [
                sys.executable, __file__, "--train", *job.options, "--rounds", str(rounds),
                "--remote-hosts", hosts, "--quiet", "--run-dir", str(folder / "run"),
            ]  # fmt: skip
            with pings(started[0][0]) as times:
                found = subprocess.run(command, check=True, capture_output=True, text=True)
            trainer = float(found.stdout.split()[-1])
            server = max(peak(process.pid) for _, process in started)
        lines = (folder / "run" / "rounds.jsonl").read_text().splitlines()
        seconds = median([json.loads(line)["seconds"] for line in lines][SKIPPED:])
        result = json.loads((folder / "run" / "result.json").read_text())
        d = json.loads((folder / "run" / "config.json").read_text())["dimension"]
    n = job.honest + job.byzantine
    moved = (result["bytes_sent"] + result["bytes_received"]) / rounds
    return (
        f"{n:7}{d:13,}{seconds:10.3f}{1 / seconds:10.1f}{seconds / (n * d) * 1e9:10.2f}"
        f"{moved / 1e6:10.1f}{n * d * 4 / MIB:10.0f}{trainer:10.0f}{server:9.0f}"
        f"{median(times):9.1f}{max(times):9.1f}"
    )


def held(pid: int) -> tuple[float, int, int]:
    """Resident MiB, file descriptors and threads of a process (Linux)."""
    with open(f"/proc/{pid}/status") as lines:
        rss = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
    return rss, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def endure(rounds: int) -> Iterator[str]:
    """Measure trainer and servers after half of the rounds, and near the last."""
    job = Job(3, 1, "logreg")
    with tempfile.TemporaryDirectory() as name, servers(2, Path(name)) as started:
        folder = Path(name)
        hosts = ",".join(f"tcp://127.0.0.1:{port}" for port, _ in started)
        command = [
            sys.executable, __file__, "--train", *job.options, "--rounds", str(rounds),
            "--remote-hosts", hosts, "--quiet", "--run-dir", str(folder / "run"),
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as trainer:
            processes = {"trainer": trainer.pid}
            processes |= {f"server {i}": p.pid for i, (_, p) in enumerate(started)}
            seen = []
            for mark in (rounds // 2, rounds - rounds // 100):
                done = 0
                while done < mark and trainer.poll() is None:
                    time.sleep(0.05)
                    if (folder / "run" / "rounds.jsonl").exists():
                        with open(folder / "run" / "rounds.jsonl", "rb") as lines:
                            done = sum(1 for _ in lines)
                seen.append({name: held(pid) for name, pid in processes.items()})
    for name in processes:
        (rss, *counts), (later, *counts_later) = seen[0][name], seen[1][name]
        yield (
            f"{name:10}{rss:9.0f}{later:9.0f} MiB resident{later - rss:+8.1f}"
            f"   descriptors, threads {counts} and {counts_later}"
        )


def train(words: list[str]) -> None:
    """The trainer, and then its peak memory."""
    from byzpy_tw.cli.run import run_program
    from byzpy_tw.cli.train import configuration
    from byzpy_tw.plugins import load

    code = run_program(configuration(words), load())
    with open("/proc/self/status") as lines:
        print(next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1024)
    sys.exit(code)


def main() -> None:
    if "--train" in sys.argv:
        train(sys.argv[sys.argv.index("--train") + 1 :])
    if "--ping" in sys.argv:
        ping(int(sys.argv[sys.argv.index("--ping") + 1]))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", default="nodes,parameters,rounds")
    parser.add_argument("--large", action="store_true", help="100 million parameters too")
    args = parser.parse_args()
    print(
        f"{'nodes':>7}{'parameters':>13}{'s/round':>10}{'rounds/s':>10}{'ns/(n d)':>10}"
        f"{'MB/round':>10}{'n d MiB':>10}{'trainer':>10}{'server':>9}{'ping ms':>9}{'slowest':>9}"
    )
    jobs = NODES * ("nodes" in args.only) + PARAMETERS * ("parameters" in args.only)
    for job in jobs + LARGE * args.large:
        print(measure(job, args.rounds), flush=True)
    if "rounds" in args.only:
        print(f"\n{MANY:,} rounds of logreg, 4 nodes: after the first half, and the second")
        for line in endure(MANY):
            print(line, flush=True)


if __name__ == "__main__":
    main()
