"""Servers on several machines, as far as the kernel can tell.

Each server has a network namespace, a mount namespace and a /dev/shm of its
own, so nothing but the network connects it with the trainer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import pytest
from twisted.trial.unittest import SkipTest, TestCase

from byzpy_tw.protocol.keygen import generate
from tests.support import (
    Process,
    Run,
    address_of,
    folder,
    start_server,
    start_training,
    train,
)

pytestmark = [pytest.mark.slow, pytest.mark.needs_root]

# A program of its own: an empty /dev/shm, then the command.
_ALONE = ["unshare", "-m", "--", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Network:
    """Namespaces joined by a bridge in one more; all gone after the test."""

    def __init__(self, case: Any) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
            raise SkipTest("network namespaces need root, iproute2 and util-linux")
        self._case = case
        self._tag = f"bz{os.getpid() % 100000}"
        self._hub = f"{self._tag}-hub"
        self._count = 0
        try:
            self._add(self._hub)
        except subprocess.CalledProcessError as e:
            raise SkipTest(f"network namespaces cannot be made here: {e.stderr}") from e
        _ip("-n", self._hub, "link", "add", "name", "bridge0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "dev", "bridge0", "up")

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._case.addCleanup(subprocess.run, ["ip", "netns", "del", name], check=False)

    def machine(self) -> tuple[list[str], str]:
        """A prefix that runs a command on a new machine, and its address."""
        self._count += 1
        name, address = f"{self._tag}-{self._count}", f"10.77.0.{self._count}"
        self._add(name)
        link = f"v{self._count}"
        _ip(*f"-n {self._hub} link add name {link} type veth peer name eth0 netns {name}".split())
        _ip(*f"-n {self._hub} link set dev {link} master bridge0 up".split())
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "dev", "eth0", "up")
        _ip("-n", name, "link", "set", "dev", "lo", "up")
        return ["ip", "netns", "exec", name, *_ALONE], address

    def link(self, number: int, state: str) -> None:
        """Set the cable of machine `number` to "up" or "down"."""
        _ip("-n", self._hub, "link", "set", "dev", f"v{number}", state)

    def forward(self, number: int, yes: bool) -> None:
        """Have the bridge forward to and from machine `number`, or not."""
        state = "3" if yes else "0"
        words = ["bridge", "-n", self._hub, "link", "set", "dev", f"v{number}", "state", state]
        subprocess.run(words, check=True, capture_output=True, text=True)


class SeparateMachinesTests(TestCase):
    """Training across network namespaces."""

    def server(self, network: Network, *options: str) -> Process:
        prefix, address = network.machine()
        return start_server(self, "--host", address, "--port", "29000", *options, prefix=prefix)

    def test_trains_across_machines(self) -> None:
        """Three servers that share nothing with the trainer but a network train the
        run to the bits that one process gets."""
        network = Network(self)
        trainer, _ = network.machine()
        started = [self.server(network, "--insecure") for _ in range(3)]
        hosts = ",".join(address_of(server) for server in started)
        job = ("--rounds", "6", "--num-honest", "5", "--num-byz", "2", "--f", "2")
        run = train(self, "--remote-hosts", hosts, *job, prefix=trainer)
        self.assertEqual(run.code, 0, run.output)
        self.assertIn("tcp://10.77.0.2:29000", run.output)
        self.assertIn("--insecure", started[0].output)
        alone = train(self, "--in-process", *job)
        self.assertEqual(
            run.result["parameters_sha256"], alone.result["parameters_sha256"], run.output
        )

    def test_the_network_is_cut(self) -> None:
        """A link that goes down, and one that drops packets and tells nobody, are survived
        like a kill, within the heartbeat's bound."""
        if shutil.which("bridge") is None:
            raise SkipTest("needs bridge, from iproute2")
        network = Network(self)
        trainer, _ = network.machine()
        hosts = [address_of(self.server(network, "--insecure")) for _ in range(3)]
        job = ("--rounds", "400", "--model", "mlp", "--eval-interval", "10")
        training, path = start_training(
            self, "--remote-hosts", ",".join(hosts), *job, "--heartbeat-timeout", "1.5",
            "--replace-timeout", "60", prefix=trainer,
        )  # fmt: skip
        training.wait_for("accuracy")
        network.link(2, "down")
        training.wait_for(f"{hosts[0]} is lost: no answer to pings for 1.5 s")
        network.forward(3, False)
        training.wait_for(f"{hosts[1]} is lost: no answer to pings for 1.5 s")
        network.link(2, "up")
        network.forward(3, True)
        run = Run(training.wait(), training.output, path)
        self.assertEqual(run.code, 0, run.output)
        alone = train(self, "--in-process", *job)
        self.assertEqual(
            run.result["parameters_sha256"], alone.result["parameters_sha256"], run.output
        )
        # The round that met the cut took the heartbeat's time, not the round's.
        self.assertLess(max(r["seconds"] for r in run.rounds), 10)

    def test_protected_mode(self) -> None:
        """Without --insecure a server serves its own machine, on whatever address,
        and tells others the two ways out."""
        network = Network(self)
        elsewhere, _ = network.machine()
        prefix, address = network.machine()
        server = start_server(self, "--host", "0.0.0.0", "--port", "29000", prefix=prefix)
        address_of(server)
        refused = train(
            self, "--remote-hosts", f"tcp://{address}:29000", "--rounds", "1", prefix=elsewhere
        )
        self.assertEqual(refused.code, 1, refused.output)
        self.assertIn("PROTECTED_MODE", refused.output)
        self.assertIn("--insecure", refused.output)
        self.assertIn("the same machine", refused.output)
        self.assertNotIn("Traceback", refused.output)
        for host in (address, "127.0.0.1"):
            served = train(
                self, "--remote-hosts", f"tcp://{host}:29000", "--rounds", "1", prefix=prefix
            )
            self.assertEqual(served.code, 0, served.output)

    def test_keys_instead(self) -> None:
        """With keys of one cluster a server elsewhere serves without --insecure, and
        nobody who has none."""
        network, here = Network(self), folder(self)
        generate(here)
        trainer, _ = network.machine()
        server = self.server(network, "--keys", str(here / "server.pem"))
        job = ("--remote-hosts", address_of(server), "--rounds", "1")
        served = train(self, *job, "--keys", str(here / "trainer.pem"), prefix=trainer)
        self.assertEqual(served.code, 0, served.output)
        refused = train(self, *job, prefix=trainer)
        self.assertEqual(refused.code, 1, refused.output)
        self.assertIn("KEYS_REFUSED", refused.output)
