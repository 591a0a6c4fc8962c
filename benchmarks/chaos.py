"""Whole runs while processes are killed, stopped and started again: the same bits?

    python benchmarks/chaos.py servers --runs 200     kill -9, SIGSTOP/SIGCONT and restarts of
                                                      any of three servers, at any moment
    python benchmarks/chaos.py trainer --runs 100     kill -9 of the trainer at any moment,
                                                      then --resume, until it is done
    python benchmarks/chaos.py both --runs 20         all of this at once

``--federated`` does the same to a run with a sample of weighted nodes, local steps and a
server optimizer, after undisturbed runs of it on one and three servers with one and two
threads, which must end with the same parameters too; ``--verify`` verifies each run.

Each run has a seed, which draws its faults; ``--first SEED`` repeats one.  A line a run
says what was done to it and whether its parameters' SHA-256 is the undisturbed one's.  The
exit code is 1 if one of them was not the same, or not confirmed by ``verify``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from attrs import define, field

SERVERS = 3
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
READY = re.compile(r"byzpy-server \d+ listening on (tcp://\S+?):(\d+),")
HEARTBEAT = ("--heartbeat-timeout", "2")  # where there are servers
COMMON = (
    "--dataset", "mnist5k", "--attack", "mimic", "--eval-interval", "20",
    # Every stop is met by failover, and none by a deadline.
    "--round-timeout", "120", "--replace-timeout", "120",
)  # fmt: skip
PLAIN = (
    *COMMON, "--model", "small-cnn", "--rounds", "60", "--threads", "2",
    "--worker-momentum", "0.9", "--aggregator", "centered-clipping",
)  # fmt: skip
FEDERATED = (
    *COMMON, "--model", "logreg", "--rounds", "60", "--batch-size", "8",
    "--num-honest", "16", "--num-byz", "4", "--f", "4", "--participants", "12",
    "--partition", "dirichlet:alpha=1", "--weights", "examples", "--max-weight", "0.08",
    "--algorithm", "fedavg:steps=3,lr=0.05,mu=0.01", "--optimizer", "fed-yogi:lr=0.01",
    "--aggregator", "trimmed-mean",
)  # fmt: skip
PLACES = (  # of undisturbed runs
    ("--in-process", "--threads", "2"),
    ("--local", "1", "--threads", "2"),
    ("--local", "3", "--threads", "1"),
)


@define(eq=False)
class Server:
    """One ``twistd byzpy-server``, at the same port whenever it is started."""

    port: int = 0
    process: subprocess.Popen | None = None
    stopped: bool = False
    _ready: threading.Event = field(factory=threading.Event)

    @property
    def alive(self) -> bool:
        return self.process is not None and not self.stopped

    def start(self) -> None:
        self._ready.clear()
        self.process = subprocess.Popen(
            [*TWISTD, "-n", "--pidfile=", "--logfile=-", "byzpy-server", "--host",
             "127.0.0.1", "--port", str(self.port), "--threads", "2", "--until-eof"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: subprocess.Popen) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            found = READY.search(line)
            if found:
                self.port = int(found.group(2))
                self._ready.set()

    def wait(self) -> None:
        if not self._ready.wait(120):
            raise SystemExit(f"a server at port {self.port} did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process, self.stopped = None, False

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        if self.process is not None and self.stopped:
            self.process.send_signal(signal.SIGCONT)
        self.stopped = False


@define(eq=False)
class Adversary:
    """Does what its seed says to the trainer of `path` and to `servers`, until all is over."""

    draw: random.Random
    path: Path
    servers: list[Server]
    done: list[str] = field(factory=list)
    _over: threading.Event = field(factory=threading.Event)
    _began: float = field(factory=time.monotonic)
    _thread: threading.Thread | None = None

    def watch(self, process: subprocess.Popen, kill: bool) -> tuple[bool, str]:
        """Wait for the trainer's end, and kill it if told to; servers' faults begin with nodes.

        Return whether it was killed, and its last words.
        """
        assert process.stdout is not None
        killer = threading.Thread(target=self._kill, args=(process, self._moment()))
        if kill:
            killer.start()
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if self.servers and self._thread is None and line.startswith("  node 0"):
                self._thread = threading.Thread(target=self.run)
                self._thread.start()
        process.wait()
        if kill:
            killer.join()
        return process.returncode == -signal.SIGKILL, " | ".join(lines[-3:])

    def _moment(self) -> tuple[int, float]:
        """Return a number of rounds and of seconds: mostly while it trains, or while it starts."""
        draw = self.draw
        return (draw.randint(1, 40), 600.0) if draw.random() < 0.8 else (600, draw.uniform(0.5, 8))

    def _kill(self, process: subprocess.Popen, moment: tuple[int, float]) -> None:
        if not self._wait(*moment, lambda: process.poll() is not None):
            process.kill()
            self._tell("killed the trainer")

    def _wait(self, rounds: int, seconds: float, over: Callable[[], bool]) -> bool:
        """Wait for so many rounds more, or so long; return whether it is `over` before."""
        end, last = time.monotonic() + seconds, _recorded(self.path) + rounds
        while time.monotonic() < end and _recorded(self.path) < last:
            if over():
                return True
            time.sleep(0.02)
        time.sleep(self.draw.uniform(0.0, 0.2))  # at any moment of a round
        return over()

    def run(self) -> None:
        """One fault after another; at least one server is always at work, or about to be."""
        draw, over = self.draw, self._over.is_set
        while not self._wait(draw.randint(1, 10), draw.uniform(0.1, 20.0), over):
            server = draw.choice(self.servers)
            if server.process is None:
                self._do(server, "started", server.start)
            elif server.stopped:
                self._do(server, "continued", server.go_on)
            elif sum(other.alive for other in self.servers) > 1 or draw.random() < 0.3:
                if draw.random() < 0.5:
                    self._do(server, "killed", server.kill)
                else:
                    self._do(server, "stopped", server.stop)
                if not any(other.alive for other in self.servers):
                    # Not all at once for good: this one is soon back.
                    self._over.wait(draw.uniform(0.0, 2.0))
                    back = server.start if server.process is None else server.go_on
                    self._do(server, "brought back", back)

    def _do(self, server: Server, what: str, work: Any) -> None:
        work()
        self._tell(f"{what} {self.servers.index(server)}")

    def _tell(self, what: str) -> None:
        seconds = time.monotonic() - self._began
        self.done.append(f"{seconds:.1f}s (round {_recorded(self.path)}) {what}")

    def leave(self) -> None:
        """End the faults."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()


@contextmanager
def servers(count: int) -> Iterator[list[Server]]:
    """`count` of them, and none afterwards."""
    made = [Server() for _ in range(count)]
    try:
        for server in made:
            server.start()
        for server in made:
            server.wait()
        yield made
    finally:
        for server in made:
            if server.process is not None:
                server.kill()


def train(*options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "byzpy_tw.train", *options],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@define(eq=False)
class Runs:
    """Runs of one configuration in `folder`, whose faults are drawn from seeds."""

    folder: Path
    options: tuple[str, ...]
    servers: list[Server]  # none where only the trainer is killed
    trainer: bool  # whether it is killed

    def undisturbed(self, *place: str) -> str:
        """Return the parameters' digest of the run at `place`."""
        run = self.folder / "-".join(("undisturbed", *place))
        output, _ = (process := train(*self.options, *place, "--run-dir", str(run))).communicate()
        if process.returncode:
            raise SystemExit(output)
        return _digest(run)

    def disturbed(self, seed: int) -> tuple[Path, str, str]:
        """Return a run's folder, what was done to it, and its last words."""
        run = self.folder / f"run-{seed}"
        for server in self.servers:
            server.go_on()
            if server.process is None:
                server.start()
                server.wait()
        place: tuple[str, ...] = (*_hosts(self.servers), *HEARTBEAT)
        if not self.servers:
            place = ("--local", "2", *HEARTBEAT) if seed % 2 else ("--in-process",)
        adversary = Adversary(random.Random(seed), run, self.servers)
        words = ""
        for attempt in range(20):
            begun = (run / "config.json").exists()
            new = (*place, *self.options, "--run-dir", str(run))
            process = train(*(("--resume", str(run)) if begun else new))
            killed, words = adversary.watch(process, kill=self.trainer and attempt < 3)
            if process.returncode == 0:
                break
            if not killed:
                adversary.done.append(f"exit {process.returncode} ({words[-200:]})")
        adversary.leave()
        return run, ", ".join(adversary.done), words


def _hosts(made: list[Server]) -> tuple[str, ...]:
    """Return the options of a run on servers, which begins with those that answer."""
    hosts = ",".join(f"tcp://127.0.0.1:{server.port}" for server in made)
    return ("--remote-hosts", hosts, "--min-servers", "1")


def _recorded(run: Path) -> int:
    """Return the number of rounds on record."""
    try:
        return (run / "rounds.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _digest(run: Path) -> str:
    try:
        return json.loads((run / "result.json").read_text())["parameters_sha256"]
    except (OSError, ValueError, KeyError):
        return "none"


def _verified(run: Path) -> str:
    """Return nothing where ``verify`` confirms all rounds of `run`, or its last words."""
    done = subprocess.run(
        [sys.executable, "-m", "byzpy_tw", "verify", str(run)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else " | ".join((done.stdout + done.stderr).split("\n")[-4:])


def check(runs: Runs, seeds: range, places: tuple[tuple[str, ...], ...], verify: bool) -> int:
    """Make the runs of `seeds` and tell of each; return how many were not as they should be."""
    wanted = runs.undisturbed("--in-process", "--threads", "1")
    print(f"undisturbed: {wanted}", flush=True)
    wrong, faults, seconds = 0, 0, []
    for place in places:
        found = runs.undisturbed(*place)
        wrong += found != wanted
        print(f"{' '.join(place)}: {'same' if found == wanted else 'OTHER ' + found}", flush=True)
    for seed in seeds:
        began = time.monotonic()
        run, done, words = runs.disturbed(seed)
        seconds.append(time.monotonic() - began)
        found = _digest(run)
        faults += done.count(",") + 1 if done else 0
        told = "same" if found == wanted else f"OTHER {found[:12]} [{words}]"
        if verify and (why := _verified(run)):
            told += f", NOT CONFIRMED [{why}]"
        elif verify:
            told += ", confirmed"
        wrong += told not in ("same", "same, confirmed")
        print(f"{seed:4} {told}, {seconds[-1]:.1f} s: {done}", flush=True)
    print(
        f"{len(seeds)} runs, {wrong} wrong; {faults} faults, {median(seconds):.1f} s a run (median)"
    )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("whom", choices=("servers", "trainer", "both"))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--federated", action="store_true", help="sampled, weighted, local steps")
    parser.add_argument("--verify", action="store_true", help="verify each run")
    chosen = parser.parse_args()
    seeds = range(chosen.first, chosen.first + max(1, chosen.runs))
    options, places = (FEDERATED, PLACES) if chosen.federated else (PLAIN, ())
    with (
        tempfile.TemporaryDirectory() as name,
        servers(0 if chosen.whom == "trainer" else SERVERS) as made,
    ):
        runs = Runs(Path(name), options, made, chosen.whom != "servers")
        return 1 if check(runs, seeds, places, chosen.verify) else 0


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    sys.exit(main())
