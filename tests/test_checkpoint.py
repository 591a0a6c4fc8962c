"""A run's state on disk: whole, or not there."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.algorithms import state as state_module
from byzpy_tw.algorithms.state import State, check_shapes
from byzpy_tw.config.run_config import RunConfig, from_dict
from byzpy_tw.errors import (
    BadRuleOutput,
    CannotRecord,
    ConfigError,
    DamagedCheckpoint,
    RunDirectoryError,
)
from byzpy_tw.plugins import load
from byzpy_tw.records import checkpoint
from byzpy_tw.records.folder import CONFIG, RESULT, ROUNDS, RunDirectory, to_json
from byzpy_tw.records.resume import merge_config, reopen
from byzpy_tw.trainer.run import prepare_resume
from tests.recorded_runs import record
from tests.support import folder


def state(round: int = 3) -> State:
    return State(
        round,
        torch.arange(5.0),
        torch.ones(5) * round,
        {0: torch.zeros(5), 2: torch.ones(5)},
        {2: {3: torch.ones(5, dtype=torch.bfloat16)}},
        {"aggregator": {"previous": torch.ones(5), "seen": 4, "names": ("a", None, True)}},
        {"direction": np.arange(3.0), "row": 1},
        {"3": [1, 2, 3, False]},
        12.5,
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return type(one) is type(other) and one == other


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = folder(self)

    def test_there_and_back(self) -> None:
        """Every part of a state, to the bit and to the type."""
        found = checkpoint.read(checkpoint.write(self.folder, state()))
        for name in ("round", "parameters", "optimizer", "momenta", "history", "aggregation",
                     "attack", "probation", "elapsed"):  # fmt: skip
            self.assertTrue(same(getattr(state(), name), getattr(found, name)), name)

    def test_of_another_run(self) -> None:
        """Parameters, and vectors of all nodes, must be as those of the run."""
        first = evolve(state(0), rows=torch.zeros(3, 5))
        check_shapes(evolve(state(), rows=torch.ones(3, 5)), first)
        check_shapes(state(), state(0))
        for changed, words in (
            ({"parameters": torch.ones(4)}, r"3 rounds .* its parameters are \(4,\) .* \(5,\)"),
            ({"parameters": "x"}, r"its parameters are a str, expected \(5,\) of torch.float32"),
            ({"rows": None}, r"its rows are none, expected \(3, 5\)"),
            ({"rows": torch.ones(3, 5).double()}, r"its rows are \(3, 5\) of torch.float64"),
        ):
            found = evolve(state(), **{"rows": torch.ones(3, 5), **changed})
            with self.assertRaisesRegex(DamagedCheckpoint, words):
                check_shapes(found, first)

    def test_of_an_older_version(self) -> None:
        """A checkpoint of 0.1 has a field for the velocity of SGD."""
        old = {"round": 2, "parameters": torch.ones(3), "velocity": torch.arange(3.0)}
        body = io.BytesIO()
        torch.save(old, body)
        digest = hashlib.sha256(body.getvalue()).digest()
        path = self.folder / "checkpoint.00000002"
        path.write_bytes(checkpoint.MAGIC + digest + body.getvalue())
        found = checkpoint.read(path)
        self.assertTrue(same(found.optimizer, {"velocity": torch.arange(3.0)}))

    def test_a_copy(self) -> None:
        """Shares no memory with what it was made from."""
        one = state()
        other = one.snapshot()
        one.parameters.add_(1)
        one.momenta[0].add_(1)
        one.aggregation["aggregator"]["previous"].add_(1)
        self.assertTrue(same(other.parameters, state().parameters))
        self.assertTrue(same(other.momenta, state().momenta))
        self.assertTrue(same(other.aggregation, state().aggregation))

    def test_a_large_one(self) -> None:
        """Is kept as it is, but for containers that the run adds to."""
        one = state()
        self.patch(state_module, "LARGE", 1)
        other = one.snapshot()
        self.assertIs(other.parameters, one.parameters)
        self.assertIs(other.momenta[0], one.momenta[0])
        one.momenta[5], one.history[3] = torch.ones(5), {}
        del one.aggregation["aggregator"]["seen"]
        for name in ("momenta", "history", "aggregation"):
            self.assertTrue(same(getattr(other, name), getattr(state(), name)), name)

    def test_parts_and_odd_layouts(self) -> None:
        """A view of a large tensor is copied, and what has no strides is counted."""
        whole = torch.zeros(1000, 1000)
        self.patch(state_module, "LARGE", 1)
        snapshot = State(
            1, whole[0], {"velocity": whole[0]}, {}, {}, {"sparse": torch.eye(3).to_sparse()}
        ).snapshot()
        self.assertEqual(snapshot.parameters.untyped_storage().nbytes(), 4000)
        self.assertTrue(snapshot.aggregation["sparse"].is_sparse)

    def test_how_large(self) -> None:
        """All tensors and arrays count, wherever they are."""
        size = 4 * 5 * 4 + 5 * 2 + 5 * 4 + 3 * 8
        for least, large in ((size, True), (size + 1, False)):
            self.patch(state_module, "LARGE", least)
            self.assertEqual(state().large, large)

    def test_the_newest_are_kept(self) -> None:
        """Two, or as many as asked for."""
        for keep, left in ((2, [5, 4]), (1, [5]), (None, [5, 4, 3, 2, 1])):
            for path in self.folder.iterdir():
                path.unlink()
            for round in range(1, 6):
                checkpoint.write(self.folder, state(round), keep)
            rounds = [
                checkpoint.read(p).round for p in checkpoint.list_checkpoints(self.folder).values()
            ]
            self.assertEqual(rounds, left)
            self.assertEqual(len(list(self.folder.iterdir())), len(left))

    @given(st.data())
    def test_any_damage_is_noticed(self, data: st.DataObject) -> None:
        """A byte that changed anywhere, or an end that is missing."""
        path = checkpoint.write(self.folder, state())
        whole = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] ^= data.draw(st.integers(1, 255))
        else:
            del whole[data.draw(st.integers(0, len(whole) - 1)) :]
        path.write_bytes(whole)
        self.assertRaises(DamagedCheckpoint, checkpoint.read, path)

    def test_of_another_version(self) -> None:
        """Whole, but with other contents: told, not raised as something else."""
        path = self.folder / "checkpoint.00000001"
        body = self.folder / "body"
        torch.save({"something": "else"}, body)
        import hashlib

        data = body.read_bytes()
        path.write_bytes(checkpoint.MAGIC + hashlib.sha256(data).digest() + data)
        self.assertRaises(DamagedCheckpoint, checkpoint.read, path)

    def test_one_that_is_older_than_what_is_there(self) -> None:
        """A checkpoint that was just written is there afterwards."""
        for round in (20, 19):
            checkpoint.write(self.folder, state(round))
        path = checkpoint.write(self.folder, state(10))
        self.assertTrue(path.exists())

    def test_odd_memory(self) -> None:
        """Arrays of words, and what contains itself, are told as well."""
        itself: list[Any] = []
        itself.append(itself)
        for bad in (np.array(["a"]), np.array([object()]), itself, {"byzpy_tw: numpy": 1}):
            odd = State(1, torch.ones(2), attack={"a": bad})
            self.assertRaises(BadRuleOutput, checkpoint.write, self.folder, odd)

    def test_memory_that_cannot_be_kept(self) -> None:
        """The rule's author is told what it was, and where."""
        bad = State(1, torch.ones(2), aggregation={"a": {"b": [object()]}})
        failure = self.assertRaises(BadRuleOutput, checkpoint.write, self.folder, bad)
        self.assertIn("aggregation['a']['b'][0] is object", str(failure))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_nowhere_to_write(self) -> None:
        """An error in words."""
        gone = self.folder / "gone"
        failure = self.assertRaises(CannotRecord, checkpoint.write, gone, state())
        self.assertIn("No such file", str(failure))


CONFIGURATION = RunConfig(in_process=True, seed=5)


def line(number: int, **more: Any) -> dict[str, Any]:
    """A record of that run."""
    return record(number, **{"selected": None, "excluded": [], **more})


class ReopeningTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = folder(self) / "run"
        self.said: list[str] = []
        directory = RunDirectory.create(self.folder)
        directory.write_config({"config": CONFIGURATION.to_dict(), "run": "token"})
        for number in range(7):
            directory.append_round(line(number))
        directory.close()
        for number in (3, 5):
            checkpoint.write(self.folder, state(number))

    def reopen(self, **given: Any) -> Any:
        config, directory, begun = reopen(self.folder, given, self.said.append)
        self.addCleanup(directory.close)
        return config, directory, begun

    def test_from_the_newest(self) -> None:
        """The records past it are cut off, for the rounds will be run again."""
        config, directory, begun = self.reopen()
        self.assertEqual(config, CONFIGURATION)
        self.assertEqual((begun.round, begun.token, len(begun.records)), (5, "token", 5))
        directory.cut(begun.round)
        directory.append_round({"round": 5})
        directory.close()
        lines = (self.folder / ROUNDS).read_text().splitlines()
        self.assertEqual([json.loads(line)["round"] for line in lines], [0, 1, 2, 3, 4, 5])

    def test_a_damaged_result(self) -> None:
        """It is an error, as it may be that of a finished run; the lock is given back."""
        (self.folder / "result.json").write_text('{"status": "fini')
        for _ in range(2):
            with self.assertRaisesRegex(RunDirectoryError, "result.json"):
                prepare_resume(self.folder, {}, load(), self.said.append)

    def test_no_checkpoint_and_a_damaged_record(self) -> None:
        """The damage is named: to mend it is another way out."""
        for number in (3, 5):
            (self.folder / f"checkpoint.{number:08d}").write_bytes(b"half")
        records = self.folder / ROUNDS
        records.write_bytes(b"{\n" + records.read_bytes().partition(b"\n")[2])
        for _ in range(2):
            with self.assertRaisesRegex(RunDirectoryError, f"line 1 of {ROUNDS} .*put that back"):
                self.reopen()

    def test_a_damaged_one(self) -> None:
        """The one before it is used, with a warning, and it is gone once that goes on."""
        (self.folder / "checkpoint.00000005").write_bytes(b"half")
        _, directory, begun = self.reopen()
        self.assertEqual(begun.round, 3)
        self.assertIn("checkpoint.00000005", self.said[0])
        directory.cut(begun.round)
        self.assertFalse((self.folder / "checkpoint.00000005").exists())

    def test_none_that_is_good(self) -> None:
        """The records are left alone, and the user decides."""
        for path in checkpoint.list_checkpoints(self.folder).values():
            path.write_bytes(b"half")
        failure = self.assertRaises(RunDirectoryError, reopen, self.folder, {}, print)
        self.assertIn("delete them", str(failure))
        (self.folder / RESULT).write_text(
            to_json({"status": "finished", "rounds": CONFIGURATION.rounds})
        )
        self.reopen()[1].close()  # there is nothing left to do
        more = {"rounds": CONFIGURATION.rounds + 1}
        self.assertRaises(RunDirectoryError, reopen, self.folder, more, print)
        self.assertEqual(len((self.folder / ROUNDS).read_text().splitlines()), 7)

    def test_without_any(self) -> None:
        """Everything is run again."""
        for path in checkpoint.list_checkpoints(self.folder).values():
            path.unlink()
        begun = self.reopen()[2]
        self.assertEqual((begun.round, begun.records), (0, ()))

    def test_records_that_were_lost(self) -> None:
        """A checkpoint that they do not reach is not used."""
        lines = [to_json(line(n)) for n in range(4)]
        (self.folder / ROUNDS).write_text("\n".join(lines) + '\n{"round": 4, "seco')
        self.assertEqual(self.reopen()[2].round, 3)
        self.assertIn("only 4 are on record", self.said[0])

    def spoil(self, number: int, text: str) -> None:
        """Put `text` in the place of a record."""
        lines = (self.folder / ROUNDS).read_text().splitlines()
        lines[number] = text
        (self.folder / ROUNDS).write_text("\n".join(lines) + "\n")

    def test_a_damaged_record(self) -> None:
        """The records end before it: it costs nothing where the checkpoint is of an earlier
        round, and else the one before is used, and the line is named."""
        whole = {"accuracy": 0.5, "test_loss": None}
        for change, why in (
            ({"refused": 3}, "refused 3"), ({"refused": [{"node": {}}]}, "refused [{'node': {}}]"),
            ({"seconds": "x"}, "seconds x"), ({"seconds": 10**19}, "a number of seconds"),
            ({"seconds": True}, "seconds True"), ({**whole, "accuracy": "x"}, "accuracy x"),
            ({**whole, "test_loss": []}, "test_loss []"), ({"accuracy": 0.5}, "lacks test_loss"),
            ({"bytes_sent": "x"}, "bytes_sent x"), ({"parameters_sha256": "x"}, "a SHA-256"),
            ({"phases": [1]}, "phases"), ({"events": [1]}, "events"), ({"f": 4}, "of 4 nodes"),
            ({"round": 4.0}, "round 4"), ({"excluded": [4]}, "excluded [4]"),
            ({"options": {"lr": [[1]]}}, "options"), ({"options": 1}, "options 1"),
        ):  # fmt: skip
            self.is_cut_off(to_json(line(4, **change)), why)
        without = line(4)
        del without["parameters_sha256"]
        self.is_cut_off(to_json(without), "lacks parameters_sha256")
        self.is_cut_off("[" * 100_000, "nested without end")
        for number in ("1e400", "-Infinity", "NaN", "9" * 400, "9" * 5000):
            self.is_cut_off(to_json(line(4)).replace("0.06", number, 1), "is not JSON")

    def is_cut_off(self, text: str, why: str) -> None:
        """With `text` for round 4, a run goes on with round 3, and says `why`."""
        self.said.clear()
        self.spoil(4, text)
        _, directory, begun = self.reopen()
        directory.close()
        self.assertEqual((begun.round, len(begun.records)), (3, 3), text[:200])
        self.assertEqual(len(self.said), 1)
        self.assertIn("only 4 are on record (line 5 of rounds.jsonl", self.said[0])
        self.assertIn(why, self.said[0])

    def test_damage_after_the_checkpoint(self) -> None:
        """It is cut off with the rest."""
        self.spoil(5, to_json(line(5, seconds="x")))
        _, directory, begun = self.reopen()
        self.assertEqual((begun.round, self.said), (5, []))
        directory.cut(begun.round)
        lines = (self.folder / ROUNDS).read_text().splitlines()
        self.assertEqual([json.loads(line)["round"] for line in lines], [0, 1, 2, 3, 4])

    def test_damage_before_every_checkpoint(self) -> None:
        """Nothing is begun, and the line is named."""
        self.spoil(0, "{}")
        failure = self.assertRaises(RunDirectoryError, self.reopen)
        self.assertIn(
            "line 1 of rounds.jsonl is not the record of round 0; put that back", str(failure)
        )

    def test_a_damaged_description(self) -> None:
        """One line names the file and the entry."""
        plain = {"config": CONFIGURATION.to_dict(), "run": "token"}
        for change, why in (
            ({"versions": [1]}, "config.json has versions [1]"),
            ({"config": {**plain["config"], "lr": "x"}}, "config.json is no configuration: --lr"),
            ({"config": {**plain["config"], "seed": []}}, "config.json is no configuration"),
            ({"config": [1]}, "config.json is not of this version"),
        ):
            (self.folder / CONFIG).write_text(to_json({**plain, **change}))
            failure = self.assertRaises(RunDirectoryError, self.reopen)
            self.assertIn(why, str(failure))
        for text in ('{"config": 1e400}', "[" * 100_000, '{"config": ' + "9" * 5000 + "}"):
            (self.folder / CONFIG).write_text(text)
            self.assertIn("cannot read", str(self.assertRaises(RunDirectoryError, self.reopen)))

    def test_in_use(self) -> None:
        """Two trainers cannot have one folder."""
        self.reopen()
        failure = self.assertRaises(RunDirectoryError, reopen, self.folder, {}, print)
        self.assertIn("in use by process", str(failure))
        failure = self.assertRaises(RunDirectoryError, RunDirectory.create, self.folder)

    def test_no_run(self) -> None:
        """A folder without one is told apart, and is not changed."""
        other = folder(self)
        self.assertRaises(RunDirectoryError, reopen, other, {}, print)
        self.assertEqual(list(other.iterdir()), [])
        (other / CONFIG).write_text("[]")
        self.assertRaises(RunDirectoryError, reopen, other, {}, print)

    def test_options(self) -> None:
        """Where it runs, how long it waits and how long it goes on may change."""
        saved = CONFIGURATION
        config = merge_config(saved, {"local": 3, "rounds": 99, "round_timeout": 5.0, "seed": 5})
        self.assertEqual((config.local, config.in_process, config.rounds), (3, False, 99))
        for bad in ({"seed": 6}, {"lr": 0.5}, {"run_dir": "x"}):
            self.assertRaises(ConfigError, merge_config, saved, bad)
        self.assertRaises(ConfigError, from_dict, {**saved.to_dict(), "colour": "red"})
        self.assertRaises(ConfigError, self.reopen, rounds=2)
