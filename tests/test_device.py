"""``--device``: the names that it takes, and the way of batches and vectors."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from attrs import define, field
from torch import Tensor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms import aggregation
from byzpy_tw.algorithms.dsgd import Dsgd
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.audit.replay import ImmediateExecutor
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.config.server import ServerConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.kernels import Points
from byzpy_tw.rounds.round import Round
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.testing.doubles import ClockReactor, HandCrankedPool
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.in_process_server import InProcessServer
from byzpy_tw.trainer.local_servers import LocalServers
from byzpy_tw.workers import device as devices
from byzpy_tw.workers.building import build_host
from byzpy_tw.workers.device import CPU, Device, check_device, find_equal_device, open_device
from byzpy_tw.workers.gradients import Answer, Gradient
from byzpy_tw.workers.host import NodeHost
from byzpy_tw.workers.spec import NodeSpec
from tests.server_harness import SPEC, D, registry

META = torch.device("meta")


@define(eq=False)
class MetaDevice:
    """A device without values: nothing of the CPU's may be mixed with its tensors."""

    place: torch.device = META
    description: str = "meta"
    pinned: bool = False
    moved: list[torch.Size] = field(factory=list, init=False)
    fetched: list[torch.Size] = field(factory=list, init=False)

    def put(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        assert all(t.device.type == "cpu" for t in tensors)
        self.moved += [t.shape for t in tensors]
        return tuple(t.to(META) for t in tensors)

    def fetch(self, tensors: Any) -> tuple[Tensor, ...]:
        assert all(t.is_meta for t in tensors)
        self.fetched += [t.shape for t in tensors]
        return tuple(torch.ones(t.shape, dtype=t.dtype) for t in tensors)


@define(eq=False)
class RecordingDevice:
    """The CPU under another name, which counts what goes there and comes back."""

    place: torch.device = torch.device("cpu", 0)
    description: str = "recording"
    pinned: bool = False
    puts: int = field(default=0, init=False)
    fetches: int = field(default=0, init=False)

    def put(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        self.puts += 1
        return tuple(t.clone() for t in tensors)

    def fetch(self, tensors: Any) -> tuple[Tensor, ...]:
        self.fetches += 1
        return tuple(t.clone() for t in tensors)


def host_on(device: Device, **changes: Any) -> NodeHost:
    """A host with one honest node, on `device`; its model was tried on the CPU."""
    names = registry()
    tried = build_host(SPEC, names, data_root=Path("/nonexistent")).trial_outcome
    made = build_host(
        SPEC, names, data_root=Path("/nonexistent"), device=device, trial_outcome=tried
    )
    made.spawn(NodeSpec(node=0, shard=0))
    return made


def gradient_of(host: NodeHost) -> Gradient:
    found: list[Answer] = []
    pool: Executor = ImmediateExecutor()
    host.gradients(pool, [0], 0, found.extend)
    assert isinstance(found[0], Gradient), found
    return found[0]


class NodesTests(SynchronousTestCase):
    """A node's gradient is computed where the host's device says."""

    def test_only_the_device_moves_tensors(self) -> None:
        """Parameters, batches and gradients go there and back; nothing else is on the way."""
        device = MetaDevice()
        host = host_on(device)
        self.assertTrue(host.parameters.is_meta)
        host.load(torch.zeros(host.dimension))
        self.assertEqual(device.moved, [torch.Size([host.dimension])])
        gradient = gradient_of(host)
        inputs, labels = device.moved[1:3]
        self.assertEqual((len(inputs), labels), (SPEC.micro_batch_size, inputs[:1]))
        *pieces, loss = device.fetched[: len(list(host.model.parameters())) + 1]
        self.assertEqual(sum(map(torch.Size.numel, pieces)), host.dimension)
        self.assertEqual(loss, torch.Size([]))
        parts = -(-SPEC.batch_size // SPEC.micro_batch_size)
        self.assertEqual(len(device.moved), 1 + 2 * parts)
        self.assertEqual(gradient.loss, parts)
        self.assertTrue(torch.equal(gradient.vector, torch.full((host.dimension,), float(parts))))

    def test_parameters_of_a_narrow_type(self) -> None:
        """They travel as they came, and are widened where they are used."""
        device = MetaDevice()
        host = host_on(device)
        host.load(torch.zeros(host.dimension, dtype=torch.bfloat16))
        self.assertIs(host.parameters.dtype, torch.float32)

    def test_the_cpu_copies_nothing(self) -> None:
        """There and back again are the same tensors."""
        tensors = (torch.zeros(3), torch.ones(2, dtype=torch.int64))
        for got in (CPU.put(*tensors), CPU.fetch(tensors)):
            self.assertTrue(all(a is b for a, b in zip(got, tensors, strict=True)))
        self.assertFalse(CPU.pinned)


class TrainersTests(SynchronousTestCase):
    """A run's ``--device`` reaches the nodes that the trainer brings."""

    def test_in_its_own_process(self) -> None:
        """The model is tried there once more, and all gradients are computed there."""
        device = RecordingDevice()
        pool = HandCrankedPool(eager=True)
        built = build_host(SPEC, registry(), data_root=Path("/nonexistent"))
        prepared: Any = SimpleNamespace(
            dataset=built.dataset, trial_outcome=built.trial_outcome, data_root=None
        )
        server = InProcessServer(ClockReactor(), pool, 1, registry(), prepared, device)
        sink: Any = Collector(RoundRows(torch.zeros(4, D)), ClockReactor(), pool)
        opened = self.successResultOf(Deferred.fromCoroutine(server.open("r", SPEC, sink)))
        self.assertEqual(opened.trial, built.trial_outcome.trial)
        self.successResultOf(Deferred.fromCoroutine(server.spawn([NodeSpec(node=0, shard=0)])))
        sink.assign(0, server)
        sink.begin(Round(0, 3, 1, 1))
        server.parameters(0, torch.zeros(D))
        self.assertEqual(self.successResultOf(server.compute(0, [0])), {})
        parts = SPEC.batch_size // SPEC.micro_batch_size
        self.assertEqual((device.puts, device.fetches), (1 + parts, parts))
        self.assertGreater(sink.norms[0], 0)

    def test_servers_on_its_machine(self) -> None:
        """They are started with it."""
        servers: Any = LocalServers(1, Path("d"), Path("l"), None, None, device="cuda:1")  # type: ignore
        words = servers._program(0).words
        self.assertEqual(words[words.index("--device") + 1], "cuda:1")

    def test_the_rules(self) -> None:
        """Rows go to the trainer's device, and the parameters come from it."""
        device = RecordingDevice()
        self.patch(aggregation, "open_device", lambda name: device)
        config = RunConfig(in_process=True, dataset="mnist5k", aggregator="median", num_honest=4)
        algorithm = Dsgd(config, resolve_rules(config, registry()))
        state = algorithm.begin(torch.zeros(6))
        algorithm.aggregate(state, (0, 1, 2, 3, 4), 1, torch.randn(5, 6))
        self.assertEqual((device.puts, device.fetches), (1, 0))
        algorithm.request(state)
        self.assertEqual((device.puts, device.fetches), (1, 1))


class NamesTests(SynchronousTestCase):
    """``--device`` as a word, and as a device of a machine."""

    def machine(self, gpus: int, error: str = "") -> None:
        """Let this machine have `gpus` GPUs; opening one raises `error`, if any."""

        def open_gpu(index: int) -> Device:
            if error:
                raise RuntimeError(error)
            return devices.Cuda(torch.device("cuda", index), f"cuda (card {index})")

        kind = devices._Kind("CUDA device", lambda: gpus, open_gpu)
        self.patch(devices, "_KINDS", {"cuda": kind, "cpu": devices._KINDS["cpu"]})
        open_device.cache_clear()
        self.addCleanup(open_device.cache_clear)

    def refusal(self, name: str) -> str:
        return str(self.assertRaises(ConfigError, open_device, name))

    def test_words(self) -> None:
        """Trainers and servers take the same."""
        for name in ("cpu", "cuda", "cuda:0", "cuda:15", "auto"):
            self.assertEqual(RunConfig(in_process=True, device=name).device, name)
            self.assertEqual(ServerConfig(device=name).device, name)
        for name in ("", "mps", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda: 1", "cuda:١",
                     "cuda:99999", "cpu:0", "auto:1", 0, None):  # fmt: skip
            for options in (RunConfig, ServerConfig):
                words = str(self.assertRaises(ConfigError, options, device=name))
                self.assertIn("--device must be cpu, cuda, cuda:N or auto, got", words)

    def test_without_a_gpu(self) -> None:
        """``cuda`` is one line with the way out; ``auto`` is the CPU."""
        self.machine(0)
        for name in ("cuda", "cuda:0", "cuda:7"):
            expected = f"--device {name}: no CUDA device is available here; use cpu or auto"
            self.assertEqual(self.refusal(name), expected)
        self.assertIs(open_device("auto"), CPU)
        self.assertIs(open_device("cpu"), CPU)

    def test_with_some(self) -> None:
        """The first by default; a number beyond the last is told how many there are."""
        self.machine(2)
        self.assertEqual(check_device("cuda"), ("cuda", 0))
        self.assertEqual(open_device("auto").place, torch.device("cuda", 0))
        self.assertEqual(open_device("cuda:1").place, torch.device("cuda", 1))
        words = self.refusal("cuda:7")
        self.assertIn("--device cuda:7: 2 CUDA devices here, cuda:0 to cuda:1; use one", words)
        self.machine(1)
        self.assertIn("1 CUDA device here, cuda:0; use one", self.refusal("cuda:1"))

    def test_one_that_cannot_be_used(self) -> None:
        """A driver's error is one line, too, and is asked again: it may pass."""
        self.machine(1, "CUDA error: all CUDA-capable devices are busy\nCompile with")
        words = self.refusal("cuda")
        self.assertIn("--device cuda: it cannot be used: CUDA error: all", words)
        self.assertNotIn("\n", words)
        self.machine(1)
        self.assertEqual(open_device("cuda").description, "cuda (card 0)")

    def test_equal_ones(self) -> None:
        """Found by what they are, not by their number."""
        self.machine(2)
        found = find_equal_device("cuda (card 1)")
        assert found is not None
        self.assertEqual(found.place, torch.device("cuda", 1))
        self.assertIs(find_equal_device("cpu"), CPU)
        self.assertIsNone(find_equal_device("cuda (another card)"))


class RulesTests(SynchronousTestCase):
    def test_memory_from_a_checkpoint(self) -> None:
        """A center that was read from a file goes where the rows are."""
        points = Points(torch.zeros(3, 4, device=META), center=torch.zeros(4))
        assert points.center is not None
        self.assertTrue(points.center.is_meta)
