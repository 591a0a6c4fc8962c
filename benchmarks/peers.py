"""Each rule, pre-aggregator and attack of ByzFL 0.0.11 and ByzPy 0.1.4 beside ours.

    python benchmarks/peers.py byzfl|byzpy [--results FILE]
    python benchmarks/peers.py byzfl|byzpy --table [--results FILE]
    python benchmarks/peers.py byzfl --training [--table] [--results FILE]

Each pair of `peer_pairs.py` is called with the same random matrices: `SETTINGS`, five seeds,
float64 and float32.  The largest relative differences and the numbers of equal answers replace
the package's lines in `peers.jsonl`.  Their table, as Markdown, is printed and replaces the one in
docs/how-to/coming-from-byzfl.md or coming-from-byzpy.md; with ``--table`` nothing else happens.

With ``--training`` whole trainings are compared, see `peer_training.py`: lines that are missing in
`peer_training.jsonl` are added, and their table replaces the other one on the page.

README.md says how the packages are installed.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import peer_training
import torch
from attrs import frozen
from peer_pairs import PAIRS, Pair
from torch import Tensor, nn

import byzpy_tw
from byzpy_tw.plugins.naming import parse
from byzpy_tw.tasks.classification import Classification

RESULTS = Path(__file__).with_name("peers.jsonl")
PAGES = Path(__file__).resolve().parent.parent / "docs" / "how-to"
TABLES = {  # in a page, without and with --training
    training: re.compile(rf"(?<={words} --table -->\n).*?(?=<!-- end -->)", re.DOTALL)
    for training, words in ((False, "byz[fp][ly]"), (True, "byzfl --training"))
}
MODULES = {
    "byzfl": ("byzfl.aggregators", "byzfl.aggregators.preaggregators", "byzfl.attacks.attacks"),
    "byzpy": (
        "byzpy.aggregators.coordinate_wise", "byzpy.aggregators.geometric_wise",
        "byzpy.aggregators.norm_wise", "byzpy.pre_aggregators", "byzpy.attacks",
    ),
}  # fmt: skip
SETTINGS = ((7, 1, 20), (10, 2, 500), (12, 4, 40), (13, 3, 3))  # n, f, d
SEEDS, DTYPES = range(5), (torch.float64, torch.float32)
EQUAL = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative differences up to these
ROUNDS = 3  # of rules with a memory
LARGE = 2.0  # the factor of the last f rows

Call = Callable[[Any], Any]
Row = dict[str, Any]


@frozen
class Case:
    """One call: the numbers, and rows of which the last f are longer than the others."""

    n: int
    f: int
    d: int
    seed: int
    dtype: torch.dtype = torch.float64

    def rows(self, turn: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * turn + self.seed)
        rows = torch.randn(self.n, self.d, generator=generator, dtype=torch.float64) + 0.3
        rows[self.n - self.f :] *= LARGE
        return rows.to(self.dtype)

    def honest(self) -> Tensor:
        return self.rows()[: self.n - self.f]

    def number(self, text: str) -> Any:
        """Return the number that a formula such as ``n-f-1`` stands for; others as they are."""
        n, f = self.n, self.f
        majority = max(1, n // 2 + 1 - f)
        known = {
            "f": f, "n": n, "n-f": n - f, "n-f-1": n - f - 1, "order": list(range(n)),
            "z": NormalDist().inv_cdf((n - majority) / n),
        }  # fmt: skip
        return known.get(text.replace(" ", ""), text)

    def ours(self, pair: Pair) -> Call:
        """Make our thing, with this case's numbers in place of formulas and with its f."""
        named = parse(pair.ours)
        values = {key: self.number(value) for key, value in named.parameters.items()}
        make: Any = getattr(byzpy_tw, pair.kind.replace("-", ""))
        takes_f = pair.kind != "attack" or named.name.startswith("opt-")
        made: Call = make(named.name, **values, **({"f": self.f} if takes_f else {}))
        return made

    def theirs(self, pair: Pair) -> Any:
        """Make their thing from its text, ``Name(key=value)``, without running any other code."""

        def read(node: ast.expr) -> Any:
            if isinstance(node, ast.Call):
                assert isinstance(node.func, ast.Name)
                keywords = {str(k.arg): read(k.value) for k in node.keywords}
                return classes(pair.peer)[node.func.id](**keywords)
            if isinstance(node, ast.List):
                return [read(one) for one in node.elts]
            number = self.number(ast.unparse(node))
            return ast.literal_eval(number) if isinstance(number, str) else number

        return read(ast.parse(pair.theirs, mode="eval").body)


def classes(peer: str) -> dict[str, Any]:
    """Return the package's classes of rules and attacks by name, abstract ones left out."""
    found = {}
    for module in map(import_module, MODULES[peer]):
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and kind.__module__.startswith(peer):
                if not inspect.isabstract(kind):
                    found[name] = kind
    return found


# -- the two answers ------------------------------------------------------------


def answers(pair: Pair, case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield our answer and theirs, once or, for a rule with a memory, round by round."""
    ours, theirs = case.ours(pair), called(pair, case.theirs(pair))
    if pair.how == "memory":
        state: dict[str, Any] = {}
        for turn in range(ROUNDS):
            rows = case.rows(turn)
            yield tensor(ours(rows, state=state)), tensor(theirs(rows))
    elif pair.how == "labels":
        yield flipped_gradients(case, theirs)
    elif pair.kind == "attack":
        yield tensor(ours(case.honest())), tensor(theirs(case.honest()))
    else:
        seed_all(case.seed)
        order = np.random.permutation(case.n) if pair.how == "shuffled" else range(case.n)
        seed_all(case.seed)
        yield tensor(ours(case.rows()[list(order)])), tensor(theirs(case.rows()))


def called(pair: Pair, made: Any) -> Call:
    """Return `made` as a callable of a tensor: ByzFL computes in float64 on arrays alone."""
    if pair.peer == "byzfl":
        return lambda rows: made(rows.numpy().copy())
    if pair.how == "labels":
        return lambda given: made.apply(**given)
    if pair.kind == "pre-aggregator":
        return lambda rows: made.pre_aggregate(list(rows))
    if pair.kind == "aggregator":
        return lambda rows: made.aggregate(list(rows))
    return lambda rows: made.apply(honest_grads=list(rows), base_grad=rows.mean(dim=0))


def flipped_gradients(case: Case, theirs: Call) -> tuple[Tensor, Tensor]:
    """Return the gradients of a linear model on flipped labels: our task's, and theirs."""
    task, model = Classification(classes=10), nn.Linear(case.d, 10, dtype=case.dtype)
    y = torch.arange(case.n) % 10
    loss = task.loss(model(case.rows()), task.flip(y)) / task.weight(y)
    ours = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    return ours, tensor(theirs({"model": model, "x": case.rows(), "y": y}))


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def tensor(answer: Any) -> Tensor:
    """Return an answer as a float64 tensor; the rows of a list are stacked."""
    if isinstance(answer, list):
        answer = torch.stack([torch.as_tensor(one) for one in answer])
    return torch.as_tensor(answer).to(torch.float64)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the distance of the answers over the norm of theirs; of equal infinities 0."""
    if torch.equal(ours, theirs):
        return 0.0
    return float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs))


# -- results --------------------------------------------------------------------


def compare(pair: Pair) -> Row:
    """Return the line of `peers.jsonl` for a pair."""
    row: Row = {
        "peer": pair.peer, "version": metadata.version(pair.peer), "kind": pair.kind,
        "ours": pair.ours, "theirs": pair.theirs, "cases": 0, "equal": 0, "random": False,
    }  # fmt: skip
    if pair.how == "not compared":
        return row
    for dtype in DTYPES:
        worst = 0.0
        for (n, f, d), seed in ((setting, seed) for setting in SETTINGS for seed in SEEDS):
            case = Case(n, f, d, seed, dtype)
            found = [difference(*two) for two in answers(pair, case)]
            row["cases"] += 1
            row["equal"] += max(found) <= EQUAL[dtype]
            worst = max(worst, *found)
            row["random"] |= pair.how != "shuffled" and is_random(pair, case)
        row[str(dtype).removeprefix("torch.")] = float(f"{worst:.1e}")
    return row


def is_random(pair: Pair, case: Case) -> bool:
    """Return whether theirs answers the same call differently with another global seed."""
    found = []
    for seed in (1, 2):
        made = called(pair, case.theirs(pair))
        seed_all(seed)
        if pair.how == "labels":
            return False
        found.append(tensor(made(case.honest() if pair.kind == "attack" else case.rows())))
    return difference(*found) > EQUAL[case.dtype]


def table(rows: Iterable[Row]) -> str:
    """Return the Markdown table of one package's lines, in the order of `PAIRS`."""
    reasons = {(pair.peer, pair.ours, pair.theirs): pair.why for pair in PAIRS}
    lines = [
        "| ours | theirs | float64 | float32 | equal | why |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        worst = [number(row.get(dtype)) for dtype in ("float64", "float32")]
        why = reasons[row["peer"], row["ours"], row["theirs"]]
        cells = [f"`{row['ours']}`", f"`{row['theirs']}`", *worst, verdict(row), why]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}" if value else "0"


def verdict(row: Row) -> str:
    if not row["cases"]:
        return "no"
    if row["equal"] == row["cases"]:
        return "yes"
    if row["random"]:
        return "no, theirs is random"
    return f"{row['equal']} of {row['cases']}" if row["equal"] else "no"


def read(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("peer", choices=tuple(MODULES))
    parser.add_argument("--table", action="store_true", help="run nothing, print the table")
    parser.add_argument("--training", action="store_true", help="compare whole trainings")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    if given.training and given.peer != "byzfl":
        parser.error("--training compares with byzfl alone")
    file = given.results or (peer_training.RESULTS if given.training else RESULTS)
    text = trainings(given, file) if given.training else calls(given, file)
    print(text)
    page = PAGES / f"coming-from-{given.peer}.md"
    old = page.read_text(encoding="utf-8")
    page.write_text(TABLES[given.training].sub(lambda _: f"{text}\n", old), encoding="utf-8")
    return 0


def trainings(given: argparse.Namespace, file: Path) -> str:
    """Measure what is missing in `file`, unless only its table was asked for; return the table."""
    if not given.table:
        peer_training.measure(file)
    return peer_training.table(file)


def calls(given: argparse.Namespace, file: Path) -> str:
    """Compare each pair, unless only the table of `file` was asked for; return the table."""
    pairs = [pair for pair in PAIRS if pair.peer == given.peer]
    if not given.table:
        named = set(re.findall(r"(\w+)\(", " ".join(pair.theirs for pair in pairs)))
        if missing := classes(given.peer).keys() - named:
            sys.exit(f"peer_pairs.py has no pair for {', '.join(sorted(missing))}")
        kept = [row for row in read(file) if row["peer"] != given.peer]
        rows = sorted(kept + [compare(pair) for pair in pairs], key=lambda row: str(row["peer"]))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        file.write_text(lines, encoding="utf-8")
    return table(row for row in read(file) if row["peer"] == given.peer)


if __name__ == "__main__":
    sys.exit(main())
