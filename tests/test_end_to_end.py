"""The main job: real servers, real sockets, real training."""

from __future__ import annotations

import pytest
from twisted.trial.unittest import TestCase

from byzpy_tw.datasets.idx import write_idx
from byzpy_tw.datasets.shipped import mnist5k
from tests.support import Run, folder, run_all, servers, train

pytestmark = pytest.mark.slow


class ThreeServersTests(TestCase):
    """The README's walk: three servers, 3 honest nodes and 1 Byzantine one."""

    def setUp(self) -> None:
        self.data = folder(self)
        write_idx(mnist5k(), self.data)
        self.hosts = ",".join(servers(self, 3, "--data-root", str(self.data)))

    def run_job(self, *options: str) -> Run:
        return train(
            self,
            *("--remote-hosts", self.hosts, "--data-root", str(self.data)),
            *("--dataset", "mnist", "--num-honest", "3", "--num-byz", "1", "--rounds", "100"),
            *options,
        )

    def test_learns_despite_the_default_attack(self) -> None:
        """MNIST files under --data-root are learnt to 88 % with one attacker in four."""
        run = self.run_job()
        self.assertEqual(run.code, 0, run.output)
        self.assertGreaterEqual(run.result["final_accuracy"], 0.88, run.output)
        self.assertIn("node 3 (Byzantine) on " + self.hosts.split(",")[0], run.output)
        self.assertIn("3 servers for 4 nodes", run.output)
        self.assertEqual(len(run.rounds), 100)
        self.assertEqual(
            [r["round"] for r in run.rounds if "accuracy" in r], list(range(9, 100, 10))
        )
        self.assertEqual(run.rounds[-1]["parameters_sha256"], run.result["parameters_sha256"])

    def test_learns_despite_a_strong_attack(self) -> None:
        """Under an attack ten times as strong 88 % is reached too, and the plain mean
        is ruined."""
        strong = ("--attack", "empire:scale=-10")
        robust = self.run_job(*strong)
        self.assertGreaterEqual(robust.result["final_accuracy"], 0.88, robust.output)
        plain = self.run_job(*strong, "--aggregator", "mean")
        self.assertIn(plain.code, (0, 1), plain.output)
        if plain.result["status"] != "diverged":
            self.assertLess(plain.result["final_accuracy"], 0.30, plain.output)
        else:
            self.assertEqual(plain.code, 1)
            self.assertIn("DIVERGED", plain.output)
            self.assertNotIn("Traceback", plain.output)


class SameBitsTests(TestCase):
    """One configuration, one seed: one result, wherever the nodes live."""

    def test_same_parameters_wherever_nodes_live(self) -> None:
        """In one process, on 1 and 3 servers, with 1 and 2 threads, and twice in a
        row, the parameters are the same to the bit."""
        short = "--dataset mnist5k --rounds 8 --eval-interval 0 --num-honest 4 --seed 7"
        places = (
            "--in-process",
            "--in-process --threads 1",
            "--local 1 --threads 2",
            "--local 3 --threads 1",
        )
        first = run_all(self, [f"{place} {short}" for place in places])
        [again, other] = run_all(self, [f"--in-process {short}", f"--in-process {short}8"])
        found = [[r["parameters_sha256"] for r in run["rounds"]] for run in (*first, again)]
        self.assertEqual(len(found[0]), 8)
        for place, digests in zip((*places, "in another process"), found, strict=True):
            self.assertEqual(digests, found[0], place)
        # A test that compares nothing would pass the above: another seed differs.
        self.assertNotEqual(other["result"]["parameters_sha256"], found[0][-1])
