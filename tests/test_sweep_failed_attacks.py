"""Cells of a sweep whose attack failed conclude nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import Event
from byzpy_tw.records.summary import AttackFailures, RoundCounts
from byzpy_tw.sweep.conclusions import sentences
from byzpy_tw.sweep.execution import RunExecutor
from byzpy_tw.sweep.findings import findings
from byzpy_tw.sweep.grid import Cell
from byzpy_tw.sweep.lab_json import figures
from byzpy_tw.sweep.page_data import page_data
from byzpy_tw.sweep.results import CellResult, read
from byzpy_tw.sweep.scheduler import Sweep
from byzpy_tw.sweep.scores import goodness
from byzpy_tw.sweep.text import cell_line, notes
from tests.failing_plugins import heard, names
from tests.support import folder
from tests.sweep_grids import grid, grid_of, outcome, table_of
from tests.test_attack_calls import record

pytestmark = pytest.mark.slow

GRID: dict[str, Any] = {
    "dataset": "synthetic:n=200,classes=4,features=9", "model": "logreg", "batch_size": 8,
    "num_honest": 4, "num_byz": 2, "rounds": 10, "eval_interval": 5, "partition": "iid",
}  # fmt: skip


class LabTests(TestCase):
    """Grids in which attacks fail."""

    def lab(self, *attacks: str) -> Sweep:
        made = grid_of(GRID, attacks, ["mean", "median"], [1], names())
        return Sweep(made, self.where, 1, names(), reactor)

    def setUp(self) -> None:
        self.where, handle = folder(self), RunExecutor.handle

        def hear(executor: RunExecutor, event: Event) -> None:
            TextOutput(heard).handle(event)
            handle(executor, event)

        self.patch(RunExecutor, "handle", hear)  # the runs are followed by their lines
        self.addCleanup(heard, "byzpy_tw:")

    def cells(self, lab: Sweep) -> dict[tuple[str, str], CellResult]:
        return {(o.cell.defence, o.cell.attack): o for o in lab.outcomes()}

    async def test_some_and_all(self) -> None:
        """A cell with failed calls is marked and one without an attack has failed; neither
        leads to a conclusion, in the terminal, on the page or in lab.json."""
        lab = self.lab("none", "raises", "raises-late")
        await lab.run()
        self.flushLoggedErrors(RuntimeError)
        outcomes, found = lab.outcomes(), self.cells(lab)
        self.assertEqual(found["mean", "raises"].status, "failed")
        late = found["median", "raises-late"]
        self.assertEqual((late.status, goodness(late)), ("finished", None))
        self.assertTrue(
            late.attack_failures.startswith(
                "the attack failed in 6 of 20 calls (8 more were not waited for): round 3, "
                "node 4: mistakes: attack 'raises-late' raised"
            ),
            late.attack_failures,
        )
        said = "\n".join(notes(lab.grid, outcomes))
        self.assertIn("?: nothing is concluded: mean, median under raises-late: the attack", said)
        self.assertIn("failed: mean under raises: the attack 'raises' failed in 6 of 20", said)
        drawn = "\n".join(table_of(lab.grid, outcomes))
        self.assertRegex(drawn, r"median +\S+ \(\S+\) +failed +\S+\?")
        self.assertIn("the attack failed in 6 of 20 calls", cell_line(late))
        self.assertEqual(sentences(lab.grid, outcomes), [])
        data = page_data(lab.results)["cells"]
        self.assertEqual([n is None for n in data["failed"]], [True, False, False] * 2)
        self.assertEqual(data["told"][-1], "")
        cells = figures(lab.results)["cells"]
        self.assertEqual([bool(c["attack_failures"]) for c in cells], [False, True, True] * 2)

        again = self.lab("none", "raises", "raises-late")
        again.load_finished()
        self.assertEqual(again.finished_before, 6)  # nothing would become of it in another call
        self.assertEqual(again.outcomes(), outcomes)

    async def test_nothing_but_failures(self) -> None:
        """Nothing is concluded from a table without an attack."""
        lab = self.lab("raises")
        await lab.run()
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual({o.status for o in lab.outcomes()}, {"failed"})
        self.assertEqual(sentences(lab.grid, lab.outcomes()), [])
        self.assertEqual(findings(lab.outcomes()), {})

    async def test_a_folder_of_an_earlier_version(self) -> None:
        """A run that was taken for a finished one is judged by its records."""
        lab = self.lab("raises")
        await lab.run()
        self.flushLoggedErrors(RuntimeError)
        [run] = lab.grid.cells[0].runs
        path = lab.path(run) / "result.json"
        result = json.loads(path.read_text())
        for name in ("attack_failures", "halted"):
            del result[name]
        path.write_text(json.dumps({**result, "status": "finished", "error": None}))
        found = read(run, lab.path(run))
        assert found is not None
        self.assertEqual((found.status, found.is_over), ("failed", True))
        self.assertIn("the attack failed in 6 of 20 calls", found.error)

    def test_the_best_of_the_others(self) -> None:
        """Defences with a result under every attack are compared, and it is said that these
        are not all; a cell whose attack failed is nobody's collapse and nobody's best."""
        made = grid(defences=("mean", "median", "krum"))
        failures = self.failures()
        outcomes = [outcome(cell, 0.9 - 0.2 * cell.column - 0.06 * cell.row) for cell in made.cells]
        outcomes[1] = outcome(made.cells[1], 0.95, failures=failures)
        self.assertEqual(
            sentences(made, outcomes),
            [
                "median has the best worst case of the 2 defences with a result under every "
                "attack: 64.0 % under sign-flip:scale=-5."
            ],
        )
        outcomes[1] = outcome(made.cells[1], 0.1, failures=failures)
        self.assertEqual(findings(outcomes), {})
        outcomes[1] = outcome(made.cells[1], 0.1, status="diverged", failures=failures)
        self.assertEqual(findings(outcomes), {})
        self.assertIn("diverged?", "\n".join(table_of(made, outcomes)))
        self.assertIn("mean under sign-flip:scale=-5: diverged, the attack", cell_line(outcomes[1]))

    def test_over_seeds(self) -> None:
        """The calls of all seeds are counted together; one seed that failed leaves no value."""
        made = grid(seeds=(1, 2))
        both = outcome(made.cells[1], 0.9, 0.9, failures=self.failures())
        self.assertIn("failed in 2 of 20 calls: round 4, node 9: no", both.attack_failures)
        one = CellResult(cell=made.cells[1], ended=both.ended[:1], failures=("BAD: no",))
        self.assertEqual((one.status, goodness(one)), ("failed", None))

    def failures(self) -> AttackFailures | None:
        """Failures of ten rounds of one attacker, of which one failed."""
        calls = RoundCounts(8, 1)
        for number in range(10):
            failed = [{"node": 9, "reason": "failed", "detail": "no"}] if number == 4 else []
            calls.add(record(failed))
        return calls.attack_failures

    def test_a_column_that_never_began(self) -> None:
        """Runs that failed before their first round leave their rows without a worst case."""
        lab = self.lab("none", "ipm")
        outcomes = [self.failed(cell) for cell in lab.grid.cells]
        self.assertEqual(sentences(lab.grid, outcomes), [])

    def failed(self, cell: Cell) -> CellResult:
        return CellResult(cell=cell, failures=("BROKEN_PLUGIN: no",))
