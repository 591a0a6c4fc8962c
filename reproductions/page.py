"""Writes docs/reproductions.md: page.md with the published figures beside those of results/.

    python reproductions/page.py            write the page
    python reproductions/page.py --check    say whether it is out of date; exit code 1 if it is

``results/TABLE.csv`` is the ``evaluations.csv`` of ``python -m byzpy_tw sweep``; ``published`` has
what the authors' logs or figures say, by the same options.
"""

from __future__ import annotations

import csv
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from attrs import frozen

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "reproductions.md"
CLOSE = 3.0  # points, between two means that count as equal
LAST = 5  # evaluations, whose mean is the final accuracy in the tables of bucketing

Row = Mapping[str, str]
Key = tuple[str, ...]

# The options that tell the cells of each table apart, with their titles.
TITLES = {
    "bucketing": {"aggregator": "rule", "pre_aggregator": "buckets", "attack": "attack"},
    "mimic": {"aggregator": "rule", "partition": "data", "pre_aggregator": "buckets"},
    "byzfl_heat_map": {"aggregator": "rule", "partition": "gamma", "num_byz": "f"},
}
ATTACKS = {"sign-flip": "sign flip", "opt-ipm": "optimal IPM", "opt-alie:ddof=1": "optimal ALIE"}
WORDS = {
    "alie": "ALIE", "sign-flip": "bit flip", "ipm": "IPM .1", "label-flip": "label flip",
    "first-mimic": "mimic", "centered-clipping": "centered clipping", "weiszfeld": "RFA",
    "fourth-power-krum": "Krum", "trimmed-mean": "trimmed mean",
    "geometric-median": "geometric median", "none": "none", "bucketing:s=2": "of 2",
    "label-order": "by label", "label-order:alike=true": "iid",
}  # fmt: skip


@frozen
class Cell:
    """A cell of a table: accuracies in percent, one a seed; theirs may be known as one figure."""

    key: Key
    theirs: Sequence[float]
    ours: Sequence[float]

    @property
    def difference(self) -> float:
        return mean(self.ours) - mean(self.theirs)

    @property
    def standard_error(self) -> float | None:
        """The pooled standard error of the difference, where both have three seeds."""
        n, m = len(self.ours), len(self.theirs)
        if min(n, m) < 3:
            return None
        pooled = ((n - 1) * stdev(self.ours) ** 2 + (m - 1) * stdev(self.theirs) ** 2) / (n + m - 2)
        return sqrt(pooled * (1 / n + 1 / m))

    @property
    def verdict(self) -> str:
        """``missing``, ``close``, ``within two errors`` or ``differs``."""
        if not self.ours:
            return "missing"
        if abs(self.difference) <= CLOSE:
            return "close"
        error = self.standard_error
        within = error is not None and abs(self.difference) <= 2 * error
        return "within two errors" if within else "differs"


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file; none where there is no file."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def key_of(table: str, row: Row) -> Key:
    return tuple(row[option] for option in TITLES[table])


def curves(rows: Sequence[Row], options: Sequence[str]) -> dict[Key, list[list[float]]]:
    """Return the accuracies of each run in percent, by the values of `options`, a list a seed."""
    runs: dict[tuple[Key, str], list[float]] = {}
    for row in rows:
        key = tuple(row[option] for option in options)
        runs.setdefault((key, row["seed"]), []).append(100 * float(row["accuracy"]))
    found: dict[Key, list[list[float]]] = {}
    for (key, _), curve in runs.items():
        found.setdefault(key, []).append(curve)
    return found


def theirs(table: str) -> dict[Key, list[float]]:
    found: dict[Key, list[float]] = {}
    for row in read(HERE / "published" / f"{table}.csv"):
        found.setdefault(key_of(table, row), []).append(100 * float(row["accuracy"]))
    return found


def final_cells(table: str, rows: Sequence[Row]) -> list[Cell]:
    """Return the cells of a table whose figure is the mean of the last evaluations."""
    ours = curves(rows, tuple(TITLES[table]))
    return [
        Cell(key, published, [mean(curve[-LAST:]) for curve in ours.get(key, [])])
        for key, published in theirs(table).items()
    ]


@frozen
class Attacked:
    """An attack's effect in a cell of the heat map: accuracies of its runs over the rounds."""

    attack: str
    runs: Sequence[Sequence[float]]

    @property
    def means(self) -> list[float]:
        return [mean(values) for values in zip(*self.runs, strict=True)]

    @property
    def best(self) -> float:
        """The best of the means over the seeds, as the heat map has it."""
        return max(self.means)

    @property
    def final(self) -> float:
        return self.means[-1]

    @property
    def at_best(self) -> list[float]:
        """The accuracy of each seed in the round of `best`."""
        place = self.means.index(self.best)
        return [run[place] for run in self.runs]


def attacked(rows: Sequence[Row]) -> dict[Key, list[Attacked]]:
    """Return the attacks that were computed in each cell of the heat map, in their order."""
    by_attack = curves(rows, (*TITLES["byzfl_heat_map"], "attack"))
    found: dict[Key, list[Attacked]] = {}
    for attack in ATTACKS:
        for (*key, name), runs in by_attack.items():
            if name == attack:
                found.setdefault(tuple(key), []).append(Attacked(attack, runs))
    return found


def heat_map_cells(rows: Sequence[Row]) -> list[Cell]:
    """Return the cells of the heat map: ours is the worst attack's, once all three are there."""
    ours = attacked(rows)
    found = []
    for key, published in theirs("byzfl_heat_map").items():
        effects = ours.get(key, [])
        complete = len(effects) == len(ATTACKS)
        worst = min(effects, key=lambda effect: effect.best).at_best if complete else []
        found.append(Cell(key, published, worst))
    return found


def cells(table: str) -> list[Cell]:
    rows = read(HERE / "results" / f"{table}.csv")
    return heat_map_cells(rows) if table == "byzfl_heat_map" else final_cells(table, rows)


# -- Markdown ---------------------------------------------------------------------------------


def word(text: str) -> str:
    """Return the paper's word for an option's value."""
    name, _, parameters = text.partition(":")
    return WORDS.get(text) or WORDS.get(name) or parameters.rpartition("=")[2] or text


def _figure(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def _line(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _cell_words(cell: Cell) -> list[str]:
    mark = {"close": "", "missing": "", "within two errors": " (2 SE)", "differs": " **!**"}
    change = f"{cell.difference:+.1f}{mark[cell.verdict]}" if cell.ours else ""
    seeds = str(len(cell.ours)) if cell.ours else "missing"
    return [*map(word, cell.key), _figure(cell.theirs), _figure(cell.ours), seeds, change]


def _heading(table: str, *more: str) -> list[str]:
    titles = [*TITLES[table].values(), "theirs", "ours", "seeds", "difference", *more]
    return [_line(titles), _line(["---"] * len(titles))]


def _attack_words(effects: Sequence[Attacked]) -> list[str]:
    found = {effect.attack: f"{effect.best:.1f}, {effect.final:.1f}" for effect in effects}
    complete = len(found) == len(ATTACKS)
    final = f"{min(effect.final for effect in effects):.1f}" if complete else ""
    return [final, *(found.get(attack, "") for attack in ATTACKS)]


def table_text(table: str) -> str:
    """Return the table as Markdown, a line a cell."""
    if table != "byzfl_heat_map":
        return "\n".join([*_heading(table), *(_line(_cell_words(c)) for c in cells(table))])
    effects = attacked(read(HERE / "results" / f"{table}.csv"))
    lines = [_line([*_cell_words(c), *_attack_words(effects.get(c.key, []))]) for c in cells(table)]
    return "\n".join([*_heading(table, "final", *ATTACKS.values()), *lines])


def summary_text(table: str) -> str:
    """Return how many cells were computed, and how many of them agree."""
    found = [cell.verdict for cell in cells(table)]
    computed = len(found) - found.count("missing")
    if not computed:
        return f"None of the {len(found)} cells is computed yet."
    text = (
        f"Of {len(found)} cells {computed} are computed: {found.count('close')} within "
        f"{CLOSE:g} points, {found.count('within two errors')} more within two pooled standard "
        f"errors, {found.count('differs')} beyond."
    )
    missing = found.count("missing")
    return text + (f" {missing} are missing, and say so." if missing else "")


def explanations() -> dict[tuple[str, Key], str]:
    entries = tomllib.loads((HERE / "explanations.toml").read_text(encoding="utf-8"))
    return {
        (table, tuple(str(cell[option]) for option in TITLES[table])): cell["why"]
        for table, several in entries.items()
        for cell in several
    }


def differences_text(table: str) -> str:
    """Return a list of the cells that differ, each with its explanation."""
    why = explanations()
    lines = [
        f"- {', '.join(map(word, cell.key))}: {why.get((table, cell.key), 'not explained yet.')}"
        for cell in cells(table)
        if cell.verdict == "differs"
    ]
    return "\n".join(lines) or "No cell differs so far."


def parts() -> Iterator[tuple[str, str]]:
    for table in TITLES:
        yield f"<!-- {table} -->", table_text(table)
        yield f"<!-- {table}: summary -->", summary_text(table)
        yield f"<!-- {table}: differences -->", differences_text(table)


def page_text() -> str:
    text = (HERE / "page.md").read_text(encoding="utf-8")
    for mark, part in parts():
        text = text.replace(mark, part)
    return "<!-- Written by reproductions/page.py of page.md and results/. -->\n\n" + text


def main(arguments: Sequence[str]) -> int:
    text = page_text()
    if "--check" in arguments:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("" if current else "docs/reproductions.md: run python reproductions/page.py", end="")
        return 0 if current else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
