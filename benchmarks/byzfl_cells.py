"""Twelve cells of ByzFL's own template through ByzFL 0.0.11 and through a sweep here, by turns.

    python benchmarks/byzfl_cells.py --data-root DIR [--work DIR] [--results FILE]
        [--cells AGGREGATOR/ATTACK ...] [--steps N] [--seeds N] [--table]

DIR/MNIST/raw has MNIST's four files, gzipped or not.  A cell is a rule under an attack, with a
run for each seed.  Both programs get the same ``config.json``, the same two cores, and the same
shards: in ByzFL's processes, one function that cuts the data is replaced.  ByzFL runs it by its
`run_benchmark` with two jobs of one thread, ours is ``python -m byzpy_tw sweep --byzfl --jobs
2``.  The seconds are those of the whole command.  Both programs' accuracies are read from ByzFL's
files, ours from those that ``--export-byzfl`` writes.

Each cell of a program is a line of the results, and is not run again.  The table is printed at
the end, with what is asked: means within two points, at most half of ByzFL's time under sign
flips, and a tenth under an optimal attack.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from attrs import frozen

HERE = Path(__file__).resolve()
RESULTS = HERE.with_suffix(".jsonl")
FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)  # fmt: skip
RULES = {
    "GeometricMedian": {"nu": 0.1, "T": 3},
    "TrMean": {},
    "MultiKrum": {},
}
ATTACKS = (
    "SignFlipping", "InnerProductManipulation", "ALittleIsEnough", "Optimal_ALittleIsEnough",
)  # fmt: skip
HONEST, F, GAMMA = 10, 2, 0.66
MOST_APART = 2.0  # points
MOST_TIME = {"SignFlipping": 0.5, "Optimal_ALittleIsEnough": 0.1}  # of ByzFL's
PROGRAMS = ("byzfl", "ours")

Row = dict[str, Any]


@frozen
class Cell:
    """A rule under an attack, for so many steps and seeds."""

    rule: str
    attack: str
    steps: int
    seeds: int

    @property
    def name(self) -> str:
        return f"{self.rule}/{self.attack}"

    def config(self, data_root: Path) -> Row:
        """Return ByzFL's template for this cell, without validation data."""
        return {
            "benchmark_config": {
                "training_algorithm": {"name": "DSGD", "parameters": {}},
                "nb_steps": self.steps,
                "device": "cpu",
                "training_seed": 0,
                "nb_training_seeds": self.seeds,
                "nb_honest_clients": HONEST,
                "f": F,
                "data_distribution_seed": 0,
                "nb_data_distribution_seeds": 1,
                "size_train_set": 1.0,
                "data_distribution": [
                    {"name": "gamma_similarity_niid", "distribution_parameter": GAMMA}
                ],
            },
            "model": {
                "name": "cnn_mnist", "dataset_name": "mnist", "nb_labels": 10, "loss": "NLLLoss",
                "learning_rate": 0.1, "learning_rate_decay": 1.0, "milestones": [],
            },
            "aggregator": {"name": self.rule, "parameters": RULES[self.rule]},
            "pre_aggregators": [
                {"name": "Clipping", "parameters": {}}, {"name": "NNM", "parameters": {}},
            ],
            "honest_clients": {"momentum": 0.9, "weight_decay": 0.0001, "batch_size": 25},
            "attack": {"name": self.attack, "parameters": {}},
            "evaluation_and_results": {
                "evaluation_delta": 50, "batch_size_evaluation": 128, "evaluate_on_test": True,
                "store_per_client_metrics": False, "store_models": False,
                "data_folder": str(data_root), "results_directory": "./results",
            },
        }  # fmt: skip


def measure(cell: Cell, program: str, data_root: Path, work: Path) -> Row:
    """Run a cell by one program in the fresh folder `work`; return its line of the results."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    config = cell.config(data_root)
    (work / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    if program == "byzfl":
        save_shards(config, work / "shards.npz")
        command = [sys.executable, str(HERE), "--as-byzfl", str(work)]
    else:
        command = [*sweep(work), "--jobs", "2"]
    environment = {
        **os.environ, "PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }  # fmt: skip
    with open(work / "log.txt", "wb") as log:
        began = time.monotonic()
        subprocess.run(
            command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True
        )
        seconds = time.monotonic() - began
        if program == "ours":
            export = [*sweep(work), "--export-byzfl", str(work / "results")]
            subprocess.run(export, cwd=work, env=environment, stdout=log, stderr=log, check=True)
    row = {
        "cell": cell.name, "program": program, "steps": cell.steps, "seeds": cell.seeds,
        "seconds": round(seconds, 2), "accuracies": accuracies(work / "results"),
        "run_seconds": numbers(work / "results", "train_time"),
    }  # fmt: skip
    assert len(row["accuracies"]) == cell.seeds, f"see {work / 'log.txt'}"
    return row


def sweep(work: Path) -> list[str]:
    file, out = str(work / "config.json"), str(work / "out")
    return [sys.executable, "-m", "byzpy_tw", "sweep", "--byzfl", file, "--out", out]


def numbers(results: Path, kind: str) -> list[float]:
    """Return the last number of each file of this kind, in the order of the seeds."""
    files = sorted(results.glob(f"*/{kind}_tr_seed_*_dd_seed_0.txt"))
    return [float(file.read_text().strip().split(",")[-1]) for file in files]


def accuracies(results: Path) -> list[float]:
    """Return the final accuracies in percent."""
    return [round(100 * value, 2) for value in numbers(results, "test_accuracy")]


# -- equal shards -----------------------------------------------------------------------------


def save_shards(config: Row, path: Path) -> None:
    """Write the shards that the sweep gives its nodes."""
    import numpy as np

    from byzpy_tw.plugins import load
    from byzpy_tw.sweep.byzfl_study import read_byzfl
    from byzpy_tw.sweep.plan import configurations
    from byzpy_tw.workers.shards import make_shards

    _, run = next(configurations(read_byzfl(config)))
    registry = load(only=())
    data = registry.make("dataset", run.dataset, root=Path(run.data_root))
    np.savez(path, *make_shards(run.spec(), registry, data))


def run_as_byzfl(work: Path) -> None:
    """Run ByzFL's benchmark in `work`, with the saved shards in place of its own cut."""
    import numpy as np
    from byzfl.benchmark import run_benchmark, train

    with np.load(work / "shards.npz") as saved:
        shards = [saved[f"arr_{i}"] for i in range(HONEST)]

    class Distributor(train.DataDistributor):  # type: ignore[misc, name-defined]
        def split_data(self) -> Any:
            return self.idx_to_dataloaders(shards)

    train.DataDistributor = Distributor
    os.chdir(work)
    run_benchmark(nb_jobs=2)


# -- results ----------------------------------------------------------------------------------


def read(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def find(rows: Sequence[Row], cell: Cell, program: str) -> Row | None:
    wanted = (cell.name, program, cell.steps, cell.seeds)
    return next(
        (r for r in rows if (r["cell"], r["program"], r["steps"], r["seeds"]) == wanted), None
    )


def table(rows: Sequence[Row], cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the cells that both programs have run."""
    yield "| rule | attack | ByzFL % | ours % | difference | ByzFL s | ours s | ours / ByzFL |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    apart: list[float] = []
    times: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        theirs, ours = (find(rows, cell, program) for program in PROGRAMS)
        if theirs is None or ours is None:
            continue
        accuracy = fmean(theirs["accuracies"]), fmean(ours["accuracies"])
        seconds = theirs["seconds"], ours["seconds"]
        apart.append(accuracy[1] - accuracy[0])
        times.setdefault(cell.attack, []).append(seconds)
        yield (
            f"| `{cell.rule}` | `{cell.attack}` | {accuracy[0]:.2f} | {accuracy[1]:.2f} | "
            f"{apart[-1]:+.2f} | {seconds[0]:.1f} | {seconds[1]:.1f} | "
            f"{seconds[1] / seconds[0]:.3f} |"
        )
    if not apart:
        return
    yield ""
    within = sum(abs(value) <= MOST_APART for value in apart)
    yield f"within {MOST_APART:g} points: {within} of {len(apart)} cells"
    for attack, pairs in times.items():
        ratio, most = sum(b for _, b in pairs) / sum(a for a, _ in pairs), MOST_TIME.get(attack)
        asked = "" if most is None else f", asked: at most {most:g}"
        yield f"{attack}: {ratio:.3f} of ByzFL's time{asked}"


def unpack(data_root: Path) -> None:
    """Write the files that torchvision reads beside gzipped ones."""
    raw = data_root / "MNIST" / "raw"
    for name in FILES:
        if not (raw / name).exists():
            packed = raw / f"{name}.gz"
            if not packed.exists():
                sys.exit(f"{raw} has neither {name} nor {packed.name}")
            (raw / name).write_bytes(gzip.decompress(packed.read_bytes()))


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work", type=Path, default=Path("byzfl-cells"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cells", nargs="+", metavar="RULE/ATTACK")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="run nothing, print the table")
    parser.add_argument("--as-byzfl", type=Path, help=argparse.SUPPRESS)
    return parser


def main() -> int:
    parser = options()
    given = parser.parse_args()
    if given.as_byzfl is not None:
        run_as_byzfl(given.as_byzfl)
        return 0
    cells = [Cell(r, a, given.steps, given.seeds) for a in ATTACKS for r in RULES]
    if given.cells is not None:
        if unknown := set(given.cells) - {cell.name for cell in cells}:
            parser.error(f"no cell {', '.join(unknown)}; {', '.join(c.name for c in cells)}")
        cells = [cell for cell in cells if cell.name in given.cells]
    if not given.table:
        if given.data_root is None:
            parser.error("--data-root is missing")
        run(cells, given.data_root.resolve(), given.work.resolve(), given.results)
    print("\n".join(table(read(given.results), cells)))
    return 0


def run(cells: Sequence[Cell], data_root: Path, work: Path, results: Path) -> None:
    """Add the missing lines to `results`, a cell by both programs after another."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    unpack(data_root)
    for cell in cells:
        for program in PROGRAMS:
            if find(read(results), cell, program) is None:
                row = measure(cell, program, data_root, work / program)
                with results.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")
                print(f"{cell.name} by {program}: {row['seconds']} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
