"""Runs that lose servers, nodes or their trainer, and end with the same bits."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from twisted.trial.unittest import TestCase

import byzpy_tw
from byzpy_tw.processes.launcher import PARENT_LOST
from byzpy_tw.records.checkpoint import list_checkpoints
from tests.support import (
    Process,
    Run,
    address_of,
    folder,
    run_all,
    servers,
    start_server,
    start_training,
    train,
)
from tests.test_local_servers import parent_of, server_pids
from tests.test_server_process import gone

pytestmark = pytest.mark.slow

# Small enough to be quick, long enough to be in the middle of it.
JOB = (
    "--dataset",
    "mnist5k",
    "--model",
    "mlp",
    "--batch-size",
    "32",
    "--worker-momentum",
    "0.9",
    "--aggregator",
    "centered-clipping",
    "--attack",
    "mimic",
    "--eval-interval",
    "10",
)
FEDERATED = (
    *("--dataset", "synthetic:n=1500,classes=4,features=16", "--model", "logreg"),
    *("--num-honest", "9", "--num-byz", "2", "--f", "2", "--participants", "7"),
    *("--partition", "dirichlet:alpha=1", "--weights", "examples", "--max-weight", "0.15"),
    *("--algorithm", "fedavg:steps=3,lr=0.05,mu=0.01", "--optimizer", "fed-yogi:lr=0.01"),
    *("--aggregator", "trimmed-mean", "--attack", "mimic", "--batch-size", "8"),
    *("--eval-interval", "10"),
)
PATIENT = ("--round-timeout", "60", "--heartbeat-timeout", "1.5")


def resume(case: TestCase, path: Path, *options: str) -> Run:
    """``--resume`` of the run in `path`, from start to end."""
    process = Process.start(
        case,
        [sys.executable, "-m", "byzpy_tw.train", "--resume", str(path), *options],
        cwd=folder(case),
    )
    return Run(process.wait(), process.output, path)


class SurvivalCase(TestCase):
    job = JOB
    places: tuple[str, ...] = ("--in-process",)  # of undisturbed runs

    def assertSame(self, run: Run, rounds: int, *options: str) -> None:
        """`run` is complete, and as if nothing had happened to it."""
        self.assertEqual(run.code, 0, run.output)
        words = " ".join((*self.job, "--rounds", str(rounds), *options))
        for alone in run_all(self, [f"{place} {words}" for place in self.places]):
            self.assertEqual(
                [r["parameters_sha256"] for r in run.rounds],
                [r["parameters_sha256"] for r in alone["rounds"]],
                run.output,
            )
            for name in ("parameters_sha256", "final_accuracy", "worst_accuracy", "rounds"):
                self.assertEqual(run.result[name], alone["result"][name], name)


class ServersTests(SurvivalCase):
    def test_one_is_killed_and_one_is_stopped(self) -> None:
        """The third has all nodes at once; the one that goes on has its own again."""
        started = [start_server(self) for _ in range(3)]
        addresses = [address_of(server) for server in started]
        training, path = start_training(
            self, "--remote-hosts", ",".join(addresses), *JOB, *PATIENT, "--rounds", "400"
        )
        training.wait_for("accuracy")
        started[0].signal(signal.SIGKILL)
        started[1].signal(signal.SIGSTOP)
        self.addCleanup(started[1].signal, signal.SIGCONT)
        training.wait_for(f"{addresses[0]} is lost")
        training.wait_for(f"{addresses[1]} is lost: no answer to pings for 1.5 s")
        training.wait_for(f"live on {addresses[2]} now")
        started[1].signal(signal.SIGCONT)
        training.wait_for(f"{addresses[1]} is back")
        self.assertSame(Run(training.wait(), training.output, path), 400)
        self.assertNotIn("refused", training.output)
        self.assertNotIn("Traceback", training.output)

    def test_the_only_one_is_killed(self) -> None:
        """A local server is started again, and the round that was under way is done."""
        training, path = start_training(self, "--local", "1", *JOB, *PATIENT, "--rounds", "150")
        training.wait_for("accuracy")
        (pid,) = server_pids(path)
        os.kill(pid, signal.SIGKILL)
        training.wait_for("is back")
        self.assertSame(Run(training.wait(), training.output, path), 150)
        self.assertTrue(gone(pid, 30))

    def test_the_warm_parent_is_killed(self) -> None:
        """Its servers go on; one that is killed then is started by itself, to the same bits."""
        training, path = start_training(self, "--local", "1", *JOB, *PATIENT, "--rounds", "150")
        training.wait_for("accuracy")
        (pid,) = server_pids(path)
        os.kill(parent_of(pid), signal.SIGKILL)
        training.wait_for(re.escape(PARENT_LOST))
        os.kill(pid, signal.SIGKILL)
        training.wait_for("is back")
        self.assertSame(Run(training.wait(), training.output, path), 150)
        self.assertTrue(gone(pid, 30))

    def test_more_than_the_budget(self) -> None:
        """Without failover the run pauses, with the arithmetic; with its servers back, it
        goes on."""
        options = ("--host", "127.0.0.1")
        kept, lost = start_server(self, *options), start_server(self, *options)
        hosts = [address_of(kept), address_of(lost)]
        training, path = start_training(
            self, "--remote-hosts", ",".join(hosts), *JOB, *PATIENT, "--rounds", "150",
            "--failover", "off", "--replace-timeout", "1",
        )  # fmt: skip
        training.wait_for("accuracy")
        lost.signal(signal.SIGKILL)
        self.assertEqual(training.wait(), 3, training.output)
        self.assertIn("2 of n = 4 nodes failed, f = 1 are tolerated", training.output)
        self.assertIn(f"--resume {path}", training.output)
        self.assertNotIn("Traceback", training.output)
        self.assertIn('"paused"', (path / "result.json").read_text())
        port = hosts[1].rpartition(":")[2]
        address_of(start_server(self, *options, "--port", port))
        run = resume(self, path)
        self.assertEqual(run.code, 0, run.output)
        self.assertEqual([r["round"] for r in run.rounds], list(range(150)))
        # One that was lost alone, as the others had answered, was charged for.
        self.assertLessEqual(sum(len(r["refused"]) for r in run.rounds), 1)


class FederatedTests(SurvivalCase):
    """A sample of weighted nodes, local steps with FedProx's term, and a server optimizer."""

    job = FEDERATED
    places = (
        *("--in-process --threads 2", "--local 1 --threads 2", "--local 3 --threads 1"),
        "--in-process --threads 1",
    )

    def test_servers_and_trainer_are_killed(self) -> None:
        """The bits are those of any undisturbed run, and `verify` confirms them."""
        started = [start_server(self) for _ in range(2)]
        hosts = ",".join(address_of(server) for server in started)
        training, path = start_training(
            self, "--remote-hosts", hosts, *FEDERATED, *PATIENT, "--rounds", "150"
        )
        training.wait_for("accuracy")
        started[0].signal(signal.SIGKILL)
        training.wait_for("is lost")
        training.wait_for("live on")
        training.signal(signal.SIGKILL)
        training.wait()
        done = len((path / "rounds.jsonl").read_text().splitlines())
        self.assertLess(done, 150)
        run = resume(self, path, "--min-servers", "1")
        self.assertSame(run, 150)
        self.assertTrue(byzpy_tw.verify(path).confirmed)


class TrainerTests(SurvivalCase):
    def test_is_killed(self) -> None:
        """At any moment; what it did after its checkpoint is done again."""
        training, path = start_training(self, "--in-process", *JOB, "--rounds", "400")
        training.wait_for("round    50 ")
        training.signal(signal.SIGKILL)
        training.wait()
        self.assertFalse((path / "result.json").exists())
        self.assertGreater(len(list_checkpoints(path)), 0)
        run = resume(self, path)
        self.assertSame(run, 400)
        self.assertIn("going on after", run.output)
        again = resume(self, path)
        self.assertEqual(again.code, 0)
        self.assertIn("all 400 rounds are there", again.output)

    def test_is_interrupted(self) -> None:
        """Ctrl-C writes a checkpoint of the last round; more rounds may be asked for,
        elsewhere."""
        training, path = start_training(self, "--in-process", *JOB, "--rounds", "400")
        training.wait_for("accuracy")
        training.signal(signal.SIGINT)
        self.assertEqual(training.wait(), 130, training.output)
        self.assertIn(f"--resume {path}", training.output)
        done = len((path / "rounds.jsonl").read_text().splitlines())
        self.assertEqual(next(iter(list_checkpoints(path))), done)
        hosts = ",".join(servers(self, 2))
        rounds = done + 30
        run = resume(self, path, "--remote-hosts", hosts, "--rounds", str(rounds))
        self.assertSame(run, rounds)

    def test_is_killed_before_the_first_checkpoint(self) -> None:
        """Then everything is done again; other options that change bits are refused."""
        training, path = start_training(
            self, "--in-process", *JOB, "--rounds", "60", "--checkpoint-interval", "0"
        )
        training.wait_for("node 0")
        training.signal(signal.SIGKILL)
        training.wait()
        refused = resume(self, path, "--lr", "0.5")
        self.assertEqual(refused.code, 2)
        self.assertIn("--lr 0.5 would make it another run", refused.output)
        self.assertSame(resume(self, path), 60)
        self.assertEqual(list_checkpoints(path), {})


class NodesTests(SurvivalCase):
    """Nodes that do not do their part, on real servers."""

    def test_within_the_budget(self) -> None:
        """They cost a few timeouts, no round takes longer than one, and accuracy stays."""
        hosts = ",".join(servers(self, 2))
        job = f"--remote-hosts {hosts} --dataset mnist5k --model logreg --rounds 40 --num-honest 6"
        job += " --num-byz 2 --f 2 --aggregator trimmed-mean --round-timeout 1 --eval-interval 20"
        kinds = ("none", "silent", "slow", "garbage", "replay")
        found = run_all(self, [f"{job} --attack {kind}" for kind in kinds])
        usual = found[0]["result"]["final_accuracy"]
        for kind, run in zip(kinds[1:], found[1:], strict=True):
            with self.subTest(kind):
                self.assertEqual(run["code"], 0, run)
                seconds = [r["seconds"] for r in run["rounds"]]
                self.assertLess(max(seconds), 1 + 1.5)  # its timeout, on a busy machine
                waited = sum(s > 0.45 for s in seconds)  # half a timeout is for each phase
                self.assertLessEqual(waited, 2 * 5)  # of two faulty nodes
                self.assertGreater(run["result"]["final_accuracy"], usual - 0.03)
                refused = run["result"]["refused"]
                self.assertEqual(set(refused), {"6", "7"})
                self.assertGreater(refused["6"]["probation"], 20)

    def test_more_than_the_budget(self) -> None:
        """The run pauses, and says why."""
        run = train(
            self, "--in-process", *JOB, "--attack", "silent", "--num-byz", "2", "--rounds", "5",
            "--round-timeout", "1", "--replace-timeout", "1",
        )  # fmt: skip
        self.assertEqual(run.code, 3, run.output)
        self.assertIn("2 of n = 5 nodes have not answered in time, f = 1", run.output)
        self.assertIn("2 of n = 5 nodes failed, f = 1 are tolerated", run.output)
