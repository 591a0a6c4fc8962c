"""Pivots as Markdown and LaTeX."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import ConfigError
from byzpy_tw.sweep import tables
from byzpy_tw.sweep.pivot import Pivot, View, pivot
from byzpy_tw.sweep.study import Axis
from byzpy_tw.sweep.tables import latex, markdown
from byzpy_tw.tasks.metric import ACCURACY
from tests.studies import axis, make_study, results_of

CHAINS = axis("pre_aggregator", "aggregator", values=[((), "mean"), (("nnm",), "median")])
ATTACK = axis("attack", values=("none", "label_flip"))


def made(*axes: Axis, seeds: int = 2, view: View | None = None) -> Pivot:
    """Chains under attacks; one cannot be run."""

    def refuse(config: RunConfig) -> str | None:
        if config.aggregator == "mean" and config.attack == "label_flip":
            raise ConfigError("mean: 100% no_t & {here}")
        return "nothing" if config.aggregator == "mean" else None

    study = make_study(CHAINS, ATTACK, *axes, seeds=seeds)
    results = results_of(
        study, lambda p: 0.25 + 0.5 * (p["aggregator"] == "median") + 0.1 * (p["seed"] == "43"),
        refuse=refuse,
    )  # fmt: skip
    shown = view or View(rows=("pipeline",), columns=("attack",))
    return pivot(results, shown, ACCURACY)


class MarkdownTests(SynchronousTestCase):
    def test_a_table(self) -> None:
        """With its caption and notes; names are escaped, and the best of a column is bold."""
        self.assertEqual(
            markdown(made(), 2),
            "Final accuracy in percent, mean ± standard deviation over 2 seeds\n\n"
            "| pipeline | none | label\\_flip | worst case |\n"
            "| --- | ---: | ---: | ---: |\n"
            "| mean | 30.0 ± 7.1\\* | impossible | ≤ 30.0 ± 7.1\\* |\n"
            "| nnm \\| median | **80.0 ± 7.1** | 80.0 ± 7.1 | **80.0 ± 7.1** |\n\n"
            "- mean / label\\_flip: impossible: mean: 100% no\\_t &amp; {here}\n"
            "- \\*: the rule gives no guarantee\n"
            "- worst cases with ≤ or ≥: a cell without a value could be worse still\n",
        )

    def test_statistics(self) -> None:
        """Each over the seeds; the caption says which."""
        table = made()
        for name, cell, words in (
            ("mean", "30.0\\*", "mean over 2 seeds"), ("min", "25.0\\*", "min over 2 seeds"),
            ("max", "35.0\\*", "max over"), ("count", "2", "number over"),
            ("deviation", "7.1\\*", ", standard deviation over"),
        ):  # fmt: skip
            text = markdown(table, 2, name)
            self.assertIn(f"| mean | {cell} |", text)
            self.assertIn(words, text)
        alone = markdown(made(seeds=1), 1)
        self.assertIn("Final accuracy in percent\n", alone)
        self.assertIn("| mean | 25.0\\* |", alone)

    @given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20))
    def test_names_stay_names(self, name: str) -> None:
        """No sign of a name means anything to Markdown or LaTeX."""
        shown = tables._markdown(name)
        self.assertEqual(re.findall(r"(?<!\\)(?:\\\\)*[|*_`]", shown), [])
        self.assertNotIn("<", shown)
        tex = tables._latex(name)
        plain = re.sub(r"\\text[a-z]+\{\}|\\[{}$&#%_]|\$\\(pm|leq|geq)\$", "", tex)
        self.assertEqual(set(plain) & set("\\{}$&#%_~^<>|"), set())


class LatexTests(SynchronousTestCase):
    def test_a_table(self) -> None:
        """With booktabs; two axes across have heads over each other."""
        view = View(rows=("pipeline",), columns=("f", "attack"))
        text = latex(made(axis("f", values=[1, 2]), view=view), 2)
        self.assertIn(r"\begin{tabular}{lrrrrrr}", text)
        self.assertIn(
            "\\toprule\n & \\multicolumn{3}{c}{1} & \\multicolumn{3}{c}{2} \\\\\n"
            "\\cmidrule(lr){2-4} \\cmidrule(lr){5-7}\n"
            "pipeline & none & label\\_flip & worst case & none & label\\_flip & worst case \\\\\n"
            "\\midrule\n",
            text,
        )
        self.assertIn(r"nnm \textbar{} median & \textbf{80.0 $\pm$ 7.1} & 80.0 $\pm$ 7.1", text)
        self.assertIn(r"$\leq$ 30.0 $\pm$ 7.1*", text)
        self.assertIn(r"mean: 100\% no\_t \& \{here\}.", text)
        self.assertEqual(text.count("{"), text.count("}"))

    def test_without_columns(self) -> None:
        """A study of one axis has one column, with the metric."""
        study = make_study(CHAINS)
        one = pivot(
            results_of(study, lambda p: 0.5), View(rows=("pipeline",), columns=()), ACCURACY
        )
        self.assertIn("pipeline & accuracy \\\\\n", latex(one, 1))
        self.assertIn("| pipeline | accuracy |\n", markdown(one, 1))
