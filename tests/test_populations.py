"""Many registered nodes of which rounds ask a few: nothing is kept of one that is not asked."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.config.server import Limits
from byzpy_tw.errors import BadParameter, BadRequest, ConfigError, ServerBusy, ShardTooSmall
from byzpy_tw.protocol import commands
from byzpy_tw.records.folder import CONFIG, ROUNDS
from byzpy_tw.records.membership import add_server, merge_placement, read_nodes, record_nodes
from byzpy_tw.report.load import read
from byzpy_tw.rounds.placement import Placement
from byzpy_tw.rounds.round import Round
from byzpy_tw.trainer.cluster import Cluster
from byzpy_tw.trainer.server_entry import FIRST_DELAY
from byzpy_tw.workers.host import Node
from byzpy_tw.workers.spec import NodeSpec
from tests.cluster_case import REGISTRY, ClusterCase
from tests.server_harness import BYZANTINE, HONEST, D, ServerCase, Trainer
from tests.support import run_all
from tests.test_sampled_runs import RunCase

NODES = 3000


def counted(*kinds: type) -> int:
    """Return the number of objects of these classes that there are."""
    gc.collect()
    return sum(type(one) in kinds for one in gc.get_objects())


class ServerTests(ServerCase):
    limits = Limits(nodes=50)

    def registered(self, most: int = 20, **changes: Any) -> tuple[Trainer, Trainer]:
        """A trainer whose run has `NODES` nodes, the last tenth Byzantine, and its stream."""
        trainer, stream = self.trainer(), self.dial()
        spec = {"dataset": "synthetic:n=30000,classes=4,features=9", "n": NODES, "f": 300,
                "shards": NODES - 300, **changes}  # fmt: skip
        stream.become_stream(trainer.open_run(**spec)["ticket"])
        trainer.ask(commands.RegisterNodes, run="r", most=most, attack="empire:scale=-2")
        return trainer, stream

    def test_any_node(self) -> None:
        """Any node of the run answers, as it would if it had been spawned."""
        nodes = [0, 1500, 2699]
        trainer, stream = self.registered()
        stream.parameters(0, torch.ones(D))
        self.assertEqual(json.loads(trainer.compute(0, nodes)[0]["failures"]), {})
        answer = trainer.attack(0, [2700, 2999], 3, "mean")
        stream.piece("mean", 0, torch.ones(D))
        trainer.pump.flush()
        self.assertEqual(json.loads(answer[0]["failures"]), {})
        self.assertEqual(sorted(stream.received.vectors), [*nodes, 2700, 2999])
        self.assertEqual(stream.received.vectors[2999].tolist(), [-2.0] * D)
        other, spawned = self.trainer(), self.dial()
        spec = {"dataset": "synthetic:n=30000,classes=4,features=9", "n": NODES, "f": 300,
                "shards": NODES - 300}  # fmt: skip
        spawned.become_stream(other.open_run(**spec)["ticket"])
        other.spawn([NodeSpec(node=node, shard=node) for node in nodes])
        spawned.parameters(0, torch.ones(D))
        other.compute(0, nodes)
        spawned.pump.flush()
        for node in nodes:
            one, two = (s.received.vectors[node] for s in (stream, spawned))
            self.assertTrue(torch.equal(one, two))

    def test_what_counts(self) -> None:
        """The nodes that a round may ask count, not the others; they are free at the end."""
        trainer, _ = self.registered(20)
        self.assertEqual(self.server.nodes, 20)
        trainer.ask(commands.RegisterNodes, run="r", most=50, attack="empire")
        self.assertEqual(self.server.nodes, 50)
        with self.assertRaisesRegex(ServerBusy, r"1 more nodes would make 51 .*--max-nodes. is 50"):
            trainer.ask(commands.RegisterNodes, run="r", most=51, attack="empire")
        trainer.ask(commands.RegisterNodes, run="r", most=5, attack="empire")
        self.assertEqual(self.server.nodes, 5)
        trainer.ask(commands.CloseRun, run="r")
        self.assertFree()

    def test_nothing_is_kept(self) -> None:
        """Rounds come and go, and the server has no node, nor remembers which it was asked."""
        trainer, stream = self.registered(5)
        before = counted(Node, NodeSpec)
        for round in range(6):
            stream.parameters(round, torch.ones(D))
            nodes = list(range(round * 5, round * 5 + 5))
            self.assertEqual(json.loads(trainer.compute(round, nodes)[0]["failures"]), {})
        run = trainer.session.runs["r"]
        self.assertEqual((len(run.host.nodes), len(run._asked)), (0, 5))
        self.assertEqual(counted(Node, NodeSpec), before)

    def test_more_than_was_said(self) -> None:
        """A round asks no more nodes than were registered for it, over all of its commands."""
        trainer, stream = self.registered(3)
        stream.parameters(0, torch.ones(D))
        trainer.compute(0, [0, 1])
        [failure] = trainer.compute(0, [1, 2, 3])
        failure.trap(BadRequest)
        self.assertIn("4 nodes asked in a round, of 3 at most", str(failure.value))
        trainer.compute(0, [1, 2])
        stream.parameters(1, torch.ones(D))
        self.assertEqual(json.loads(trainer.compute(1, [3, 4, 5])[0]["failures"]), {})

    def test_nonsense(self) -> None:
        """Nodes that there are not, of the wrong kind, or both ways."""
        trainer, stream = self.registered(20)
        stream.parameters(0, torch.ones(D))
        for nodes in ([NODES], [2700], [0, 0], [-1], [2**40]):
            trainer.compute(0, nodes)[0].trap(BadRequest)
        trainer.attack(0, [0], 1, "mean")[0].trap(BadRequest)
        self.assertRaises(BadRequest, trainer.spawn, [NodeSpec(node=0, shard=0)])
        spawned, _ = self.running("s")
        register = commands.RegisterNodes
        for more in ({"most": 4, "attack": "empire"}, {"most": 0, "attack": "empire"}):
            self.assertRaises(BadRequest, spawned.ask, register, run="s", **more)
        self.assertEqual(self.server.nodes, 20 + len(HONEST + BYZANTINE))
        third = self.trainer()
        third.open_run("t")
        for attack in (None, "", "x" * 501):
            more = {} if attack is None else {"attack": attack}
            with self.assertRaises((BadRequest, BadParameter)):
                third.ask(register, run="t", most=2, **more)

    def test_a_small_shard(self) -> None:
        """Is told when the nodes are registered, not in the round that asks it."""
        with self.assertRaisesRegex(ShardTooSmall, "shard 0 of 2700 has 2 examples"):
            self.registered(dataset="synthetic:n=4000,classes=4,features=9", partition="stride")


class ClusterTests(ClusterCase):
    options = (
        f"--num-honest {NODES - 100} --num-byz 100 --f 100 --attack empire --participants 9 "
        "--aggregator mean"
    )

    def place(self, cluster: Cluster, *nodes: int) -> dict[str, list[int]]:
        """Place a round's nodes and begin it; return where they live."""
        self.successResultOf(Deferred.fromCoroutine(cluster.place(nodes)))
        self.collector.begin(Round(0, NODES - 100, 100, 9, participants=nodes))
        return self.lives(cluster)

    def test_a_round(self) -> None:
        """Nodes live on a server while they are asked; there is no word with it about them."""
        cluster = self.start(most_asked=9)
        self.assertEqual({s.registered for s in self.world.servers}, {9})
        self.assertEqual(self.lives(cluster), {"a": [], "b": [], "c": []})
        self.assertEqual(self.place(cluster, 0, 1, 2999), {"a": [0], "b": [1], "c": [2999]})
        self.assertIs(self.collector.server_of(1), self.world.on("b"))
        self.assertEqual(self.place(cluster, 1, 4, 7), {"a": [], "b": [1, 4, 7], "c": []})
        self.assertIsNone(self.collector.server_of(0))
        self.assertEqual([s.spawned for s in self.world.servers], [[], [], []])
        self.assertEqual(self.happened, [])

    def test_nothing_is_kept(self) -> None:
        """Whatever was asked before, the trainer knows the nodes of this round alone."""
        cluster = self.start(most_asked=9)
        self.world.on("c").lose()
        for first in range(0, 900, 9):
            self.place(cluster, *range(first, first + 9))
        sizes = [
            len(kept)
            for owner in (cluster, cluster.placement, self.collector, self.collector.rows)
            for kept in map(owner.__getattribute__, type(owner).__slots__[:-1])
            if isinstance(kept, (dict, set, list))
        ]
        self.assertEqual(max(sizes), 9)
        self.assertEqual(len(self.collector.rows.memory), NODES)  # as this test made it

    def test_failover(self) -> None:
        """Nodes of a lost server are asked on another: at once, and in later rounds."""
        cluster = self.start(most_asked=9)
        self.place(cluster, 0, 1, 4)
        moved: list[tuple[str, list[int]]] = []
        cluster.on_assigned = lambda server, nodes: moved.append((server.name, nodes))
        self.world.down = {"b"}
        self.world.on("b").lose()
        self.assertEqual(moved, [("c", [1]), ("a", [4])])
        self.assertEqual(self.place(cluster, 1, 2, 4), {"a": [1, 4], "b": [], "c": [2]})
        self.world.down = set()
        self.reactor.pump([FIRST_DELAY] * 4)
        cluster.return_nodes()
        self.assertEqual(self.place(cluster, 1, 2, 4), {"a": [], "b": [1, 4], "c": [2]})
        self.assertEqual(self.world.on("b").registered, 9)
        self.assertIn("b is back", self.said)

    def test_one_that_is_lost_often(self) -> None:
        """Has nodes again once it was there for some rounds."""
        cluster = self.start(most_asked=9)
        for _ in range(3):
            self.world.on("b").lose()
            self.reactor.pump([FIRST_DELAY] * 16)
        cluster.return_nodes()
        self.assertEqual(self.place(cluster, 1), {"a": [1], "b": [], "c": []})
        for _ in range(2):
            cluster.return_nodes()
        self.assertEqual(self.place(cluster, 1), {"a": [], "b": [1], "c": []})

    def test_without_failover(self) -> None:
        """They wait for their own server, and the time of each begins when it is asked."""
        cluster = self.start("--failover off", most_asked=9)
        self.world.down = {"b"}
        self.world.on("b").lose()
        self.reactor.advance(5.0)
        self.assertEqual(self.place(cluster, 0, 1), {"a": [0], "b": [], "c": []})
        self.assertEqual(cluster.placement.unassigned, [1])
        self.assertEqual(cluster.unassigned_since, {1: 5.0})
        self.assertEqual(self.place(cluster, 3), {"a": [3], "b": [], "c": []})
        self.assertEqual(cluster.unassigned_since, {})

    def test_a_larger_round(self) -> None:
        """Where a round asks more than was known, its servers are told before."""
        cluster = self.start(most_asked=2)
        self.place(cluster, 0, 3, 6, 9)
        self.assertEqual(self.world.on("a").registered, 4)
        self.world.room = {"a": 4}
        lives = self.place(cluster, *range(0, 18, 3))
        self.assertEqual(
            {name: len(nodes) for name, nodes in lives.items()}, {"a": 4, "b": 1, "c": 1}
        )
        self.assertIn("a does not take node", " ".join(self.said))

    def test_no_room(self) -> None:
        """A server that cannot have so many in a round is told of at the start."""
        self.world.room = {"b": 8}
        failure = self.failureResultOf(Deferred.fromCoroutine(self.cluster(most_asked=9).start()))
        self.assertIn("no room", str(failure.value))


class PlacementTests(SynchronousTestCase):
    @given(st.data())
    def test_place(self, data: st.DataObject) -> None:
        """Each round's nodes are where they would be if there were no others."""
        servers = ("a", "b", "c")
        placement = Placement(servers, 100, data.draw(st.sampled_from([None, 2])), all_placed=False)
        for _ in range(data.draw(st.integers(1, 4))):
            up = data.draw(st.sets(st.sampled_from(servers)))
            nodes = sorted(data.draw(st.sets(st.integers(0, 99), min_size=1, max_size=9)))
            placement.up, avoided = up, data.draw(st.sets(st.sampled_from(servers)))
            found = placement.place(nodes, avoided)
            self.assertEqual(list(placement.server_of), nodes)
            self.assertLessEqual(set(found), up)
            for node in nodes:
                home = placement.home_server(node)
                self.assertIn(node, placement.home_nodes(home))
                if placement.cap is None and home in up - avoided:
                    self.assertEqual(placement.server_of[node], home)
            if placement.cap is None and up - avoided:
                self.assertFalse(set(found) & avoided)
            room = len(nodes) if placement.cap is None else placement.cap * len(up)
            self.assertEqual(sum(map(len, found.values())), min(len(nodes), room if up else 0))


class MemoryTests(SynchronousTestCase):
    def test_momenta(self) -> None:
        """Momenta of all nodes that may be asked are refused where they do not fit."""
        config = RunConfig(
            in_process=True, num_honest=100_000, num_byz=0, f=0, participants=100, rounds=500,
            worker_momentum=0.9, aggregator="mean", dataset="synthetic", model="logreg",
        )  # fmt: skip
        rules = resolve_rules(config, REGISTRY)
        rules.check_memory(1000)
        words = r"--worker-momentum keeps .* 50,000 nodes x 1,000,000,000 parameters"
        self.assertRaisesRegex(ConfigError, words, rules.check_memory, 10**9)
        plain = resolve_rules(evolve(config, worker_momentum=0.0), REGISTRY)
        plain.check_memory(10**9)


class RecordTests(SynchronousTestCase):
    @given(st.integers(0, 50), st.integers(1, 9), st.integers(0, 3000))
    def test_there_and_back(self, first: int, step: int, count: int) -> None:
        """Nodes are read as they were recorded, and many that are evenly spaced are short."""
        nodes = range(first, first + step * count, step)
        for kind in (nodes, list(nodes)):
            recorded = json.loads(json.dumps(record_nodes(kind)))
            self.assertEqual(list(read_nodes(recorded) or ()), list(nodes))
            self.assertLess(len(json.dumps(recorded)), 7000)
        uneven = [*nodes, first + step * count + 1]
        self.assertEqual(read_nodes(record_nodes(uneven)), uneven)

    def test_damage(self) -> None:
        """A value that is no list of nodes is none; a range is no longer than a run may be."""
        for found in ({"first": 0, "last": 10**12, "step": 1}, {"first": 0, "last": 5, "step": 0},
                      {"first": 5, "last": 0, "step": 1}, {"first": "0", "last": 5, "step": 1},
                      {"first": True, "last": 5, "step": 1}, {"first": 0}, 3,
                      None, "0"):  # fmt: skip
            self.assertIsNone(read_nodes(found), found)

    def test_joining(self) -> None:
        """A server that joins a run of many nodes gets those that no other has on record."""
        even, odd = record_nodes(range(0, 9000, 2)), record_nodes(range(1, 9000, 2))
        before = {"placement": {"a:1": even}, "data_digests": {}, "devices": {}}
        found = add_server(before, "b:1", "d", "cpu", range(1, 9000, 2))
        self.assertEqual(found["placement"], {"a:1": even, "b:1": odd})
        again = merge_placement(found["placement"], {"b:1": range(1, 9000, 2)})
        self.assertEqual(again, {"a:1": even, "b:1": odd})


class RunTests(RunCase):
    async def test_a_run(self) -> None:
        """Its records name those that were asked; it is reported, resumed and verified."""
        options = {
            "dataset": "synthetic:n=16000,classes=4,features=9", "num_honest": NODES - 300,
            "num_byz": 300, "f": 300, "participants": 15, "attack": "empire",
            "aggregator": "trimmed-mean", "confidence": 0.5, "rounds": 10, "worker_momentum": 0.5,
        }  # fmt: skip
        path = await self.train("many", **options)
        description = json.loads((path / CONFIG).read_text())
        self.assertEqual(
            description["placement"], {"in-process": {"first": 0, "last": NODES - 1, "step": 1}}
        )
        lines = [json.loads(line) for line in (path / ROUNDS).read_text().splitlines()]
        self.assertEqual({len(line["participants"]) for line in lines}, {15})
        self.assertLess((path / CONFIG).stat().st_size, 8000)
        self.assert_verified(path)
        cut = self.cut(path, 7, 5)
        await self.resume(cut)
        self.assertEqual(self.digest(cut), self.digest(path))
        [server] = read(path).servers
        self.assertEqual(server.nodes, range(NODES))
        self.check_strips(path, {node for line in lines for node in line["participants"]})

    def check_strips(self, path: Path, asked: set[int]) -> None:
        """The report has strips of nodes that were asked, and says how many have none."""
        shown = read(path).plain()
        self.assertLessEqual({node["node"] for node in shown["nodes"]}, asked)
        self.assertEqual(len(shown["nodes"]) + shown["unshown"], NODES)


@pytest.mark.slow
class ServersTests(TestCase):
    def test_on_servers(self) -> None:
        """Ten thousand nodes on two servers of their own come to the bits of one process."""
        options = (
            "--dataset synthetic:n=60000,classes=4,features=9 --num-honest 9500 --num-byz 500 "
            "--f 500 --participants 31 --confidence 0.5 --attack empire --aggregator median "
            "--batch-size 4 --rounds 6 --eval-interval 0 --model logreg"
        )
        here, there = run_all(self, [f"--in-process {options}", f"--local 2 {options}"])
        digests = [[line["parameters_sha256"] for line in run["rounds"]] for run in (here, there)]
        self.assertEqual(len(digests[0]), 6)
        self.assertEqual(*digests)
