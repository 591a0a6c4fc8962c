"""Whole runs while processes are killed, stopped and started again: the same bits?

    python benchmarks/chaos.py servers --runs 200     kill -9, SIGSTOP/SIGCONT and restarts of
                                                      any of three servers, at any moment
    python benchmarks/chaos.py trainer --runs 100     kill -9 of the trainer at any moment,
                                                      then --resume, until it is done

Each run has a seed, which draws its faults; ``--first SEED`` repeats one.  A line a run
says what was done to it and whether its parameters' SHA-256 is the undisturbed one's.  The
exit code is the number of runs that were not the same.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from attrs import define, field

SERVERS = 3
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
READY = re.compile(r"byzpy-server \d+ listening on (tcp://\S+?):(\d+),")
HEARTBEAT = ("--heartbeat-timeout", "2")  # where there are servers
RUN = [
    *("--dataset", "mnist5k", "--model", "small-cnn", "--rounds", "60", "--threads", "2"),
    *("--worker-momentum", "0.9", "--aggregator", "centered-clipping", "--attack", "mimic"),
    *("--eval-interval", "20"),
    # Every stop is met by failover, and none by a deadline.
    *("--round-timeout", "120", "--replace-timeout", "120"),
]


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
             "127.0.0.1", "--port", str(self.port), "--threads", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
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
    """Does what its seed says to `servers`, until it is told to leave them alone."""

    seed: int
    servers: list[Server]
    done: list[str] = field(factory=list)
    _over: threading.Event = field(factory=threading.Event)
    _began: float = field(factory=time.monotonic)

    def run(self) -> None:
        """One fault after another; at least one server is always at work, or about to be."""
        draw = random.Random(self.seed)
        while not self._over.wait(draw.uniform(0.1, 3.0)):
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
        seconds = time.monotonic() - self._began
        self.done.append(f"{seconds:.1f}s {what} {self.servers.index(server)}")

    def leave(self) -> None:
        self._over.set()


@contextmanager
def servers() -> Iterator[list[Server]]:
    """`SERVERS` of them, and none afterwards."""
    made = [Server() for _ in range(SERVERS)]
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


def undisturbed(folder: Path) -> tuple[str, float]:
    """The parameters' digest, and how long it takes, of the run in one process."""
    began = time.monotonic()
    process = train("--in-process", *RUN, "--run-dir", str(folder / "undisturbed"))
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)
    return _digest(folder / "undisturbed"), time.monotonic() - began


def _digest(run: Path) -> str:
    try:
        return json.loads((run / "result.json").read_text())["parameters_sha256"]
    except (OSError, ValueError, KeyError):
        return "none"


def kill_servers(seed: int, folder: Path, made: list[Server]) -> tuple[str, str, str]:
    """One run under fire: its digest, what was done to it, and its last words."""
    for server in made:
        server.go_on()
        if server.process is None:
            server.start()
            server.wait()
    hosts = ",".join(f"tcp://127.0.0.1:{server.port}" for server in made)
    run = folder / f"servers-{seed}"
    process = train("--remote-hosts", hosts, *HEARTBEAT, *RUN, "--run-dir", str(run))
    assert process.stdout is not None
    lines: list[str] = []
    adversary = Adversary(seed, made)
    thread = threading.Thread(target=adversary.run)
    for line in process.stdout:
        lines.append(line.rstrip())
        if " on tcp://" in line and line.startswith("  node 0"):
            thread.start()
    process.wait()
    adversary.leave()
    if thread.ident is not None:
        thread.join()
    return _digest(run), ", ".join(adversary.done), " | ".join(lines[-3:])


def kill_trainer(seed: int, folder: Path, typical: float) -> tuple[str, str, str]:
    """One run that is killed at random moments, and resumed each time."""
    draw, run, done = random.Random(seed), folder / f"trainer-{seed}", []
    place = ("--local", "2", *HEARTBEAT) if seed % 2 else ("--in-process",)
    words = ""
    for attempt in range(20):
        begun = (run / "config.json").exists()
        options = ("--resume", str(run)) if begun else (*place, *RUN, "--run-dir", str(run))
        process = train(*options)
        try:
            # Mostly while it trains, sometimes while it starts; and in the end not at all.
            wait = draw.uniform(0.5, typical) if attempt < 4 else None
            output, _ = process.communicate(timeout=wait)
            words = " | ".join(output.splitlines()[-3:])
            if process.returncode == 0:
                break
            done.append(f"exit {process.returncode}")
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done.append(f"killed after {wait:.1f}s")
    return _digest(run), ", ".join(done), words


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("whom", choices=("servers", "trainer"))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    chosen = parser.parse_args()
    same, faults, seconds = 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted, typical = undisturbed(folder)
        print(f"undisturbed: {wanted}, {typical:.1f} s", flush=True)

        def one(seed: int, made: list[Server]) -> None:
            nonlocal same, faults
            began = time.monotonic()
            if chosen.whom == "servers":
                found, done, words = kill_servers(seed, folder, made)
            else:
                found, done, words = kill_trainer(seed, folder, typical)
            good = found == wanted
            same, faults = same + good, faults + (done.count(",") + 1 if done else 0)
            seconds.append(time.monotonic() - began)
            print(
                f"{seed:4} {'same' if good else 'OTHER ' + found[:12]} "
                f"{seconds[-1]:.1f} s: {done}" + ("" if good else f" [{words}]"),
                flush=True,
            )

        seeds = range(chosen.first, chosen.first + chosen.runs)
        if chosen.whom == "servers":
            with servers() as made:
                for seed in seeds:
                    one(seed, made)
        else:
            for seed in seeds:
                one(seed, [])
    print(
        f"{same} of {chosen.runs} runs ended with the undisturbed parameters; {faults} faults, "
        f"{median(seconds):.1f} s a run (median)"
    )
    return chosen.runs - same


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    sys.exit(main())
