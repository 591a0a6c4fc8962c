"""The accuracy that each rule keeps under each attack, on uneven data: five sweeps.

    python benchmarks/robustness.py [--out DIR] [--results FILE] [--jobs 2] [--only WORD]
    python benchmarks/robustness.py --table [--results FILE]

Each of `SERIES` is one ``python -m byzpy_tw sweep``, which goes on where an earlier call was
stopped.  Afterwards its runs replace their lines in the results file.  ``--table``
runs nothing and prints the tables of that file, as Markdown.

The setting is near that of Karimireddy et al. (ICLR 2022): 20 honest and 5 Byzantine
nodes, worker momentum 0.9, batch 32; half the rounds, and a larger learning rate.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

RESULTS = Path(__file__).with_name("robustness.jsonl")

SETTING: dict[str, Any] = {
    "num_honest": 20, "num_byz": 5, "f": 5, "rounds": 300, "batch_size": 32,
    "worker_momentum": 0.9, "momentum": 0.0, "eval_interval": 10, "dataset": "mnist5k",
    "batches": "draws",
}  # fmt: skip
LR = 0.05
RULES = "mean median trimmed-mean multi-krum geometric-median centered-clipping krum".split()
ATTACKS = "none sign-flip ipm alie alie:tau=1.5 opt-alie label-flip mimic".split()
TRAININGS = (
    ("extreme", "mlp", (1, 2, 3)),
    ("dirichlet:alpha=0.5", "mlp", (1, 2, 3)),
    ("dirichlet:alpha=0.5", "small-cnn", (1,)),  # it takes ten times as long
)


class Series(NamedTuple):
    """One sweep: its data, model and seeds, its rules with what stands before them, its options."""

    partition: str
    model: str
    seeds: tuple[int, ...]
    rules: list[str]
    before: tuple[str, ...] = ("none",)
    options: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """A word for each part, for ``--only`` and the folder."""
        own = "" if self.rules is RULES else f" {' '.join(self.rules)}"
        return f"{self.partition} {self.model}{own}"


# Rules of federated learning; the last two have examples of the trainer's own.
FEDERATED = "norm-bound rlr foolsgold flame".split()
ROOTED = "fltrust zeno".split()
SERIES = (
    *(Series(*training, RULES, ("none", "nnm")) for training in TRAININGS),
    Series("dirichlet:alpha=0.5", "mlp", (1,), FEDERATED),
    Series("dirichlet:alpha=0.5", "mlp", (1,), ROOTED, options={"root_examples": 100}),
)
KEY = ("partition", "model", "pre", "rule", "attack", "seed")
KEPT = (
    "status", "final_accuracy", "worst_accuracy", "best_accuracy", "seconds", "attack_failures",
)  # fmt: skip
COLLAPSE = 30.0  # points below the same rule without an attack

Row = dict[str, Any]


def sweep(series: Series, folder: Path, jobs: int) -> int:
    """Run the rest of the sweep of `series` in `folder`; return its exit code."""
    options: dict[str, Any] = {
        **SETTING, "lr": LR, "partition": series.partition, "model": series.model, "threads": 1,
        "round_timeout": 600.0,  # a machine with other work is no reason to fail
        "jobs": jobs, "out": folder, **series.options,
    }  # fmt: skip
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    words += ["--preaggregators", *series.before, "--aggregators", *series.rules]
    words += ["--attacks", *ATTACKS, "--seeds", *map(str, series.seeds)]
    return subprocess.run([sys.executable, "-m", "byzpy_tw", "sweep", *words]).returncode


def rows_of(folder: Path, partition: str, model: str) -> Iterator[Row]:
    """Each run of the sweep in `folder` whose result means something, as a results line."""
    table = folder / "lab.json"
    for cell in json.loads(table.read_text("utf-8"))["cells"] if table.exists() else ():
        *pre, rule = cell["defence"].split(" | ")
        for run in cell["runs"]:
            result = json.loads((folder / run["folder"] / "result.json").read_text("utf-8"))
            if result["status"] in ("finished", "diverged"):
                values = (partition, model, " | ".join(pre), rule, cell["attack"], run["seed"])
                kept = {name: result.get(name) for name in KEPT}
                yield {**dict(zip(KEY, values)), "setting": f"{SETTING}, lr {LR}", **kept}


def read(results: Path) -> dict[tuple, Row]:
    """The lines of a results file that were run in this setting, by cell and seed."""
    lines = results.read_text("utf-8").splitlines() if results.exists() else ()
    rows = [row for row in map(json.loads, lines) if row["setting"] == f"{SETTING}, lr {LR}"]
    return {tuple(row[name] for name in KEY): row for row in rows}


# -- the table


def accuracy(row: Row, which: str) -> float:
    """In percent; a run that diverged has learnt nothing."""
    value = row[f"{which}_accuracy"]
    return 100 * value if row["status"] == "finished" and value is not None else 10.0


def tables(rows: Iterable[Row]) -> str:
    """Markdown: for each partition and model, rules down and attacks across."""
    parts: list[str] = []
    for partition, model, _ in TRAININGS:
        group: dict[tuple[str, str, str], dict[int, Row]] = defaultdict(dict)
        for row in rows:
            if (row["partition"], row["model"]) == (partition, model):
                group[row["rule"], row["pre"], row["attack"]][row["seed"]] = row
        if not group:
            continue
        seeds = max(map(len, group.values()))
        parts.append(f"\n### {partition}, {model}, {seeds} seed{'s' * (seeds > 1)}\n")
        parts.append("| rule | " + " | ".join(ATTACKS) + " |")
        parts.append("|---" * (len(ATTACKS) + 1) + "|")
        for rule in (*RULES, *FEDERATED, *ROOTED):
            for pre in ("", "nnm") if rule in RULES else ("",):
                name = f"{pre} + {rule}" if pre else rule
                calm = group.get((rule, pre, "none"), {})
                runs = [group.get((rule, pre, attack), {}) for attack in ATTACKS]
                most = max(map(len, runs))  # seeds of this rule, which are told once
                if not most and rule not in RULES:
                    continue
                if 0 < most < seeds:
                    name += f" ({most} seed{'s' * (most > 1)})"
                entries = [entry(one, calm, most) for one in runs]
                parts.append(f"| {name} | " + " | ".join(entries) + " |")
    return "\n".join(parts)


def entry(runs: dict[int, Row], calm: dict[int, Row], seeds: int) -> str:
    """``final (worst-best)``, means over the seeds; bold where it collapsed.

    Compared with the same seeds without an attack.  The number of seeds is said
    where some are missing.
    """
    if not runs:
        return ""
    final, worst, best = (
        mean(accuracy(run, which) for run in runs.values()) for which in ("final", "worst", "best")
    )
    text = f"{final:.1f}"
    both = runs.keys() & calm.keys()
    if both:
        lost = mean(accuracy(calm[s], "final") - accuracy(runs[s], "final") for s in both)
        text = f"**{text}**" if lost >= COLLAPSE else text
    text += f" ({worst:.0f}-{best:.0f})"
    failures = [found for run in runs.values() if (found := run.get("attack_failures"))]
    if failures:  # nothing is concluded from such a cell
        failed, of = (sum(found[what] for found in failures) for what in ("failed", "of"))
        text = f"{text.replace('**', '')}, attack failed in {failed} of {of} calls"
    diverged = sum(run["status"] == "diverged" for run in runs.values())
    text += f", {diverged} diverged" * bool(diverged)
    return text + f", {len(runs)} of {seeds} seeds" * (len(runs) < seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="partitions and models with this word")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    found = read(args.results)
    if args.table:
        print(tables(found.values()))
        return
    for series in SERIES:
        if args.only not in series.name:
            continue
        folder = args.out / re.sub(r"[^a-z0-9.]+", "-", series.name)
        code = sweep(series, folder, args.jobs)
        for row in rows_of(folder, series.partition, series.model):
            found[tuple(row[name] for name in KEY)] = row
        lines = "".join(json.dumps(row) + "\n" for row in found.values())
        args.results.write_text(lines, encoding="utf-8")
        if code not in (0, 1):  # interrupted, or it could not begin
            sys.exit(code)


if __name__ == "__main__":
    main()
