"""The same with real processes and sockets: one server, or one trainer, under siege.

Beside it there is a run that must come to the bits that it has alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import react
from twisted.python.failure import Failure

from byzpy_tw.output.event_text import describe
from byzpy_tw.scheduling.clock import use_monotonic_clock
from byzpy_tw.trainer.handshake import gather_all
from byzpy_tw.trainer.local_servers import LocalServers
from byzpy_tw.transports import Address
from tests.fuzzing.cases import many, mutated
from tests.fuzzing.client import run_scripts
from tests.fuzzing.proxy import MaliciousProxy
from tests.fuzzing.tally import FIRST, PAST, Tally

FRONTS = 8  # malicious servers; each is dialled again only after a while
PATIENCE = 2.0  # seconds that they pause at most
BATCH = 100  # conversations to each of a server's runs
RUN = ("--dataset", "mnist5k", "--model", "logreg", "--threads", "1", "--seed", "11",
       "--eval-interval", "0")  # fmt: skip
# Rounds that take some time, so that there are questions for malicious servers to answer.
BESIEGED = ("--num-honest", "10", "--num-byz", "1", "--f", "4", "--aggregator", "trimmed-mean",
            "--attack", "slow:seconds=0.3", "--min-servers", "1", "--rounds", "120",
            "--round-timeout", "10", "--replace-timeout", "20")  # fmt: skip
BESIDE = ("--rounds", "60")


@frozen
class Trained:
    """The outcome of a trainer's process."""

    code: int | None
    output: str
    folder: Path

    @property
    def digest(self) -> str:
        found: str = json.loads((self.folder / "result.json").read_text())["parameters_sha256"]
        return found


@define(eq=False)
class _Trainer(ProcessProtocol):
    ended: Deferred[int | None] = field(factory=Deferred)
    output: bytes = b""

    def outReceived(self, data: bytes) -> None:
        self.output += data

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value.exitCode)  # type: ignore[union-attr]


@define(eq=False)
class FuzzSession:
    """One of either kind; `tally` is what it comes to."""

    reactor: Any
    folder: Path
    inputs: int
    seed: int
    say: Callable[[str], None]
    tally: Tally = field(factory=Tally)
    _alone: str = field(default="", init=False)
    _runs: int = field(default=0, init=False)

    async def train(self, *options: str) -> Trained:
        self._runs += 1
        run = self.folder / f"run-{self._runs}"
        command = [sys.executable, "-m", "byzpy_tw.train", *RUN, *options, "--run-dir", str(run)]
        trainer = _Trainer()
        env = dict(os.environ)
        process = self.reactor.spawnProcess(trainer, command[0], command, env=env)
        try:
            code = await trainer.ended
        except BaseException:
            process.signalProcess("KILL")
            raise
        return Trained(code, trainer.output.decode(errors="replace"), run)

    async def _beside(self, hosts: Sequence[Address]) -> None:
        """A run on `hosts`, which nobody besieges: it must not notice."""
        done = await self.train("--remote-hosts", ",".join(map(str, hosts)), *BESIDE)
        self.tally.histories += 1
        self.tally.ends[f"beside it, exit code {done.code}"] += 1
        if done.code != 0 or done.digest != self._alone:
            self.tally.wrong.append(f"a run beside it was disturbed: {done.output}")

    async def server(self) -> None:
        """Conversations with a server that serves a run meanwhile."""
        self._alone = (await self.train("--in-process", *BESIDE)).digest
        servers = self._servers(1)
        try:
            (address,) = await servers.start()
            number = 0
            while self.tally.inputs < self.inputs:
                said = many(mutated, self.seed + number, BATCH)
                at = self.reactor, address.host, address.port
                talk = run_scripts(*at, said)
                heard, _ = await gather_all([talk, self._beside([address])])
                for one in heard:
                    names = one.conversation.mutations
                    self.tally.counts[PAST if one.welcome else FIRST] += len(names)
                    self.tally.counts.update(names)
                number += 1
                self.say(f"{self.tally.inputs:,} inputs")
        finally:
            await servers.stop()
        self._check_logs()

    async def trainer(self) -> None:
        """A trainer all of whose servers but one are malicious."""
        self._alone = (await self.train("--in-process", *BESIDE)).digest
        servers, ports, counts = self._servers(2), [], Counter[str]()
        try:
            behind, honest = await servers.start()
            for number in range(FRONTS):
                random = Random(f"siege/{self.seed}/{number}")
                front = MaliciousProxy(
                    self.reactor, behind.host, behind.port, random, PATIENCE, b"front %d" % number
                )
                front.counts = counts
                ports.append(self.reactor.listenTCP(0, front, interface="127.0.0.1"))
            fronts = [f"tcp://127.0.0.1:{port.getHost().port}" for port in ports]
            hosts = ",".join([*fronts, str(honest)])
            while counts[PAST] + counts[FIRST] < self.inputs:
                besieged = self.train("--remote-hosts", hosts, *BESIEGED)
                done, _ = await gather_all([besieged, self._beside([behind, honest])])
                self.tally.histories += 1
                self.tally.ends[f"besieged, exit code {done.code}"] += 1
                self._count_refusals(done)
                # Finished, or paused for want of good vectors.
                if done.code not in (0, 3) or "Traceback" in done.output:
                    self.tally.wrong.append(f"exit code {done.code}: {done.output}")
                self.say(f"{counts[PAST] + counts[FIRST]:,} inputs")
            self.tally.counts += counts
        finally:
            for port in ports:
                await port.stopListening()
            await servers.stop()
        self._check_logs()

    def _servers(self, count: int) -> LocalServers:
        folder, tell = self.folder, self.tally.wrong.append
        return LocalServers(
            count, folder, folder, 1, self.reactor, lambda event: tell(describe(event))
        )

    def _count_refusals(self, done: Trained) -> None:
        lines = (done.folder / "rounds.jsonl").read_text().splitlines()
        for line in lines:
            self.tally.refused.update(r["reason"] for r in json.loads(line)["refused"])

    def _check_logs(self) -> None:
        """Check the logs of servers and trainers: reasons, and no failures of their own."""
        for log in (*self.folder.glob("server-*.log"), *self.folder.glob("*/trainer.log")):
            text = log.read_text(errors="replace")
            if "Traceback" in text or "Unhandled" in text:
                self.tally.wrong.append(f"{log.name} has a traceback: {text[-5000:]}")


def fuzz(whom: str, inputs: int, seed: int, say: Callable[[str], None]) -> Tally:
    """Besiege a ``server`` or a ``trainer`` until there were so many inputs."""
    tally = Tally()
    with TemporaryDirectory(prefix="byzpy_tw-") as folder:

        def main(reactor: Any) -> Deferred[None]:
            use_monotonic_clock(reactor)
            siege = FuzzSession(reactor, Path(folder), inputs, seed, say, tally)
            done = siege.server() if whom == "server" else siege.trainer()
            return Deferred.fromCoroutine(done)

        try:
            react(main)
        except SystemExit as e:  # how `react` ends
            if e.code:
                tally.wrong.append(f"the siege broke off: {e.code}")
    return tally
