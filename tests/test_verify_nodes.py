"""A site computes the vectors of its own nodes again, and finds what was changed."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.__main__ import main
from byzpy_tw.audit.site import describe_site, site_advice
from byzpy_tw.errors import ConfigError
from tests.support import folder, many_runs

RUN = (
    "--in-process --dataset synthetic --model mlp:hidden=8 --batch-size 16 --partition local "
    "--num-honest 3 --num-byz 1 --f 1 --aggregator trimmed-mean --rounds 7 --wire-dtype bfloat16 "
    "--worker-momentum 0.9 --checkpoint-interval 2 --keep-checkpoints all"
)


@pytest.mark.slow
class NodesTests(SynchronousTestCase):
    """``verify --nodes``, of a run whose checkpoints are kept every two rounds."""

    made: Path

    @classmethod
    def setUpClass(cls) -> None:
        made = Path(mkdtemp(prefix="byzpy_tw-"))
        cls.addClassCleanup(shutil.rmtree, made)
        done = many_runs(made, [RUN])
        assert "finished" in done.stdout, done.stderr
        cls.made = made / "0"

    def verify(self, path: Path, *options: str) -> tuple[int, dict[str, Any], str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["verify", str(path), "--threads", "1", "--json", *options])
        return code, json.loads(out.getvalue() or "{}"), err.getvalue()

    def spoiled(self, norms: dict[int, dict[str, Any]]) -> Path:
        """A copy of the run with these norms in its records, by round."""
        path = folder(self) / "run"
        shutil.copytree(self.made, path)
        records = [json.loads(line) for line in (path / "rounds.jsonl").open()]
        for round, changed in norms.items():
            records[round]["norms"].update(changed)
        (path / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return path

    def test_confirmed(self) -> None:
        """In the rounds before which parameters are kept, each vector has its norm."""
        code, found, _ = self.verify(self.made, "--nodes", "0,2")
        self.assertEqual((code, found["problems"], found["confirmed"]), (0, [], True))
        self.assertEqual(found["computed"], [[0, 1], [2, 3], [4, 5], [6, 7]])
        self.assertEqual((found["nodes"], found["vectors"]), ([0, 2], 8))

    def test_another_vector(self) -> None:
        """A norm that the node's vector does not have is found, of these nodes alone."""
        path = self.spoiled({4: {"1": 3.5}})
        code, found, _ = self.verify(path, "--nodes", "1")
        self.assertEqual(code, 1)
        [problem] = found["problems"]
        self.assertEqual((problem["what"], problem["round"]), ("norm", 4))
        self.assertIn("node 1: a norm of 3.5 is on record", problem["text"])
        self.assertEqual(self.verify(path, "--nodes", "0,2")[0], 0)

    def test_rounding(self) -> None:
        """A difference in the last digits is called rounding."""
        record = json.loads((self.made / "rounds.jsonl").read_text().splitlines()[0])
        path = self.spoiled({0: {"1": record["norms"]["1"] * (1 + 1e-9)}})
        [problem] = self.verify(path, "--nodes", "1")[1]["problems"]
        self.assertIn("which is rounding", problem["text"])

    def test_other_parameters(self) -> None:
        """A checkpoint that is not the recorded one is a problem, and nothing is computed
        from it."""
        path = self.spoiled({})
        shutil.copyfile(path / "checkpoint.00000002", path / "checkpoint.00000004")
        _, found, _ = self.verify(path, "--nodes", "0")
        self.assertEqual([p["what"] for p in found["problems"]], ["checkpoint"])
        self.assertEqual(found["computed"], [[0, 1], [2, 3], [6, 7]])

    def test_a_vector_that_never_came(self) -> None:
        """A node without a vector in these rounds confirms nothing."""
        path = self.spoiled({round: {"1": None} for round in (0, 2, 4, 6)})
        code, found, _ = self.verify(path, "--nodes", "1")
        self.assertEqual((code, found["computed"]), (1, []))
        self.assertIn("no vector of theirs came whole", found["problems"][0]["text"])

    def test_one_that_never_came(self) -> None:
        """The vectors of other nodes do not confirm it."""
        path = self.spoiled({round: {"1": None} for round in (0, 2, 4, 6)})
        code, found, _ = self.verify(path, "--nodes", "0,1")
        self.assertEqual((code, found["confirmed"], found["vectors"]), (1, False, 4))
        self.assertIn("nothing is confirmed of nodes 1:", found["problems"][0]["text"])

    def test_mistakes(self) -> None:
        """Byzantine nodes, no numbers, and a start are refused with the reason."""
        for options, words in (
            (("--nodes", "0,3"), "honest nodes of the run, 0 to 2, got 3"),
            (("--nodes", "a"), "numbers with commas between, got"),
            (("--nodes", ""), "numbers with commas between, got"),
            (("--nodes", "0", "--from", "newest"), "leave out --from"),
        ):
            code, _, err = self.verify(self.made, *options)
            self.assertEqual(code, 2, err)
            self.assertIn(words, err)


class SiteTests(SynchronousTestCase):
    """The part of config.json that is a site's own."""

    description = {
        "data_digest": "t", "trial": {}, "placement": {"a": [0, 2], "b": [1, 3]},
        "data_digests": {"a": "x", "b": "y"}, "devices": {"a": "cpu", "b": "cuda"},
    }  # fmt: skip

    def test_its_data_and_device(self) -> None:
        """It has those of the nodes' server, and no trial of the trainer's data."""
        site = describe_site(self.description, [1, 3], True)
        self.assertEqual((site["data_digest"], site["devices"]), ("y", {"b": "cuda"}))
        self.assertIsNone(site["trial"])

    def test_a_name_from_its_certificate(self) -> None:
        """A server with keys is placed under its address and name."""
        named = {"a (alpha)": [0, 2], "b (beta)": [1, 3]}
        site = describe_site({**self.description, "placement": named}, [1], True)
        self.assertEqual((site["data_digest"], site["devices"]), ("y", {"b": "cuda"}))

    def test_without_nodes(self) -> None:
        """A site that leaves --nodes out is told its own, where its data is known."""
        told = site_advice(self.description, "y", 3)
        self.assertIn("that of nodes 1: check them alone, with --nodes", told)
        named = {"a (alpha)": [0, 2], "b (beta)": [1, 3]}
        told = site_advice({**self.description, "placement": named}, "x", 3)
        self.assertIn("that of nodes 0, 2:", told)
        for description in (self.description, {}, {"data_digests": 3, "placement": 3}):
            told = site_advice(description, "other", 3)
            self.assertEqual(
                told, "each site can check its own nodes, with --nodes and --data-root"
            )

    def test_nodes_of_two_sites(self) -> None:
        """They have no data in common, and their servers are named."""
        error = self.assertRaises(ConfigError, describe_site, self.description, [0, 1], True)
        self.assertIn("nodes 0, 1 lived on servers with different data (a, b)", str(error))

    def test_damaged(self) -> None:
        """Entries of other types leave the rest as it is."""
        for placement in (None, 3, {"a": 3}, []):
            site = describe_site({"data_digest": "t", "placement": placement}, [0], False)
            self.assertEqual(site["data_digest"], "t")
