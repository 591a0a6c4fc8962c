"""Hooks: each is documented, its example runs, and observers cannot stop a run."""

from __future__ import annotations

import io
import json
import re
import threading
import unittest
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw import hookimpl, seeds
from byzpy_tw.algorithms.rules import resolve_rules
from byzpy_tw.attacks import Knowledge
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.datasets import Dataset, Split
from byzpy_tw.errors import (
    BadAddress,
    BadParameter,
    BrokenPlugin,
    DatasetUnavailable,
    UnsuitableData,
)
from byzpy_tw.events import RoundBegun, RoundCompleted, RunStarted, ServerBack, ServerLost
from byzpy_tw.output.observers import Observers
from byzpy_tw.output.view import ServersKnown
from byzpy_tw.plugins import KINDS, Registry, hookspecs, load
from byzpy_tw.plugins.contracts import check_made
from byzpy_tw.plugins.shorthand import build_pipeline
from byzpy_tw.testing.properties import (
    aggregator_tests,
    attack_tests,
    partition_tests,
    preaggregator_tests,
)
from byzpy_tw.transports.table import find_transport, parse_address
from byzpy_tw.workers.building import check_model, make_model
from byzpy_tw.workers.shards import make_shards
from byzpy_tw.workers.task_trial import try_task
from byzpy_tw.workers.tasks import make_task
from tests.distributions import write
from tests.support import folder, start_training

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "hooks.md"
WATCHING = ("run_started", "round_completed", "run_event", "run_finished")


def specified() -> list[str]:
    """The names of all hooks."""
    return [n for n in dir(hookspecs) if hasattr(getattr(hookspecs, n), "byzpy_tw_spec")]


def sections() -> dict[str, str]:
    """The document's sections, by their headings."""
    parts = re.split(r"^## (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def example(hook: str) -> ModuleType:
    """The plugin that stands as the example in `hook`'s section."""
    [source] = re.findall(r"```python\n(.*?)```", sections()[hook], flags=re.DOTALL)
    module = ModuleType(f"example_of_{hook}")
    # Documentation of ours, not data from elsewhere.
    exec(compile(source, f"docs/hooks.md, {hook}", "exec"), vars(module))
    return module


def registry(hook: str) -> tuple[ModuleType, Registry]:
    """`hook`'s example, and the registry that it is in."""
    module = example(hook)
    return module, load(only=(), extra={"the-example": module})


class DocumentTests(SynchronousTestCase):
    def test_every_hook_has_a_section(self) -> None:
        """Each hook of hookspecs.py has a section in docs/hooks.md, and a link to it."""
        text = DOCUMENT.read_text(encoding="utf-8")
        self.assertEqual(set(specified()), {*KINDS.values(), *WATCHING})
        for hook in specified():
            self.assertIn(hook, sections())
            self.assertIn(f"(#{hook})", text)

    def test_every_hook_has_a_test(self) -> None:
        """Each hook's example is run by a test below that is named after it."""
        for hook in specified():
            self.assertTrue(hasattr(ExampleTests, f"test_{hook}"), hook)

    def test_every_example_implements_its_hook(self) -> None:
        """One plugin a section, with the section's hook and no other."""
        for hook in specified():
            module = example(hook)
            made = [n for n in dir(module) if hasattr(getattr(module, n), "byzpy_tw_impl")]
            self.assertEqual(made, [hook])

    def test_names_what_a_context_has(self) -> None:
        """The table of a context's attributes is complete."""
        for attribute in (*seeds.Context.__slots__, "stream"):
            if not attribute.startswith("_"):
                self.assertIn(f"`{attribute}", sections()["`context`"])

    def test_names_real_error_codes(self) -> None:
        """Every code in the table of errors exists."""
        from byzpy_tw import errors

        codes = {getattr(thing, "code", None) for thing in vars(errors).values()}
        mentioned = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", DOCUMENT.read_text()))
        self.assertGreater(len(mentioned), 6)
        self.assertEqual(mentioned - codes, set())

    def test_commands_are_understood(self) -> None:
        """The command lines below the examples parse."""
        from byzpy_tw.cli.train import configuration

        commands = re.findall(r"^`python -m byzpy_tw.train (.*)`$", DOCUMENT.read_text(), re.M)
        self.assertEqual(len(commands), len(KINDS))
        on_servers = [c for c in commands if not configuration(c.split()).in_process]
        self.assertEqual(len(on_servers), 1)  # the transport's


class ExampleTests(SynchronousTestCase):
    """docs/hooks.md, run."""

    def test_examples_pass_the_test_kit(self) -> None:
        """The examples pass the tests of the page's last section."""
        result = unittest.TestResult()
        for hook, make, tests in (
            ("register_aggregators", "SteadyMedian", aggregator_tests),
            ("register_preaggregators", "equal_norms", preaggregator_tests),
            ("register_attacks", "Haze", attack_tests),
            ("register_partitions", "staircase", partial(partition_tests, per_shard=11)),
        ):
            made = tests(getattr(example(hook), make))
            unittest.defaultTestLoader.loadTestsFromTestCase(made).run(result)
        self.assertEqual([*result.failures, *result.errors], [])
        self.assertEqual(result.testsRun, 20)

    def test_register_aggregators(self) -> None:
        """The steady median keeps its memory from round to round, in a chain."""
        _, names = registry("register_aggregators")
        chain = build_pipeline(names, "nnm | steady-median:step=0.5", f=1)
        memory: dict[str, Any] = {}
        rows = torch.arange(10.0).reshape(5, 2)
        first = chain.outcome(rows, state=memory).vector
        second = chain.outcome(rows + 100, state=memory).vector
        torch.testing.assert_close(second, first + 0.5)
        self.assertIsNone(chain.guarantee(3))
        self.assertIn("n > 2f, got n=2, f=1", chain.guarantee(2))
        with self.assertRaisesRegex(BadParameter, "step"):
            names.make("aggregator", "steady-median:step=0")

    def test_register_preaggregators(self) -> None:
        """Rows come out with the median norm, in a chain."""
        _, names = registry("register_preaggregators")
        rule = names.make("pre-aggregator", "equal-norms")
        rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [30.0, 40.0]])
        torch.testing.assert_close(rule(rows).norm(dim=1), torch.full((3,), 2.0))
        chain = build_pipeline(names, "equal-norms | mean")
        torch.testing.assert_close(chain(rows), rule(rows).mean(dim=0))

    def test_register_attacks(self) -> None:
        """The haze is shown moments only, and can be called with vectors too."""
        _, names = registry("register_attacks")
        attack = names.make("attack", "haze:width=0", f=1)
        honest = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
        shown = Knowledge.for_attack(attack, honest)
        self.assertIsNone(shown.vectors)
        torch.testing.assert_close(attack(shown), honest.mean(dim=0))
        blurred = names.make("attack", "haze")
        here = seeds.Context(node=4)
        self.assertTrue(torch.equal(blurred(shown, context=here), blurred(honest, context=here)))

    def test_register_datasets(self) -> None:
        """The leaves come from the data root of whoever asks; missing, it says where."""
        _, names = registry("register_datasets")
        root = folder(self)
        with self.assertRaisesRegex(DatasetUnavailable, "leaves.npz is missing"):
            names.make("dataset", "leaves", root=root)
        x = np.zeros((40, 1, 5, 5), dtype=np.uint8)
        np.savez(root / "leaves.npz", x=x, y=np.arange(40) % 4)
        data = names.make("dataset", "leaves", root=root)
        self.assertEqual((len(data.train), len(data.test), data.shape), (36, 4, (1, 5, 5)))
        with self.assertRaisesRegex(BadParameter, "no parameter 'root'"):
            names.make("dataset", "leaves:root=etc", root=root)

    def test_register_models(self) -> None:
        """The bottleneck is built as a run builds it, from its seed."""
        _, names = registry("register_models")
        data = names.make("dataset", "synthetic:n=100")
        spec = RunConfig(in_process=True, model="bottleneck:width=3").spec()
        check_model(spec, names, data, most_elements=1000)
        model = make_model(spec, names, data, checked=True)
        self.assertEqual(sum(p.numel() for p in model.parameters()), 64 * 3 + 3 + 30 + 10)
        again = make_model(spec, names, data)
        self.assertTrue(torch.equal(model[1].weight, again[1].weight))
        with self.assertRaisesRegex(BadParameter, "width must be from 1 to 4096"):
            names.make("model", "bottleneck:width=5000", classes=10, shape=(1, 8, 8))

    def test_register_partitions(self) -> None:
        """Shards grow by steps, and hold each example once."""
        _, names = registry("register_partitions")
        data = names.make("dataset", "synthetic:n=100")  # of which 80 train
        spec = RunConfig(in_process=True, num_honest=4, partition="staircase").spec()
        shards = make_shards(spec, names, data)
        self.assertEqual([len(shard) for shard in shards], [8, 16, 24, 32])
        self.assertEqual(sorted(np.concatenate(shards).tolist()), list(range(80)))

    def test_register_tasks(self) -> None:
        """Two halves of a batch add up to it, and metrics are means over the numbers."""
        _, names = registry("register_tasks")
        x = torch.zeros(4, 3)
        split = Split(x, torch.arange(8.0).reshape(4, 2))
        data = Dataset("ramp", split, split, None, task="quantile")
        spec = RunConfig(in_process=True, batch_size=4, num_honest=1).spec()
        task = make_task(spec, names, data)
        self.assertEqual(task.check_outputs(torch.ones(4, 2), x), "")
        self.assertIn("(4, 3)", task.check_outputs(x, x).replace("[", "(").replace("]", ")"))
        targets, outputs = split.y, torch.ones(4, 2, requires_grad=True)
        self.assertEqual(
            (task.weight(targets), round(float(task.loss(outputs, targets).detach()), 4)), (8, 19.0)
        )
        measured = task.measure(task.sums(outputs.detach(), targets), task.weight(targets))
        self.assertAlmostEqual(measured["pinball"], 19 / 8, places=6)
        self.assertEqual(measured["mae"], 22 / 8)
        self.assertEqual([metric.better for metric in task.metrics], ["lower", "lower"])
        self.assertTrue(torch.equal(task.flip(targets), -targets))
        try_task(task, (torch.ones(4, 2), targets), (torch.zeros(4, 2), targets))
        digits = names.make("dataset", "synthetic:n=100")
        with self.assertRaisesRegex(UnsuitableData, "'quantile' of the-example .* from data 'syn"):
            make_task(evolve(spec, task="quantile"), names, digits)

    def test_register_algorithms(self) -> None:
        """A run asks the even nodes and the odd ones by turns."""
        _, names = registry("register_algorithms")
        config = RunConfig(
            in_process=True, algorithm="halves", num_honest=5, num_byz=1, f=1, aggregator="median"
        )
        algorithm = resolve_rules(config, names).make_algorithm()
        state = algorithm.begin(torch.zeros(3))
        asked = []
        for _ in range(3):
            nodes = algorithm.participants(state).nodes
            asked.append(nodes)
            aggregated = algorithm.aggregate(state, nodes, 1, torch.ones(6, 3))
            state = algorithm.advance(state, nodes, torch.ones(6, 3), aggregated, {})
        self.assertEqual(asked, [(0, 2, 4), (1, 3, 5), (0, 2, 4)])

    def test_register_optimizers(self) -> None:
        """The first step of Lion has size lr in each coordinate, against the vector's sign."""
        _, names = registry("register_optimizers")
        optimizer = names.make("optimizer", "lion:beta1=0.5", weight_decay=0.1)
        parameters, vector = torch.ones(3), torch.tensor([2.0, -3.0, 0.0])
        state = optimizer.begin(parameters)
        optimizer.step(parameters, vector, state, 0.01, 0)
        shrunk = 1 - 0.01 * 0.1
        torch.testing.assert_close(parameters, torch.tensor([shrunk - 0.01, shrunk + 0.01, shrunk]))
        torch.testing.assert_close(state["mean"], 0.01 * vector)
        with self.assertRaisesRegex(BrokenPlugin, "no method begin, step"):
            check_made("optimizer", "x", "a package", len)

    def test_register_schedules(self) -> None:
        """The sawtooth falls, and begins anew."""
        _, names = registry("register_schedules")
        schedule = names.make("schedule", "sawtooth:period=4", lr_milestones=(), lr_decay=0.1)
        self.assertEqual([schedule.factor(t, 99) for t in (0, 1, 3, 4)], [1.0, 0.75, 0.25, 1.0])

    def test_register_transports(self) -> None:
        """A socket file is an address whose peers are on this machine; others are told the form."""
        module, names = registry("register_transports")
        first, again = (parse_address(" unix:///run/a.sock", names) for _ in range(2))
        self.assertEqual((str(first), first, first.scheme), ("unix:///run/a.sock", again, "unix"))
        transport = find_transport("unix", names)
        self.assertEqual(transport.server_options(first), "--listen unix:///run/a.sock")
        self.assertTrue(module.UnixLink().same_machine)
        self.assertFalse(transport.requires_keys)
        with self.assertRaisesRegex(BadAddress, "write unix:///PATH"):
            parse_address("unix://a.sock", names)
        with self.assertRaisesRegex(BrokenPlugin, "no method parse"):
            check_made("transport", "x", "a package", len)

    def test_run_started(self) -> None:
        """The observer is told the run's configuration."""
        _, names = registry("run_started")
        config = {"config": {"rounds": 5, "model": "small-cnn"}, "dimension": 7}
        with redirect_stdout(io.StringIO()) as printed:
            told(names, run_started={"config": config})
        self.assertEqual(printed.getvalue(), "5 rounds of small-cnn, d = 7\n")

    def test_round_completed(self) -> None:
        """The observer is told each round's record."""
        module, names = registry("round_completed")
        told(names, round_completed={"record": {"refused": [{"node": 3}, {"node": 1}]}})
        self.assertEqual(module.refusals, Counter({3: 1, 1: 1}))

    def test_run_event(self) -> None:
        """The observer is told of servers that are lost and back, and keeps those away."""
        module, names = registry("run_event")
        observers = Observers(names)
        for event in (ServerLost("a", "cut off"), ServerLost("b", "cut off"), ServerBack("b")):
            observers.handle(event)
        observers.finish()
        self.assertEqual(module.away, {"a": "cut off"})

    def test_run_finished(self) -> None:
        """The observer is told the result."""
        _, names = registry("run_finished")
        figures = {"accuracy": {"final": 0.9, "worst": 0.8, "best": 0.9}}
        result = {"status": "finished", "metrics": figures, "seconds": 1.5, "error": None}
        with redirect_stderr(io.StringIO()) as printed:
            told(names, run_finished={"result": result})
        self.assertEqual(json.loads(printed.getvalue())["metrics"], figures)


def told(names: Registry, **events: dict[str, Any]) -> None:
    """Have the observers of `names` hear `events`, and wait until they have."""
    observers = Observers(names)
    for hook, arguments in events.items():
        observers.tell(hook, **arguments)
    observers.finish()


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.threads: set[str] = set()

    @hookimpl
    def run_started(self, config: Any) -> None:
        self.heard.append(config["seed"])
        config.clear()  # what it was given is its own

    @hookimpl
    def round_completed(self, record: Any) -> None:
        self.heard.append(record["round"])
        self.threads.add(threading.current_thread().name)

    @hookimpl
    def run_finished(self) -> None:  # an argument that is not needed is left out
        self.heard.append("end")


class EventRecorder:
    """An observer that remembers every event."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    @hookimpl
    def run_event(self, event: Any) -> None:
        self.heard.append(event)


class Raiser:
    @hookimpl
    def round_completed(self, record: Any) -> None:
        raise ZeroDivisionError(f"round {record['round']}")


class Hanger:
    """An observer that does not return until the test is over."""

    def __init__(self) -> None:
        self.release = threading.Event()

    @hookimpl
    def round_completed(self, record: Any) -> None:
        self.release.wait(60)


class ObserverTests(SynchronousTestCase):
    def names(self, **plugins: Any) -> Registry:
        return load(only=(), extra=plugins)

    def test_hear_everything_in_order(self) -> None:
        """Start, rounds, end; in a thread that is not the caller's; on copies."""
        recorder = Recorder()
        observers = Observers(self.names(recorder=recorder))
        config = {"seed": 42}
        observers.tell("run_started", config=config)
        for i in range(3):
            observers.tell("round_completed", record={"round": i})
        observers.tell("run_finished", result={})
        observers.finish()
        self.assertEqual(recorder.heard, [42, 0, 1, 2, "end"])
        self.assertEqual(config, {"seed": 42})
        self.assertNotIn(threading.current_thread().name, recorder.threads)

    def test_events(self) -> None:
        """Each event comes in its order, and not the page's way to look; none after the end."""
        recorder, teller = EventRecorder(), Recorder()
        observers = Observers(self.names(recorder=recorder, teller=teller))
        record = {"round": 0}
        told = [
            RunStarted({"seed": 1}, ()), RoundBegun(0), ServerLost("a", "cut off"),
            RoundCompleted(record, 1.0),
        ]  # fmt: skip
        for event in (told[0], ServersKnown(lambda: []), *told[1:]):
            observers.handle(event)
        observers.finish()
        observers.handle(ServerBack("a"))
        self.assertEqual(recorder.heard[1:3], told[1:3])
        self.assertEqual([type(event) for event in recorder.heard], [type(e) for e in told])
        self.assertIsNot(recorder.heard[3].record, record)  # it may be changed
        self.assertEqual(teller.heard, [1, 0])

    def test_each_has_a_copy(self) -> None:
        """The others do not see changes of one of them."""

        class Clears:
            heard: list[Any]

            def __init__(self) -> None:
                self.heard = []

            @hookimpl
            def round_completed(self, record: dict[str, Any]) -> None:
                self.heard.append(dict(record))
                record.clear()

        one, other = Clears(), Clears()
        observers = Observers(self.names(one=one, other=other))
        observers.tell("round_completed", record={"round": 0})
        observers.finish()
        self.assertEqual(one.heard + other.heard, [{"round": 0}] * 2)

    def test_no_observer_no_thread(self) -> None:
        """A run that nobody watches pays nothing."""
        before = set(threading.enumerate())
        observers = Observers(self.names())
        observers.tell("round_completed", record={})
        self.assertEqual(set(threading.enumerate()) - before, set())
        observers.finish()

    def test_one_that_raises_is_logged_once(self) -> None:
        """It goes on being called, and so do the others; the log has one line."""
        recorder = Recorder()
        observers = Observers(self.names(raiser=Raiser(), recorder=recorder))
        with capturedLogs() as logs:
            for i in range(5):
                observers.tell("round_completed", record={"round": i})
            observers.finish()
        self.assertEqual(recorder.heard, [0, 1, 2, 3, 4])
        blamed = [e for e in logs if e["log_level"] is LogLevel.critical]
        self.assertEqual(len(blamed), 1, logs)
        self.assertEqual(blamed[0]["plugin"], "raiser")
        self.flushLoggedErrors(ZeroDivisionError)

    def test_one_that_hangs_costs_events_not_the_run(self) -> None:
        """Thousands of events are taken without waiting, and one warning is logged."""
        hanger, recorder = Hanger(), Recorder()
        self.addCleanup(hanger.release.set)
        observers = Observers(self.names(hanger=hanger, recorder=recorder))
        with capturedLogs() as logs:
            for i in range(3000):
                observers.tell("round_completed", record={"round": i})
        self.assertEqual(sum(e["log_level"] is LogLevel.warn for e in logs), 1)
        hanger.release.set()
        observers.finish()
        self.assertEqual(recorder.heard, sorted(set(recorder.heard)))
        self.assertLess(len(recorder.heard), 3000)

    def test_the_end_does_not_wait_for_ever(self) -> None:
        """An observer that hangs at the end is left behind."""
        hanger = Hanger()
        self.addCleanup(hanger.release.set)
        observers = Observers(self.names(hanger=hanger))
        observers.tell("round_completed", record={"round": 0})
        end = threading.Thread(target=observers.finish, daemon=True)
        end.start()
        end.join(30)
        self.assertFalse(end.is_alive())


@pytest.mark.slow
class WholeRunTests(SynchronousTestCase):
    def test_observers_of_a_run(self) -> None:
        """In a real run, one observer hears all of it while another fails all the time;
        the run ends well, and its log has the failure once."""
        where = folder(self)
        write(
            where,
            "byzpy-tw-watching",
            """
            import json
            from pathlib import Path

            heard, events = [], []

            @hookimpl
            def run_event(event):
                events.append(type(event).__name__)

            @hookimpl
            def run_started(config):
                heard.append(["start", config["config"]["rounds"], config["dimension"]])

            @hookimpl
            def round_completed(record):
                heard.append([record["round"], record["refused"], record["parameters_sha256"]])

            @hookimpl
            def run_finished(result):
                heard.append([result["status"], result["final_accuracy"], events])
                Path(__file__).with_name("heard.json").write_text(json.dumps(heard))
            """,
            module="byzpy_tw_watching",
        )
        write(
            where,
            "byzpy-tw-failing",
            """
            @hookimpl
            def run_started(config):
                raise RuntimeError("no")

            @hookimpl
            def round_completed(record):
                raise RuntimeError("no")
            """,
            module="byzpy_tw_failing",
        )
        path = folder(self) / "run"
        trainer, _ = start_training(
            self,
            *("--in-process", "--dataset", "synthetic", "--model", "logreg"),
            *("--rounds", "3", "--threads", "1"),
            path=path,
            prefix=["env", f"PYTHONPATH={where}"],
        )
        self.assertEqual(trainer.wait(), 0, trainer.output)
        self.assertNotIn("Traceback", trainer.output)
        start, *rounds, end = json.loads((where / "heard.json").read_text())
        self.assertEqual(start, ["start", 3, 650])
        recorded = [json.loads(line) for line in (path / "rounds.jsonl").open()]
        self.assertEqual([r[2] for r in rounds], [r["parameters_sha256"] for r in recorded])
        self.assertEqual(end[0], "finished")
        events = Counter(end[2])
        self.assertEqual(end[2][0], "RunConfigured")
        self.assertEqual([events[name] for name in ("RunStarted", "NodesPlaced")], [1, 1])
        self.assertEqual([events[name] for name in ("RoundBegun", "RoundCompleted")], [3, 3])
        self.assertEqual(events["Evaluated"], sum("accuracy" in record for record in recorded))
        self.assertEqual(events["CheckpointWritten"], 1)
        log = (path / "trainer.log").read_text()
        self.assertEqual(log.count("byzpy-tw-failing:it failed in run_started"), 1, log)
        self.assertNotIn("failed in round_completed", log)
