"""Everything that can be named, in whole runs across two real servers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.trial.unittest import TestCase

from byzpy_tw.attacks.knowledge.levels import LEVELS
from byzpy_tw.plugins import load
from tests.support import run_all, servers

pytestmark = pytest.mark.slow

SMALL = "--dataset mnist5k --model logreg --num-honest 5 --num-byz 2 --f 2 --rounds 3"
D = 7850  # logreg's parameters on MNIST
FAULTS = {"silent", "slow", "garbage", "replay"}  # refused, not aggregated
REFUSED = {"inf", "nan", "huge"}


class CatalogueRunsTests(TestCase):
    """Attacks, partitions and rules by name."""

    def both(self, options: list[str]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Each run across two servers, and in one process."""
        hosts = ",".join(servers(self, 2))
        remote = run_all(self, [f"--remote-hosts {hosts} {SMALL} {o}" for o in options])
        here = run_all(self, [f"--in-process {SMALL} {o}" for o in options])
        return list(zip(remote, here, strict=True))

    def test_every_attack(self) -> None:
        """A run with each attack completes across two servers, to the bits that one
        process gets; what travels for an attack that needs moments is O(d)."""
        registry = load()
        entries = [e for e in registry.entries() if e.kind == "attack"]
        texts = {
            "alie": "alie:tau=1.5",
            "slow": "slow:seconds=600 --round-timeout 1",
            "silent": "silent --round-timeout 1",
            "replay": "replay:age=2 --round-timeout 1",
            "model-replacement": "model-replacement --algorithm fedavg:steps=2,lr=0.1",
        }
        options = [f"--attack {texts.get(e.name, e.name)}" for e in entries]
        options += ["--attack replay:relabel=true,age=2", "--attack sign-flip:of=own"]
        options += ["--attack mimic:adaptive=true --worker-momentum 0.9"]
        options += ["--attack opt-ipm --aggregator trimmed-mean"]
        options += ["--attack free-rider:send=last,sigma=0.01"]
        names = [e.name for e in entries]
        names += ["replay*", "sign-flip", "mimic", "opt-ipm", "free-rider"]
        for name, option, (remote, here) in zip(names, options, self.both(options), strict=True):
            self.assertEqual(remote["code"], 0, (option, remote["result"]))
            self.assertEqual(
                [r["parameters_sha256"] for r in remote["rounds"]],
                [r["parameters_sha256"] for r in here["rounds"]],
                option,
            )
            last = {r["node"]: r["reason"] for r in remote["rounds"][-1]["refused"]}
            if name in FAULTS:
                reason = {"garbage": "malformed", "replay": "stale"}.get(name, "late")
                self.assertEqual(last, {5: reason, 6: reason}, option)
            elif name in REFUSED:
                self.assertEqual(last, {5: "not-finite", 6: "not-finite"}, option)
            else:
                self.assertEqual(last, {}, option)
            made = registry.make("attack", option.split()[1])
            if made.knowledge in ("moments", "one", "own", "nothing"):
                # Parameters to both servers, and at most mean, std and one other vector to each.
                most = 3 * 2 * (D * 4 * 4 + 1000)
                self.assertLess(remote["result"]["bytes_sent"], most, option)
            self.assertIn(made.knowledge, LEVELS)

    def test_every_partition(self) -> None:
        """A run with each partition completes, to the same bits, as do options of gradients."""
        names = [e.name for e in load().entries() if e.kind == "partition"]
        names.remove("given")  # for data that names the node of each example
        options = [f"--partition {name} --batch-size 16" for name in names]
        order = "--batches epochs:keep --batch-size 350"  # of 800 examples: one batch is of 100
        options.append(f"{order} --clip-norm 0.2 --precision bfloat16 --attack sign-flip:of=own")
        options.append("--validation 0.2 --data-seed 9 --partition iid")
        options.append(
            "--root-examples 60 --aggregator fltrust --partition local --attack opt-alie"
        )
        for option, (remote, here) in zip(options, self.both(options), strict=True):
            self.assertEqual(remote["code"], 0, (option, remote["result"]))
            for figure in ("parameters_sha256", "metrics"):
                self.assertEqual(remote["result"][figure], here["result"][figure], option)
            self.assertEqual(remote["rounds"][-1]["refused"], [], option)
