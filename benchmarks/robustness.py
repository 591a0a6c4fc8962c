"""What each rule keeps of a model's accuracy under each attack, on uneven data.

    python benchmarks/robustness.py [--results FILE] [--workers 2] [--only WORDS] [--without WORDS]
    python benchmarks/robustness.py --table

A cell is one whole run: a partition, a model, a rule with or without nearest-neighbour
mixing, an attack, a seed.  Each finished cell is a line of the results file, so that a
second call goes on where the first was stopped.  ``--table`` runs nothing and prints the
tables of what is there, as Markdown.

The setting is near that of Karimireddy et al. (ICLR 2022): 20 honest and 5 Byzantine
nodes, worker momentum 0.9, batch 32; half the rounds, and a larger learning rate.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, Queue
from statistics import mean
from typing import IO, Any

from attrs import asdict, fields, frozen

RESULTS = Path(__file__).with_name("robustness.jsonl")

SETTING: dict[str, Any] = {
    "num_honest": 20,
    "num_byz": 5,
    "f": 5,
    "rounds": 300,
    "batch_size": 32,
    "worker_momentum": 0.9,
    "momentum": 0.0,
    "eval_interval": 10,
    "dataset": "mnist5k",
}
LR = {"mlp": 0.05, "small-cnn": 0.05}
RULES = (
    "mean",
    "median",
    "trimmed-mean",
    "multi-krum",
    "geometric-median",
    "centered-clipping",
    "krum",
)
ATTACKS = (
    "none",
    "sign-flip",
    "ipm",
    "alie",
    "alie:tau=1.5",
    "opt-alie",
    "label-flip",
    "mimic",
)
TRAININGS = (
    ("extreme", "mlp"),
    ("dirichlet:alpha=0.5", "mlp"),
    ("dirichlet:alpha=0.5", "small-cnn"),  # one seed: it takes ten times as long
)
SEEDS = (1, 2, 3)
ENDS = ("finished", "diverged")  # of a run whose result means something
KEPT = (
    "status", "final_accuracy", "worst_accuracy", "best_accuracy", "seconds", "attack_failures",
)  # fmt: skip
COLLAPSE = 30.0  # points below the same rule without an attack


@frozen
class Cell:
    """One run of the table."""

    partition: str
    model: str
    pre: str  # a pre-aggregator, or nothing
    rule: str
    attack: str
    seed: int

    @property
    def key(self) -> str:
        return " ".join(map(str, asdict(self).values()))

    @property
    def setting(self) -> str:
        """What else decides the result: a cell is run again where this has changed."""
        return f"{SETTING}, lr {LR[self.model]}"

    def options(self) -> dict[str, Any]:
        """What `RunConfig` is made of."""
        return {
            **SETTING,
            "partition": self.partition,
            "model": self.model,
            "lr": LR[self.model],
            "pre_aggregator": (self.pre,) if self.pre else (),
            "aggregator": self.rule,
            "attack": self.attack,
            "seed": self.seed,
            "in_process": True,
            "threads": 1,
            "quiet": True,
            "round_timeout": 600.0,  # a machine with other work is no reason to fail
        }


def cells() -> Iterator[Cell]:
    """Every cell; a first seed of everything comes first."""
    for seed in SEEDS:
        for partition, model in TRAININGS:
            if model == "mlp" or seed == SEEDS[0]:
                for attack in ATTACKS:
                    for rule in RULES:
                        for pre in ("", "nnm"):
                            yield Cell(partition, model, pre, rule, attack, seed)


# -- running


async def work(reactor: Any) -> None:
    """A worker process: cells come in, a line each, and their results go out."""
    from byzpy_tw.config.run import RunConfig
    from byzpy_tw.plugins import load
    from byzpy_tw.records.folder import RunDirectory
    from byzpy_tw.records.resume import new_resume_point
    from byzpy_tw.rounds.resolved_rules import resolve_rules
    from byzpy_tw.trainer.run import PreparedRun, run_prepared

    registry = load()
    for line in sys.stdin:
        cell = Cell(**json.loads(line))
        config = RunConfig(**cell.options())
        with tempfile.TemporaryDirectory() as folder:
            directory = RunDirectory.create(Path(folder) / "run")
            rules = resolve_rules(config, registry)
            run = PreparedRun(config, registry, rules, directory, new_resume_point())
            await run_prepared(reactor, run, lambda _: None)
            result = json.loads((directory.path / "result.json").read_text())
        print(json.dumps(result), flush=True)
        gc.collect()


def run(todo: list[Cell], results: Path, workers: int) -> None:
    """Run every cell of `todo`, and add its line to `results` once it has ended."""
    waiting: Queue[Cell] = Queue()
    for cell in todo:
        waiting.put(cell)

    def one(file: IO[str]) -> None:
        while True:
            with subprocess.Popen(
                [sys.executable, __file__, "--work"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            ) as process:  # fmt: skip
                if _feed(process, waiting, file):
                    return

    whole = not results.exists() or results.read_bytes()[-1:] in (b"", b"\n")
    with open(results, "a", encoding="utf-8") as file, ThreadPoolExecutor(workers) as threads:
        if not whole:  # the last call was cut off in the middle of a line
            file.write("\n")
        for future in [threads.submit(one, file) for _ in range(workers)]:
            future.result()


def _feed(process: Any, waiting: Queue[Cell], file: IO[str]) -> bool:
    """Give a worker one cell after another; False if it died, True if none is left."""
    while True:
        try:
            cell = waiting.get_nowait()
        except Empty:
            process.stdin.close()
            return True
        process.stdin.write(json.dumps(asdict(cell)) + "\n")
        line = process.stdout.readline()
        if not line:
            print(f"{cell.key}: its worker died ({process.wait()})", file=sys.stderr)
            return False
        result = json.loads(line)
        if result["status"] not in ENDS:
            print(f"{cell.key}: {result['status']}: {result['error']}", file=sys.stderr)
            continue
        kept = {name: result[name] for name in KEPT}
        file.write(json.dumps({**asdict(cell), "setting": cell.setting, **kept}) + "\n")
        file.flush()
        print(f"{waiting.qsize():5} left  {cell.key}: {result['final_accuracy']}", flush=True)


# -- the table


def read(results: Path) -> dict[Cell, dict[str, Any]]:
    """What has been run in this setting; a line that was cut off is left out."""
    found = {}
    names = [field.name for field in fields(Cell)]
    if results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            cell = Cell(**{name: row[name] for name in names})
            if row["setting"] == cell.setting:
                found[cell] = row
    return found


def accuracy(row: dict[str, Any], which: str) -> float:
    """In percent; a run that diverged has learnt nothing."""
    value = row[f"{which}_accuracy"]
    return 100 * value if row["status"] == "finished" and value is not None else 10.0


def tables(found: dict[Cell, dict[str, Any]]) -> str:
    """Markdown: for each partition and model, rules down and attacks across."""
    parts = []
    for partition, model in TRAININGS:
        group: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
        for cell, row in found.items():
            if (cell.partition, cell.model) == (partition, model):
                group[cell.rule, cell.pre, cell.attack][cell.seed] = row
        if not group:
            continue
        seeds = max(map(len, group.values()))
        parts.append(f"\n### {partition}, {model}, {seeds} seed{'s' * (seeds > 1)}\n")
        parts.append("| rule | " + " | ".join(ATTACKS) + " |")
        parts.append("|---" * (len(ATTACKS) + 1) + "|")
        for rule in RULES:
            for pre in ("", "nnm"):
                name = f"{pre} + {rule}" if pre else rule
                calm = group.get((rule, pre, "none"), {})
                runs = [group.get((rule, pre, attack), {}) for attack in ATTACKS]
                run = max(map(len, runs))  # seeds of this rule, which are told once
                if 0 < run < seeds:
                    name += f" ({run} seed{'s' * (run > 1)})"
                row = [entry(one, calm, run) for one in runs]
                parts.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(parts)


def entry(runs: dict[int, dict[str, Any]], calm: dict[int, dict[str, Any]], seeds: int) -> str:
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
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="cells whose description has these words")
    parser.add_argument("--without", default="", help="leave out cells with any of these words")
    parser.add_argument("--limit", type=int, help="at most so many cells in this call")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        from twisted.internet.task import react

        react(work)
    if args.table:
        print(tables(read(args.results)))
        return
    done = read(args.results)
    todo = [
        cell
        for cell in cells()
        if cell not in done
        and set(args.only.split()) <= set(cell.key.split())
        and not set(args.without.split()) & set(cell.key.split())
    ]
    run(todo[: args.limit], args.results, args.workers)


if __name__ == "__main__":
    main()
