"""A server that anyone may dial keeps serving, whatever they say to it."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.fuzzing.cases import garbage, many, mutated
from tests.fuzzing.client import Replies, run_script, run_scripts
from tests.fuzzing.mutate import MUTATIONS
from tests.fuzzing.script import Script, valid
from tests.support import (
    Process,
    Run,
    address_of,
    folder,
    start_server,
    start_training,
    train,
)

pytestmark = pytest.mark.slow

SEED = 2026
PART = 100  # of 300 byte strings and of 300 conversations; more: python -m tests.fuzzing
RUN = ("--rounds", "15", "--eval-interval", "0", "--seed", "11")


class GeneratorTests(SynchronousTestCase):
    def test_is_a_function_of_its_seed(self) -> None:
        """A conversation that broke a server can be had again."""
        for make in (mutated, garbage):
            self.assertEqual(list(many(make, 1, 20)), list(many(make, 1, 20)))
            self.assertNotEqual(list(many(make, 1, 20)), list(many(make, 2, 20)))

    def test_makes_conversations_of_any_seed(self) -> None:
        """Mutations of what others have cut to nothing are made, too."""
        for seed in range(SEED, SEED + 6):
            self.assertEqual(len(list(many(mutated, seed, 500))), 500)

    def test_every_mutation_is_used(self) -> None:
        """Boxes, states, tickets and frames all come in for it, often."""
        used = Counter(name for c in many(mutated, SEED, 1000) for name in c.mutations)
        self.assertEqual(set(used), {m.__name__.strip("_") for m in MUTATIONS})
        self.assertGreater(min(used.values()), 50, used)

    def test_conversations_can_be_sent(self) -> None:
        """All of them are bytes in the end, and few are what an honest trainer says."""
        honest = 0
        for number, conversation in enumerate(many(mutated, SEED, 1000)):
            said = [step.part.render(b"t") for step in conversation.steps]
            honest += said == [step.part.render(b"t") for step in valid(number).steps]
        self.assertLess(honest, 100)


class HostileTests(TestCase):
    timeout = 280

    def setUp(self) -> None:
        options = ("--max-vector-mib", "4", "--data-root", str(folder(self)))
        self.server = start_server(self, *options)
        self.over = False

    async def test_a_run_is_undisturbed(self) -> None:
        """While 300 random byte strings and 300 mutated conversations come in, runs
        on the server end with the parameters that they have without; afterwards it
        has not grown, its log has no traceback, and it serves as before."""
        alone = train(self, "--in-process", *RUN).result
        address = address_of(self.server)
        self.port = int(address.rpartition(":")[2])
        self.host = ("--remote-hosts", address, *RUN)
        heard, sizes = [], []
        for part in range(3):
            self.over = False
            first = start_training(self, *self.host)
            # Said once the server has opened the run, before round 0.
            await deferToThread(first[0].wait_for, "node 0")
            training = Deferred.fromCoroutine(self.train_on(*first))
            heard += await self.attack(part)
            self.over = True
            for digest in await training:
                self.assertEqual(digest, alone["parameters_sha256"])
            # No run is open now, after any part: like is compared with like.
            sizes.append(await self.resident_mib())

        self.assertGreaterEqual(sum(h.welcome for h in heard), 0.9 * 3 * PART)
        self.assertGreater(sum(h.opened for h in heard), 1.5 * PART)
        self.assertGreater(sum(h.stream_bytes > 0 for h in heard), 0.75 * PART)
        # What a server keeps of its heap wanders by some 16 MiB, up and down; what it does
        # not let go of grows with every part.
        self.assertLessEqual(min(b - a for a, b in pairwise(sizes)), 16, sizes)
        after = await self.run_script(valid())
        self.assertTrue(after.welcome and after.stream_bytes)
        self.assertEqual(after.errors, [])
        for word in ("Traceback", "Unhandled"):
            self.assertNotIn(word, self.server.output)

    async def attack(self, part: int) -> list[Replies]:
        """A third of everything; what was heard in the conversations."""
        await run_scripts(reactor, "127.0.0.1", self.port, many(garbage, SEED + part, PART))
        return await run_scripts(reactor, "127.0.0.1", self.port, many(mutated, SEED + part, PART))

    def run_script(self, conversation: Script) -> Deferred[Replies]:
        return Deferred.fromCoroutine(run_script(reactor, "127.0.0.1", self.port, conversation))

    async def train_on(self, process: Process, path: Path) -> list[str]:
        """Let the run end, and train again until the attack is over; all results."""
        digests = []
        while True:
            code = await deferToThread(process.wait)
            self.assertEqual(code, 0, process.output)
            digests.append(Run(code, process.output, path).result["parameters_sha256"])
            if self.over:
                return digests
            process, path = start_training(self, *self.host)

    async def resident_mib(self) -> float:
        """The least that the server holds within a few seconds: what closed runs had is
        given back a second later."""
        status, least = Path(f"/proc/{self.server.popen.pid}/status"), float("inf")
        for _ in range(15):
            found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
            assert found is not None
            least = min(least, int(found.group(1)) / 1024)
            await deferLater(reactor, 0.2)
        return least
