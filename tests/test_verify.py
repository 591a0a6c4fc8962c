"""A run's records are computed again, and whatever was changed in them is found."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.audit.recompute import RoundRecomputer
from byzpy_tw.audit.replay import ImmediateExecutor, prepare_replay
from byzpy_tw.audit.verify import Verification
from byzpy_tw.config.run_config import RunConfig, options_digest
from byzpy_tw.plugins import load
from byzpy_tw.records import checkpoint
from byzpy_tw.records.folder import read_run, to_json
from byzpy_tw.records.schema import ROUND_FIELDS
from byzpy_tw.vectors import norm_of, round_to_dtype, sha256_of
from tests.support import folder, many_runs

SMALL = "--in-process --dataset synthetic --model mlp:hidden=8 --batch-size 16 --num-honest 6"
# Runs whose rounds depend on more than their parameters.
RUNS = {
    "memory": "--num-byz 2 --f 2 --rounds 10 --worker-momentum 0.9 "
    "--attack mimic:adaptive=true --pre-aggregator bucketing --aggregator centered-clipping "
    "--eval-interval 3 --checkpoint-interval 4 --keep-checkpoints all",
    "foresight": "--num-byz 1 --f 2 --rounds 6 --attack opt-alie --aggregator trimmed-mean "
    "--wire-dtype bfloat16",
    "replay": "--num-byz 2 --f 2 --rounds 8 --attack replay:relabel=true,age=2 "
    "--aggregator krum --checkpoint-interval 5",
    "refused": "--num-byz 2 --f 2 --rounds 6 --attack garbage --aggregator multi-krum "
    "--partition dirichlet:alpha=0.9,min_size=20",
    "late": "--num-byz 1 --f 1 --rounds 5 --attack silent --round-timeout 0.5 --aggregator median",
}


@cache
def _made() -> Path:
    """The folder with a directory for each of `RUNS`."""
    made = Path(mkdtemp(prefix="byzpy_tw-"))
    done = many_runs(made, [f"{SMALL} {options}" for options in RUNS.values()])
    if len(done.stdout.splitlines()) != len(RUNS):
        raise AssertionError(done.stderr)
    return made


def tearDownModule() -> None:
    if _made.cache_info().currsize:
        shutil.rmtree(_made())
        _made.cache_clear()


@cache
def _registry() -> Any:
    return load()


class VerifyCase(SynchronousTestCase):
    def run_of(self, name: str) -> Path:
        """A copy of that run's directory, to be spoiled."""
        path = folder(self) / "run"
        shutil.copytree(_made() / str(list(RUNS).index(name)), path)
        return path

    def verified(self, path: Path, start: int = 0) -> Verification:
        verification = Verification(read_run(path), _registry(), ImmediateExecutor(), 1)
        verification.run(start)
        return verification

    def spoil(self, path: Path, round: int, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change one record."""
        records = [json.loads(line) for line in (path / "rounds.jsonl").open()]
        change(records[round])
        (path / "rounds.jsonl").write_text("".join(to_json(r) + "\n" for r in records))

    def spoil_file(self, path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))

    def assert_found(self, path: Path, *told: tuple[str, int | None, str]) -> Verification:
        """Not confirmed, for these problems: their word, their round and words of theirs."""
        verification = self.verified(path)
        self.assertFalse(verification.confirmed)
        problems = verification.problems
        self.assertEqual([(p.what, p.round) for p in problems], [t[:2] for t in told], problems)
        for problem, (_, _, words) in zip(problems, told, strict=True):
            self.assertIn(words, problem.text)
        return verification


@pytest.mark.slow
class RecordTests(VerifyCase):
    def test_the_configuration_is_on_record(self) -> None:
        """Each record has its digest, the first one what it is of; and what f the attack
        was told of."""
        records = read_run(self.run_of("refused")).rounds
        self.assertEqual({r["bits"] for r in records}, {options_digest(records[0]["options"])})
        self.assertEqual([("options" in r) for r in records], [True] + [False] * 5)
        self.assertEqual({r["foreseen_f"] for r in records[:3]}, {2})


@pytest.mark.slow
class HonestTests(VerifyCase):
    def test_whole_runs(self) -> None:
        """Memory, momentum, foresight, replays and refused nodes: every hash is met."""
        for name in RUNS:
            verification = self.verified(self.run_of(name))
            self.assertEqual((name, verification.problems), (name, []))
            self.assertEqual(verification.spans, [(0, len(verification.rounds))])
            self.assertTrue(verification.confirmed)
            count = len(verification.rounds)
            self.assertEqual(
                repr(verification),
                f"<Verification of {verification.recorded.path}: confirmed; {count} of {count} "
                "rounds computed again>",
            )

    def test_from_a_checkpoint(self) -> None:
        """Momenta, memories and the past are taken from there, and the rest is met."""
        for name, start in (("memory", 8), ("replay", 5)):
            verification = self.verified(self.run_of(name), start)
            self.assertEqual(verification.problems, [])
            self.assertEqual(verification.spans, [(start, len(verification.rounds))])

    def test_records_of_before(self) -> None:
        """Without digests, or what an attack foresaw, as far as possible: wholly."""
        for name in ("foresight", "late"):
            path, new = self.run_of(name), ("bits", "foreseen_f")
            for number in range(len(read_run(path).rounds)):
                self.spoil(path, number, lambda r: [r.pop(k, 0) for k in new])
            self.spoil(path, 0, lambda r: r.pop("options"))
            self.assertTrue(self.verified(path).confirmed)

    def test_nodes_on_a_device_that_is_not_here(self) -> None:
        """All is computed on the CPU, and told: of this run, which was too, each hash is met."""
        path = self.run_of("refused")
        description = json.loads((path / "config.json").read_text())
        self.assertEqual(description["devices"], {"in-process": "cpu"})
        self.assertEqual(description["versions"]["device"], "cpu")

        def elsewhere(found: dict[str, Any]) -> None:
            found["devices"], found["versions"]["device"] = {"s": "cuda (card)"}, "cuda (card)"

        self.spoil_file(path / "config.json", elsewhere)
        verification = self.verified(path)
        self.assertEqual(verification.problems, [])
        told = "; ".join(verification.notes)
        self.assertIn("nodes computed on cuda (card), here all do on the CPU", told)
        self.assertIn("was begun with device cuda (card), this is cpu", told)
        self.spoil_file(path / "config.json", lambda found: found.update(devices=[3]))
        self.assertNotIn("nodes computed", "; ".join(self.verified(path).notes))

    def test_a_trainer_on_a_device_that_is_not_here(self) -> None:
        """The CPU takes its place, instead of a refusal."""
        path = self.run_of("refused")
        options = {**read_run(path).rounds[0]["options"], "device": "cuda:99"}
        digest = options_digest(options)
        self.spoil_file(path / "config.json", lambda f: f["config"].update(device="cuda:99"))
        self.spoil_file(path / "config.json", lambda found: found.update(bits=digest))
        for number in range(len(read_run(path).rounds)):
            self.spoil(path, number, lambda r: r.update(bits=digest))
        self.spoil(path, 0, lambda r: r.update(options=options))
        verification = self.verified(path)
        self.assertTrue(verification.confirmed, verification.problems)
        self.assertIn("--device cuda:99 is not here", "; ".join(verification.notes))

    def test_a_run_that_has_not_ended(self) -> None:
        """The recorded rounds are verified; a line without its end is being written."""
        path = self.run_of("refused")
        (path / "result.json").unlink()
        lines = (path / "rounds.jsonl").read_text().splitlines(keepends=True)
        (path / "rounds.jsonl").write_text("".join(lines[:3]) + lines[3][:50])
        for kept in checkpoint.list_checkpoints(path).values():
            kept.unlink()
        verification = self.verified(path)
        self.assertTrue(verification.confirmed)
        self.assertEqual(verification.spans, [(0, 3)])
        self.assertIn("3 of 6 rounds are on record", verification.notes)

    def test_more_rounds(self) -> None:
        """A run that was resumed with more --rounds has two digests, and is one run."""
        path = self.run_of("refused")
        options = {**read_run(path).rounds[0]["options"], "rounds": 4}
        first = {"bits": options_digest(options), "options": options}
        later = {k: read_run(path).rounds[0][k] for k in ("bits", "options")}
        for number in range(4):
            self.spoil(path, number, lambda r: r.update(bits=first["bits"]))
        self.spoil(path, 0, lambda r: r.update(first))
        self.spoil(path, 4, lambda r: r.update(later))
        self.assertTrue(self.verified(path).confirmed)


@pytest.mark.slow
class ChangedTests(VerifyCase):
    def test_one_hash(self) -> None:
        """Its round is named, and that the others are met."""
        path = self.run_of("memory")
        self.spoil(path, 6, lambda r: r.update(parameters_sha256="0" * 64))
        verification = self.assert_found(path, ("hash", 6, "this record was changed"))
        self.assertEqual(verification.spans, [(0, 10)])
        self.assertIn("run: not confirmed: round 6: ", repr(verification))

    def test_the_last_hash(self) -> None:
        path = self.run_of("refused")
        self.spoil(path, 5, lambda r: r.update(parameters_sha256="0" * 64))
        self.assert_found(
            path,
            ("result", None, "result.json has parameters_sha256"),
            ("checkpoint", 5, "holds other parameters"),
            ("hash", 5, "of their aggregate are as recorded"),
        )

    def test_an_option(self) -> None:
        """Each that changes bits is named, with what the records were made with, and
        they are met with that."""
        for name, value in (("lr", 0.1), ("seed", 43), ("aggregator", "krum"), ("f", 1),
                            ("batches", "draws"), ("precision", "bfloat16")):  # fmt: skip
            path = self.run_of("refused")
            self.spoil_file(path / "config.json", lambda c: c["config"].update({name: value}))
            told = f"--{name} {value}, the records were made with --{name} "
            verification = self.assert_found(path, ("option", None, told))
            self.assertEqual(verification.spans, [(0, 6)])

    def test_an_option_that_changes_no_bits(self) -> None:
        path = self.run_of("refused")
        self.spoil_file(path / "config.json", lambda c: c["config"].update(eval_interval=7))
        self.assertTrue(self.verified(path).confirmed)

    def test_rounds(self) -> None:
        """A run that is said to have finished has as many as it was to have."""
        path = self.run_of("refused")
        self.spoil_file(path / "config.json", lambda c: c["config"].update(rounds=7))
        self.assert_found(path, ("result", None, "has --rounds 7"))

    def test_an_option_of_before(self) -> None:
        """Where records do not tell, config.json's own digest does."""
        path = self.run_of("refused")
        for number in range(6):
            self.spoil(path, number, lambda r: [r.pop(k, 0) for k in ("bits", "options")])
        self.spoil_file(path / "config.json", lambda c: c["config"].update(lr=0.1))
        found = self.verified(path).problems
        self.assertEqual((found[0].what, found[1].what, found[1].round), ("option", "hash", 0))

    def test_the_weight_of_byzantine_nodes(self) -> None:
        """It is computed again, unless the record is of a version that had none."""
        path = self.run_of("replay")
        self.assertIn("byzantine_weight", read_run(path).rounds[3])
        self.spoil(path, 3, lambda r: r.update(byzantine_weight=0.625))
        self.assert_found(
            path,
            ("result", None, "result.json has byzantine_weight"),
            ("record", 3, "byzantine_weight 0.625 on record"),
        )
        for number in range(8):
            self.spoil(path, number, lambda r: r.pop("byzantine_weight"))
        self.spoil_file(path / "result.json", lambda r: r.pop("byzantine_weight"))
        self.assertTrue(self.verified(path).confirmed)

    def test_a_digest(self) -> None:
        path = self.run_of("refused")
        self.spoil(path, 3, lambda r: r.update(bits="f" * 64))
        self.assert_found(path, ("digest", 3, "round 3 carries the digest of another"))

    def test_chance(self) -> None:
        """It is compared with the data, unless the run is of a version that recorded none."""
        path = self.run_of("refused")
        self.spoil_file(path / "config.json", lambda c: c.update(chance={"accuracy": 0.5}))
        self.assert_found(path, ("record", None, "config.json has chance {'accuracy': 0.5}"))
        self.spoil_file(path / "config.json", lambda c: c.pop("chance"))
        self.assertTrue(self.verified(path).confirmed)

    def test_the_metrics(self) -> None:
        """The task says which of two values is the better one."""
        path = self.run_of("refused")
        self.spoil_file(path / "config.json", lambda c: c["metrics"][0].update(better="lower"))
        (path / "result.json").unlink()
        words = "config.json has the metrics accuracy (lower is better, unit none, format .2%), the"
        self.assert_found(path, ("record", None, words))
        for changed, words in (
            ({"unit": "m", "better": "higher"}, "accuracy (higher is better, unit m, format .2%)"),
            ({"unit": "", "format": ".3f"}, "accuracy (higher is better, unit none, format .3f)"),
        ):
            self.spoil_file(path / "config.json", lambda c, to=changed: c["metrics"][0].update(to))
            self.assert_found(path, ("record", None, f"config.json has the metrics {words}, the"))

    def test_the_task(self) -> None:
        """Its name, unless the run is of a version that recorded none."""
        path = self.run_of("refused")
        self.spoil_file(path / "config.json", lambda c: c.update(task="regression"))
        words = "config.json has the task regression, the run is of classification"
        self.assert_found(path, ("record", None, words))
        self.spoil_file(path / "config.json", lambda c: c.pop("task"))
        self.assertTrue(self.verified(path).confirmed)

    def test_the_digest_of_the_configuration(self) -> None:
        """The digest lets two runs be compared."""
        for bits in ("a" * 64, None, 3):
            path = self.run_of("refused")
            self.spoil_file(path / "config.json", lambda c, to=bits: c.update(bits=to))
            verification = self.assert_found(path, ("digest", None, "config.json has bits "))
            self.assertEqual(verification.spans, [(0, 6)])

    def test_more_rounds_to_come(self) -> None:
        """A run that was resumed with more rounds, and has no record of these yet, has a
        digest of its own."""
        path = self.run_of("refused")
        (path / "result.json").unlink()
        config = evolve(read_run(path).config, rounds=9)
        changed = {"config": config.to_dict(), "bits": config.bits}
        self.spoil_file(path / "config.json", lambda c: c.update(changed))
        self.assertTrue(self.verified(path).confirmed)

    def test_how_it_ended(self) -> None:
        """An end that cannot have been, by what is on record."""
        lie = "server X lied"
        for change, *words in (
            ({"status": "diverged", "error": lie}, "has error_code None", "came to its end"),
            ({"status": "diverged", "error": lie, "error_code": "DIVERGED"}, "came to its end"),
            ({"status": "paused", "error": lie, "error_code": "BUDGET_EXCEEDED"},
             "says paused (BUDGET_EXCEEDED), and 6 rounds are on record"),
            ({"status": "failed"}, "has no error"),
            ({"error": lie}, "says finished, and has the error None: server X lied"),
            ({"error_code": "DIVERGED"}, "says finished, and has the error DIVERGED"),
            ({"status": "splendid"}, "has status splendid"),
            ({"status": []}, "has status []"),
        ):  # fmt: skip
            path = self.run_of("refused")
            self.spoil_file(path / "result.json", lambda r, to=change: r.update(to))
            self.assert_found(path, *(("result", None, told) for told in words))

    def test_an_early_end(self) -> None:
        """The recorded cause of an early end is believed; a claim to have finished is not."""
        path = self.run_of("refused")
        lines = (path / "rounds.jsonl").read_text().splitlines(keepends=True)
        (path / "rounds.jsonl").write_text("".join(lines[:3]))
        for kept in checkpoint.list_checkpoints(path).values():
            kept.unlink()
        told = {"status": "diverged", "error": "why", "error_code": "DIVERGED", "rounds": 3}
        (path / "result.json").write_text(json.dumps(told))
        self.assertTrue(self.verified(path).confirmed)
        (path / "result.json").write_text('{"status": "finished"}')
        self.assert_found(path, ("result", None, "says finished, and 3 rounds are on record"))

    def test_the_membership(self) -> None:
        """A node that is said to have been refused, and was not."""
        path = self.run_of("refused")
        added = {"node": 0, "reason": "late", "detail": ""}
        self.spoil(path, 2, lambda r: r["refused"].append(added))
        found = self.verified(path).problems
        self.assertEqual([p.what for p in found], ["result", "hash", "way"])
        self.assertEqual([p.round for p in found], [None, 2, 3])

    def test_figures(self) -> None:
        """Figures that follow from the parameters are compared too."""
        path = self.run_of("memory")
        self.spoil(path, 5, lambda r: r.update(accuracy=0.99))
        self.spoil(path, 7, lambda r: r.update(loss=0.5))
        found = {(p.what, p.round) for p in self.verified(path).problems}
        self.assertLessEqual({("record", 5), ("record", 7)}, found)

    def test_records_that_are_none(self) -> None:
        """Each is told with its line; those before it are verified."""
        for change, words in (
            (lambda r: r.pop("refused"), "lacks refused"),
            (lambda r: r["refused"].append({"node": 99, "reason": "late"}), "which of the 8"),
            (lambda r: r.update(round=9), "is not the record of round 3"),
            (lambda r: r.update(f=-1), "has f -1: that is not an f of a run of 8 nodes"),
            (lambda r: r.update(f=True), "has f True"),
            (lambda r: r.pop("seconds"), "lacks seconds"),
            (lambda r: r.update(seconds=10**400), "is not JSON: a number of 401 digits"),
            (lambda r: r.update(accuracy=0.5), "lacks test_loss"),
        ):
            path = self.run_of("refused")
            (path / "result.json").unlink()
            self.spoil(path, 3, change)
            verification = self.assert_found(path, ("record", 3, words))
            self.assertEqual(verification.spans, [(0, 3)])

    def test_a_checkpoint(self) -> None:
        """A damaged one is told."""
        path = self.run_of("memory")
        (path / "checkpoint.00000004").write_bytes(b"nonsense")
        self.assert_found(path, ("checkpoint", 4, "is no checkpoint"))

    def test_a_checkpoint_of_another_shape(self) -> None:
        """Its parameters are those on record, the rest is not to be used: it is told."""
        path = self.run_of("memory")
        state = checkpoint.read(path / "checkpoint.00000008")
        checkpoint.write(
            path, evolve(state, optimizer={"velocity": state.optimizer["velocity"][1:]}), None
        )
        [problem] = self.verified(path, 8).problems
        self.assertEqual((problem.what, problem.round), ("replay", 8))


class LyingTests(VerifyCase):
    """A server that sent something else than its nodes compute."""

    def lied(self, at: int, node: int) -> Path:
        """A run of which one vector was a lie, and the records that it leaves."""
        path = folder(self)
        config = RunConfig(
            in_process=True, dataset="synthetic", model="mlp:hidden=8", num_honest=4, rounds=6,
            aggregator="mean", attack="empire", batch_size=16,
        )  # fmt: skip
        replay = prepare_replay(config, _registry(), path, ImmediateExecutor())
        state, lines = replay.first, []
        for number in range(config.rounds):
            rows = {
                n: round_to_dtype(g.vector, replay.algorithm.wire).clone()
                for n, g in replay.gradients(state, range(4))
            }
            if number == at:
                rows[node].mul_(2)
            matrix = replay.first.parameters.new_zeros(5, replay.host.dimension)
            for n, row in rows.items():
                matrix[n] = row
            algorithm, nodes = replay.algorithm, tuple(range(5))
            shown = algorithm.reveal(state, range(4), matrix[:4], config.f)
            matrix[4] = replay.attack_vector(state, 4, 4, shown, None)
            aggregated = algorithm.aggregate(state, nodes, 1, matrix)
            state = algorithm.advance(state, nodes, matrix, aggregated, shown.memory)
            lines.append({
                "round": number, "seconds": 0.1, "f": 1, "refused": [], "foreseen_f": 1,
                "phases": {}, "selected": list(range(5)), "excluded": [],
                "parameters_sha256": sha256_of(state.parameters),
                "norms": {str(n): norm_of(matrix[n]) for n in range(5)},
            })  # fmt: skip
            if number == 3:
                checkpoint.write(path, state)
        (path / "rounds.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
        description = {
            "config": evolve(config, in_process=False, local=2).to_dict(), "bits": config.bits,
            "placement": {"tcp://10.0.0.7:1": [0, 2, 4], "tcp://10.0.0.8:1": [1, 3]},
        }  # fmt: skip
        (path / "config.json").write_text(json.dumps(description))
        return path

    def test_the_liar_is_named(self) -> None:
        """The round, the node and its server are named, and what follows is verified from
        the next checkpoint on."""
        verification = self.assert_found(
            self.lied(1, 3),
            ("hash", 1, "node 3 (at the start on tcp://10.0.0.8:1) norm "),
            ("way", 2, "from round 2 on, up to the checkpoint of round 4"),
        )
        self.assertIn("if it lied, cannot be computed again", verification.problems[0].text)
        self.assertEqual(verification.spans, [(0, 2), (4, 6)])


class EntriesTests(SynchronousTestCase):
    def test_each_verified_field_is_computed(self) -> None:
        """A field without an entry of the recomputed round would never be compared."""
        config = RunConfig(
            in_process=True, dataset="synthetic", model="mlp:hidden=8", batch_size=16,
            num_honest=4, num_byz=1, f=1, rounds=1, attack="empire", aggregator="median",
        )  # fmt: skip
        pool = ImmediateExecutor()
        replay = prepare_replay(config, _registry(), Path("data"), pool, 2)
        record = {"round": 0, "f": 1, "refused": [], "foreseen_f": 1, "test_loss": 0.5,
                  "parameters_sha256": ""}  # fmt: skip
        entries = RoundRecomputer(replay, pool, 1).recompute(replay.first, record).entries
        verified = {name for name, field in ROUND_FIELDS.items() if field.verified}
        self.assertEqual(set(entries), verified)


@pytest.mark.slow
class CommandTests(VerifyCase):
    def said(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["verify", *words])
        return code, out.getvalue(), err.getvalue()

    def test_confirmed(self) -> None:
        """Exit code 0, and a last line that says so."""
        path = self.run_of("memory")
        code, out, _ = self.said(str(path), "--from", "newest", "--threads", "1")
        self.assertEqual(code, 0, out)
        self.assertIn("confirmed: the recorded hashes of 2 of 10 rounds are met, from the", out)

    def test_not_confirmed(self) -> None:
        """Exit code 1; as JSON too."""
        path = self.run_of("memory")
        self.spoil(path, 4, lambda r: r.update(parameters_sha256="0" * 64))
        code, out, _ = self.said(str(path), "--threads", "1")
        self.assertEqual(code, 1)
        self.assertIn("not confirmed, first in round 4", out)
        code, out, _ = self.said(str(path), "--threads", "1", "--json")
        found = json.loads(out)
        self.assertEqual((code, found["confirmed"]), (1, False))
        self.assertEqual({p["round"] for p in found["problems"]}, {4})

    def test_mistakes(self) -> None:
        """Each is one line, with exit code 2."""
        path = self.run_of("memory")
        empty = folder(self)
        for words, told in (
            ((str(empty),), "holds no run"),
            ((str(path), "--from", "soon"), "--from must be a round or newest"),
            ((str(path), "--from", "3"), "no checkpoint of round 3 was kept (there are: 4, 8)"),
            ((str(path), "--threads", "0"), "--threads must be from 1"),
        ):
            code, _, err = self.said(*words)
            self.assertEqual(code, 2, err)
            self.assertIn(told, err)
            self.assertEqual(err.count("\n"), 1, err)

    def test_words_from_files(self) -> None:
        """They do not reach the terminal as they are."""
        path = self.run_of("refused")
        self.spoil_file(path / "config.json", lambda c: c.update(data_digest="\x1b[2J"))
        self.spoil(path, 3, lambda r: r.update(bits="\x1b[2J\n"))
        _, out, _ = self.said(str(path), "--threads", "1")
        self.assertIn("[2J", out)
        self.assertNotIn("\x1b", out)

    def test_the_folder_s_name(self) -> None:
        """A folder's name with escapes and lines of its own does not either."""
        path = self.run_of("refused").rename(folder(self) / "a\x1b[31m\nb  c")
        self.assertIn("verify " + str(path.parent) + "/a?[31m?b  c: 6 rounds",
                      self.said(str(path), "--threads", "1")[1])  # fmt: skip
        (path / "rounds.jsonl").write_text("")
        _, _, err = self.said(str(path), "--threads", "1")
        self.assertIn("a?[31m?b c: no round is on record", err)

    def test_other_data_here(self) -> None:
        """A record that cannot be computed here is one problem, with the cure."""
        path = self.run_of("refused")
        self.spoil_file(path / "config.json", lambda c: c.update(data_digest="0" * 64))
        code, out, _ = self.said(str(path), "--threads", "1")
        self.assertEqual(code, 1)
        self.assertIn("begun with other data", out)
        self.assertIn("--data-root", out)
