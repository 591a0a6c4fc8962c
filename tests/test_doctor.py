"""The doctor: each trouble is named with its cure, and soon."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.__main__ import main
from byzpy_tw.attacks.simple import Empire
from byzpy_tw.cli.doctor import lines
from byzpy_tw.cli.train import parse_invocation
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.config.server import ServerConfig
from byzpy_tw.datasets.synthetic import synthetic
from byzpy_tw.kernels.parallel import pool as make_pool
from byzpy_tw.plugins import Registry, hookimpl, load
from byzpy_tw.plugins.hookspecs import Registration
from byzpy_tw.protocol.commands import Compute
from byzpy_tw.protocol.keys import Keys
from byzpy_tw.protocol.limited_amp import LimitedAMP
from byzpy_tw.rounds.feasibility import list_feasible_rules, round_sizes, tolerated_losses
from byzpy_tw.server.service import ByzpyServer
from byzpy_tw.trainer.doctor import Doctor
from byzpy_tw.trainer.gradient_timer import GradientTimer
from byzpy_tw.workers.spec import RunSpec
from tests.key_files import ClusterKeys
from tests.support import PATIENCE, folder


def registry_of(*, seed: int = 0, odd: bool = True) -> Registry:
    """Make one machine's registry: the data `records`, and perhaps the attack `odd`."""

    class Data:
        @hookimpl
        def register_datasets(self) -> list[Registration]:
            return [Registration("records", lambda: evolve(made, name="records"))]

    class Odd:
        @hookimpl
        def register_attacks(self) -> list[Registration]:
            return [Registration("odd", Empire)]

    made = synthetic(n=400, features=16, seed=seed)
    return load(only=(), extra={"records": Data(), **({"byzpy-tw-odd": Odd()} if odd else {})})


class DoctorCase(TestCase):
    """Real sockets in this process, all on this machine."""

    timeout = 120

    def setUp(self) -> None:
        self.cluster, self.folder = ClusterKeys(), folder(self)
        self.pool, self.started = make_pool(2), list[ByzpyServer]()
        self.addCleanup(self.pool.shutdown)

    def serve(self, registry: Registry, keys: Keys | None) -> str:
        server = ByzpyServer(
            reactor, ServerConfig(host="127.0.0.1", port=0, data_root=str(self.folder)), keys=keys
        )
        server._registry = registry
        server.startService()
        self.started.append(server)
        # What it runs on is worked out in the pool: let that end first.
        self.addCleanup(lambda: server.environment().addBoth(lambda _: server.stopService()))
        return str(server.address)

    def mute(self) -> str:
        """Takes connections, by way of the system, and says nothing: as after SIGSTOP."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    async def examined(
        self, hosts: list[str], keys: bool = False, wait: float = 4.0, **options: Any
    ) -> Doctor:
        more: dict[str, Any] = {
            "dataset": "records", "model": "mlp:hidden=2048", "batch_size": 16, "attack": "odd",
            "aggregator": "median", "run_dir": str(self.folder / "run"), **options,
        }  # fmt: skip
        if keys:
            path = self.folder / "trainer.pem"
            path.write_bytes(self.cluster.pem("trainer"))
            path.chmod(0o600)
            more["keys"] = str(path)
        config = RunConfig(remote_hosts=tuple(hosts), **more)
        for server in self.started:  # or a busy machine might look like a hung one
            await server.environment()
        doctor = Doctor(config, registry_of(), reactor, self.pool, wait=wait)
        await doctor.examine()
        json.dumps(doctor.to_plain())
        return doctor

    def assert_troubles(self, doctor: Doctor, *told: tuple[str, ...]) -> None:
        """As many troubles as `told`, in that order, with those words."""
        self.assertEqual(len(doctor.troubles), len(told), doctor.troubles)
        for line, words in zip(doctor.troubles, told, strict=True):
            for word in words:
                self.assertIn(word, line)
        self.assertEqual(doctor.well, not told)


class ServersTests(DoctorCase):
    async def test_healthy(self) -> None:
        """A run would start; each server's figures are there."""
        hosts = [self.serve(registry_of(), None) for _ in range(2)]
        doctor = await self.examined(hosts)
        self.assert_troubles(doctor)
        self.assertIn("one server holds 2 nodes, f = 1", " ".join(doctor.warnings))
        for server in doctor.to_plain()["servers"]:
            self.assertLess(abs(server["clock_ahead"]), 1.0)
            self.assertGreater(server["bytes_a_second"], 0)
            self.assertGreater(server["gradient_seconds"], server["round_trip"])
            self.assertEqual(server["environment"]["plugins"]["byzpy-tw-odd"], "0")
            self.assertEqual(server["data_digest"], doctor.to_plain()["here"]["data_digest"])
        text = "\n".join(lines(doctor))
        self.assertIn(f"{hosts[0]}: ok; nodes 0, 2; round trip ", text)
        self.assertTrue(text.endswith("a run would start"))

    async def test_larger_micro_batches(self) -> None:
        """Where single examples take many times as long, a larger size is proposed, once for all
        servers of a kind, and in one process."""
        options: dict[str, Any] = {
            "batch_size": 100, "micro_batch_size": 1, "model": "mlp:hidden=8", "num_byz": 0, "f": 0,
        }  # fmt: skip
        measure = GradientTimer.measure

        async def measured(timer: GradientTimer, spec: RunSpec) -> float:
            await measure(timer, spec)
            return 0.5 / spec.micro_batch_size  # whatever else this machine does

        self.patch(GradientTimer, "measure", measured)
        hosts = [self.serve(registry_of(), None) for _ in range(2)]
        doctor = await self.examined(hosts, wait=60.0, **options)
        self.assert_troubles(doctor)
        [line] = doctor.advice
        self.assertIn(f"{hosts[0]} (cpu): --micro-batch-size ", line)
        self.assertIn(f"advice: {line}", "\n".join(lines(doctor)))
        doctor = await self.examined([], wait=60.0, in_process=True, **options)
        [line] = doctor.to_plain()["advice"]
        self.assertIn("cpu: --micro-batch-size ", line)
        doctor = Doctor(doctor.config, registry_of(), reactor, self.pool, resumed=self.folder)
        await doctor.examine()
        self.assertEqual(doctor.advice, [])  # a resumed run has its size

    async def test_each_trouble(self) -> None:
        """Beside a healthy pair: no keys, no plugin, other data, hung, not there.  Each is
        named with its cure; the waits for them are one."""
        server = self.cluster.server()
        bare, lacking, other = (
            self.serve(registry_of(), None),
            self.serve(registry_of(odd=False), server),
            self.serve(registry_of(seed=1), server),
        )
        mute, nobody = self.mute(), "tcp://127.0.0.1:1"
        well = [self.serve(registry_of(), server) for _ in range(2)]
        # Node 3 is Byzantine, and lives on the fourth.
        doctor = await self.examined([*well, bare, lacking, other, mute, nobody], keys=True)
        self.assert_troubles(
            doctor,
            (bare, "KEYS_REFUSED", "start it with --keys, or leave --keys out here"),
            (lacking, "MISSING_PLUGIN", "pip install byzpy-tw-odd==0"),
            (other, "SERVER_DIFFERS", "other data for 'records'", "--data-root"),
            (mute, "SERVER_UNREACHABLE", "hangs or is stopped", "restart it"),
            (nobody, "SERVER_UNREACHABLE", "refused", "twistd -n byzpy-server"),
        )
        text = "\n".join(lines(doctor))
        self.assertEqual(text.count(": ok; "), 2)
        self.assertEqual(len(re.findall(r"keys good until \d{4}-\d\d-\d\d", text)), 5)
        self.assertEqual(
            text.count("its certificate expires in 29 days; make a new one"), 5
        )  # its own, four servers
        self.assertEqual(text.count("FAIL"), 5)
        [line] = [line for line in text.splitlines() if other in line and ": FAIL" in line]
        self.assertIn("plugins byzpy-tw ", line)
        self.assertIn(f"torch {torch.__version__}", line)
        self.assertTrue(text.endswith("a run would not start: 5 errors"))

    async def test_enough_servers(self) -> None:
        """With --min-servers, what is wrong with the others is a warning."""
        hosts = [self.serve(registry_of(), None), "tcp://127.0.0.1:1"]
        doctor = await self.examined(hosts, min_servers=1)
        self.assert_troubles(doctor)
        self.assertIn("(--min-servers 1: others will do)", " ".join(doctor.warnings))

    async def test_failover(self) -> None:
        """A server that could not take a node over, though it has none of that kind now."""
        hosts = [self.serve(registry_of(), None), self.serve(registry_of(odd=False), None)]
        doctor = await self.examined(hosts, num_honest=2, num_byz=1)  # node 2: the first
        self.assert_troubles(doctor)
        told = [line for line in doctor.warnings if "failover could not use" in line]
        self.assertEqual(len(told), 1, doctor.warnings)
        self.assertIn("pip install byzpy-tw-odd==0", told[0])

    async def test_data_of_their_own(self) -> None:
        """Nodes never move to another site, so failover is no danger."""
        hosts = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]
        for partition, warned in (("iid", True), ("local", False)):
            doctor = await self.examined(
                hosts, num_honest=4, num_byz=0, f=2, partition=partition, aggregator="mean"
            )
            self.assertEqual("failover may give" in " ".join(doctor.warnings), warned)

    async def test_a_wrong_configuration(self) -> None:
        """It is named; whether servers are there is said all the same."""
        hosts = [self.serve(registry_of(), None), "tcp://127.0.0.1:1"]
        doctor = await self.examined(hosts, aggregator="bulyan")
        self.assert_troubles(
            doctor, ("BAD_CONFIG", "bulyan needs n > 4f"), ("tcp://127.0.0.1:1", "refused")
        )
        self.assertIsNotNone(doctor.servers[0].round_trip)

    async def test_once(self) -> None:
        """A problem with two reasons is told once."""
        doctor = await self.examined(["tcp://127.0.0.1:1"], dataset="nope")
        self.assert_troubles(doctor, ("UNKNOWN_NAME", "no dataset"), ("127.0.0.1:1", "refused"))

    async def test_no_data_here(self) -> None:
        """Then servers are compared with each other."""
        hosts = [self.serve(registry_of(seed=s), None) for s in (0, 1)]
        doctor = await self.examined(hosts, batch_size=150)
        self.assertIn("SHARD_TOO_SMALL", doctor.troubles[0])
        here = await self.examined(hosts)
        here.here = None
        here.troubles.clear()
        here._compare_all()
        self.assertIn("holds other data for 'records' than", here.troubles[0])

    async def test_a_clock_that_is_off(self) -> None:
        """A server's clock is measured, and a difference that matters is told."""
        address = self.serve(registry_of(), None)
        doctor = await self.examined([address])
        doctor.servers[0].clock_ahead = -90.0
        doctor._compare(doctor.servers[0])
        self.assertIn("clock is 90 s behind", doctor.warnings[-1])

    async def test_a_slow_gradient(self) -> None:
        """A server that takes long over a gradient can be used: this is a warning."""
        right = LimitedAMP.ask

        def ask(control: LimitedAMP, request: Any, *switch: Any) -> Deferred[Any]:
            slow = isinstance(request, Compute) and request.nodes
            return Deferred() if slow else right(control, request, *switch)

        self.patch(LimitedAMP, "ask", ask)
        doctor = await self.examined([self.serve(registry_of(), None)])
        self.assert_troubles(doctor)
        self.assertIn("a gradient back took over 4 s", " ".join(doctor.warnings))

    async def test_a_round_that_takes_too_long(self) -> None:
        """It is foreseen from one gradient, the nodes of a server and its threads."""
        doctor = await self.examined([self.serve(registry_of(), None)])
        self.assertNotIn("--round-timeout", " ".join(doctor.warnings))
        [check] = doctor.servers
        assert check.environment is not None
        honest = sum(node.honest for node in check.nodes)
        check.gradient, check.environment = 0.9, evolve(check.environment, threads=1)
        check.handshake = evolve(
            check.handshake, config=evolve(check.handshake.config, round_timeout=20.0)
        )
        check._warn_of_timeout()
        self.assertEqual(check.warnings, [])
        check.gradient = 18.0
        check._warn_of_timeout()
        self.assertIn(f"{honest} honest nodes on 1 threads need about {18 * honest} s a round",
                      check.warnings[0])  # fmt: skip

    async def test_another_run_is_there(self) -> None:
        (self.folder / "run").mkdir()
        (self.folder / "run" / "rounds.jsonl").write_text("{}\n")
        doctor = await self.examined([self.serve(registry_of(), None)])
        self.assert_troubles(doctor, ("RUN_DIRECTORY", "holds another run", "--resume"))


class SampleTests(TestCase):
    """A run whose rounds ask a sample of the nodes."""

    timeout = 60

    async def examined(self, **more: Any) -> Doctor:
        pool = make_pool(1)
        self.addCleanup(pool.shutdown)
        config = RunConfig(
            in_process=True, dataset="synthetic:n=400,classes=4,features=9", model="logreg",
            batch_size=2, num_honest=90, num_byz=10, f=10, participants=13, rounds=500,
            aggregator="trimmed-mean", run_dir=str(folder(self)), **more,
        )  # fmt: skip
        doctor = Doctor(config, load(only=()), reactor, pool, wait=4.0)
        await doctor.examine()
        self.assertTrue(doctor.well, doctor.troubles)
        return doctor

    async def test_sampled(self) -> None:
        """The rules are listed for a sample and its budget, which is told with its figures."""
        doctor = await self.examined()
        found = doctor.to_plain()["budget"]
        self.assertEqual((found["participants"], found["over_sample"]), (13, 0))
        self.assertEqual((found["sufficient"], found["rounds"]), (True, [{"n": 13, "f": 6}]))
        self.assertLess(abs(found["excess"] - 0.0054), 1e-4)
        text = "\n".join(lines(doctor))
        self.assertIn("rules for n = 13 participants, f = 6", text)
        self.assertIn("warning: --participants 13: 13 of 100 nodes are asked in a round", text)

    async def test_delayed_momentum(self) -> None:
        """All nodes' vectors are aggregated, and are part of each checkpoint."""
        doctor = await self.examined(algorithm="delayed-momentum")
        found = doctor.to_plain()
        self.assertEqual(found["budget"]["rounds"], [{"n": 100, "f": 10}])
        self.assertEqual(found["here"]["checkpoint_bytes"], 4 * 40 * (2 + 100))


class BudgetTests(SynchronousTestCase):
    def budget(self, **options: Any) -> dict[str, Any]:
        config = RunConfig(in_process=True, **{"aggregator": "krum", **options})
        names = load(only=())
        sizes = round_sizes(config, names)
        return {line.rule: line for line in list_feasible_rules(config, names, sizes)}

    def test_conditions(self) -> None:
        """For n = 4, f = 1, the quick start's: as the rules' papers have them."""
        found = self.budget()
        self.assertEqual(next(iter(found)), "krum")  # the run's own comes first
        self.assertIn("n > 2f + 2", found["krum"].unguaranteed)
        self.assertEqual((found["krum"].most_f, found["krum"].lost), (0, 1))
        self.assertIn("bulyan needs n > 4f", found["bulyan"].uncomputable)
        self.assertIsNone(found["median"].unguaranteed)
        self.assertEqual(found["median"].most_f, 1)

    def test_large(self) -> None:
        found = self.budget(num_honest=15, num_byz=5, f=5)
        self.assertEqual(found["krum"].most_f, 8)  # 20 > 2 * 8 + 2
        self.assertEqual(found["trimmed-mean"].most_f, 9)
        self.assertEqual(found["trimmed-mean"].lost, 5)

    def test_pre_aggregators(self) -> None:
        """Bucketing halves the rows that the rule gets."""
        found = self.budget(num_honest=9, num_byz=1, pre_aggregator=("bucketing:s=2",))
        self.assertIn("n=5", self.budget(
            num_honest=9, num_byz=1, f=2, pre_aggregator=("bucketing:s=2",)
        )["krum"].unguaranteed)  # fmt: skip
        self.assertIsNone(found["krum"].unguaranteed)

    def test_an_unknown_rule(self) -> None:
        """The others are told all the same."""
        self.assertIn("median", self.budget(aggregator="crumb"))

    def test_losses(self) -> None:
        """As many as the round goes on without, with the f that is left."""
        self.assertEqual(tolerated_losses(lambda n, f: None, 10, 3), 3)
        self.assertEqual(tolerated_losses(lambda n, f: None if n > 8 else "few", 10, 3), 1)
        self.assertEqual(tolerated_losses(lambda n, f: "never", 10, 3), 0)


class CommandTests(SynchronousTestCase):
    def load(self, words: list[str]) -> tuple[RunConfig, Path | None]:
        found = parse_invocation(words)
        return found.load_config(), found.resume

    def test_train_s_command_line(self) -> None:
        """The words of a run do; where they name no place, it is this process."""
        config, resumed = self.load(["--remote-hosts", "tcp://a:1", "--f", "0"])
        self.assertEqual((config.remote_hosts, config.f, resumed), (("tcp://a:1",), 0, None))
        self.assertTrue(self.load(["--aggregator", "median"])[0].in_process)

    def test_a_file_of_options(self) -> None:
        """--config does too, with or without a place in it."""
        path = folder(self) / "run.toml"
        path.write_text("rounds = 7\nlocal = 2\n")
        self.assertEqual(self.load(["--config", str(path)])[0].local, 2)
        path.write_text("rounds = 7\n")
        config = self.load(["--config", str(path), "--lr", "0.5"])[0]
        self.assertEqual((config.rounds, config.lr, config.in_process), (7, 0.5, True))

    def test_resume(self) -> None:
        """With --resume, the configuration is the run's."""
        path = folder(self)
        saved = RunConfig(in_process=True, lr=0.25).to_dict()
        (path / "config.json").write_text(json.dumps({"config": saved}))
        config, resumed = self.load(["--resume", str(path), "--local", "2"])
        self.assertEqual((config.lr, config.local, resumed), (0.25, 2, path))

    def test_mistakes(self) -> None:
        """One line, exit code 2."""
        for words, told in (
            (["--aggregatr", "x"], "did you mean '--aggregator'?"),
            (["--wait", "0"], "--wait must be above 0"),
            (["--f", "9"], "--f 9"),
        ):
            err = io.StringIO()
            with contextlib.redirect_stderr(err):
                try:
                    code = main(["doctor", *words])
                except SystemExit as e:
                    code = e.code
            self.assertEqual(code, 2, err.getvalue())
            self.assertIn(told, err.getvalue())
            self.assertNotIn("Traceback", err.getvalue())

    @pytest.mark.slow
    def test_as_a_program(self) -> None:
        """`--json` writes one object, and nothing else; the exit code goes with it."""
        done = subprocess.run(
            [sys.executable, "-m", "byzpy_tw", "doctor", "--json", "--dataset", "mnist6k"],
            capture_output=True, text=True, timeout=PATIENCE, cwd=folder(self),
        )  # fmt: skip
        found = json.loads(done.stdout)
        self.assertEqual((done.returncode, done.stderr), (1, ""))
        self.assertFalse(found["would_start"])
        self.assertIn("did you mean 'mnist5k'?", found["troubles"][0])
        self.assertEqual(found["budget"]["n"], 4)
