"""The guard for refactorings: the same bits, round by round, as an earlier revision.

    python scripts/same_bits.py REVISION [--only WORD] [--pairs 9 [--at-most 1.03]]

REVISION is exported beside the working tree.  Short runs, which together use every name of
the catalogue and most options, are made with both trees by turns, and the
``parameters_sha256`` of their rounds compared.  Some must also equal another run of the same
tree: a resumed one the one that was never interrupted, one on servers that in one process.

Each tree has one process (`runs_of_a_tree.py`), and only its command lines and the records of
its runs are used, so that it may be an old one.  ``scripts/README.md`` says when and how.

Exit codes: 0 everything is equal, 1 it is not (or slower than ``--at-most``), 2 bad usage.
"""

from __future__ import annotations

import argparse
import configparser
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NoReturn

from attrs import define, field, frozen

ROOT = Path(__file__).resolve().parent.parent
DRIVER = ROOT / "scripts" / "runs_of_a_tree.py"
PLUGIN = ROOT / "scripts" / "dropout_model"  # no built-in model has dropout
WIDE, ENOUGH = 0.03, 27  # quartiles further apart want this many pairs

Names = dict[str, list[str]]  # what a tree's registry knows, by kind, and its options


# -- What is run

BASE = (
    "--dataset synthetic:n=1000,features=16 --model mlp:hidden=8 --num-honest 6 --num-byz 2 "
    "--f 2 --attack alie:tau=1.5 --aggregator trimmed-mean --batch-size 16 --rounds 8 --threads 1 "
    "--eval-interval 0 --checkpoint-interval 0 --quiet"
)
# Options whose default has changed, with what older trees do, which have none.
IMPLIED = {"--batches": "draws", "--search": "exact"}
OPTION = "option"
KINDS = (
    "aggregator", "pre-aggregator", "attack", "partition", "model", "algorithm", "optimizer",
)  # fmt: skip
PIXELS = "--dataset synthetic:n=500,features=256 --batch-size 8 --rounds 6"
LONG = "--rounds 200 --aggregator centered-clipping --attack mimic --worker-momentum 0.9"
LATE = "--rounds 6 --round-timeout 1"  # for vectors that never come
# Every vector weighs in it, an attacker's too; trimmed-mean would drop those that are far off.
AIM = "--aggregator centered-clipping:tau=1"
SAMPLED = "--num-honest 16 --num-byz 4 --f 4 --participants 9 --partition iid --batch-size 4"
FEDERATED = f"{SAMPLED} --algorithm fedavg:steps=3,lr=0.1,mu=0.01 --optimizer fed-yogi:lr=0.05"
FEDERATED += " --partition dirichlet:alpha=1 --weights examples --max-weight 0.08"
# What single names of the catalogue need besides.
NEEDS = {
    "aggregator bulyan": "--num-honest 7 --num-byz 1 --f 1",
    "aggregator fltrust": "--root-examples 50",
    "aggregator zeno": "--root-examples 50",
    "algorithm delayed-momentum": f"{SAMPLED} --participants 4 --momentum 0",
    "algorithm fedavg": "--algorithm fedavg:steps=2,lr=0.1,momentum=0.5",
    "optimizer adam": "--lr 0.01",
    "optimizer adamw": "--lr 0.01",
    "pre-aggregator bucketing": "--num-honest 7 --num-byz 1 --f 1",
    "attack alie": "--num-honest 5 --num-byz 3 --f 3",  # with fewer its automatic tau is 0
    "attack model-replacement": "--algorithm fedavg:steps=2,lr=0.1",
    "attack replay": LATE,
    "attack silent": LATE,
    "attack slow": LATE,
    "model small-cnn": PIXELS,
    "model cnn-mnist": PIXELS,
    "model cnn-cifar": PIXELS,
    "model resnet20": PIXELS + " --num-honest 2 --num-byz 1 --f 1 --batch-size 2 --rounds 2",
    "model resnet18": PIXELS + " --num-honest 2 --num-byz 1 --f 1 --batch-size 2 --rounds 2",
}
# Need files or another package.
LEFT_OUT = ("model gpt-nano", "model torchvision", "partition given")
VARIANTS = {
    "chain nnm, arc": "--pre-aggregator nnm arc --aggregator median",
    "chain clipping, bucketing": "--pre-aggregator clipping bucketing --num-byz 1 --f 1",
    "chain arc, nnm, mean": "--pre-aggregator arc nnm --aggregator mean --attack opt-alie",
    "multi-krum with q": "--aggregator multi-krum --q 3 --attack sign-flip",
    "krum of few rows": "--aggregator krum --attack nan --pre-aggregator nnm",
    "centered-clipping tau": "--aggregator centered-clipping:tau=0.5,iterations=2 --attack ipm",
    "dnc seeded": "--aggregator dnc:seed=5,iterations=2,subsample=40 --attack gaussian",
    "alie tau": "--attack alie:tau=1.5 --aggregator median",
    "mimic adaptive": f"{AIM} --attack mimic:adaptive=true --partition extreme",
    "opt-ipm at median": "--attack opt-ipm:aggregator=median",
    "replay relabelled": f"{AIM} --attack replay:age=2,relabel=true",
    "slow but in time": f"{AIM} --attack slow:seconds=0.02",
    "garbage to krum": "--attack garbage --aggregator multi-krum",
    "no byzantine nodes": "--num-byz 0 --f 0 --aggregator mean",
    "partition shards of one": "--partition shards:per_node=1",
    "partition dirichlet skewed": "--partition dirichlet:alpha=0.1,min_size=16",
    "worker momentum": "--worker-momentum 0.9 --rounds 12",
    "no momentum": "--momentum 0 --lr 0.2",
    "weight decay": "--weight-decay 0.01",
    "milestones": "--lr-milestones 3 6 --lr-decay 0.5 --rounds 9",
    "replacement": "--replacement --batch-size 200",
    "epochs": "--batches epochs --rounds 12",
    "epochs kept": "--batches epochs:keep --batch-size 60",
    "clip norm": "--clip-norm 0.5",
    "bfloat16": "--precision bfloat16",
    "micro-batches": "--micro-batch-size 5",
    "another seed": "--seed 7",
    "local steps": "--algorithm fedavg:steps=3,lr=0.1,momentum=0.5,mu=0.1 --optimizer fed-yogi",
    "data seed": "--data-seed 5 --partition iid",
    "validation": "--validation 0.1",
    "mnist5k": "--dataset mnist5k --model logreg --rounds 6",
    "dropout": "--model dropout-model --rounds 12",
    "sampled": SAMPLED,
    "over-sampled, absent": f"{SAMPLED} --participants 12 --over-sample 2 --attack slow {LATE}",
    "federated": FEDERATED,
    "local epochs": "--algorithm fedavg:epochs=1,lr=0.1,weight_decay=0.01,clip=1 --rounds 4",
    "weights": f"{FEDERATED} --algorithm dsgd --optimizer sgd --participants 12",
    "weighted medians": "--weights examples --partition dirichlet:alpha=1 --aggregator median",
    "root set, local steps": "--root-examples 50 --aggregator zeno --algorithm fedavg:steps=2,lr=1",
    "plain": "",
    "undisturbed": LONG,
} | {f"wire {dtype}": f"--wire-dtype {dtype}" for dtype in ("float32", "bfloat16", "float16")}


@frozen
class Configuration:
    """One run: the options that begin it, and those with which it is resumed.

    With `kill`, its first "trainer" or one "server" is killed in the middle.  `like` names the
    configuration whose hashes it must repeat, in each tree.
    """

    name: str
    lines: tuple[str, ...]
    servers: int = 0  # 0: the nodes are in the trainer's process
    kill: str = ""
    like: str = ""

    def request(self, options: Sequence[str]) -> str:
        """Its line of input for the process of a tree that has `options`."""
        begun = f"{BASE} {implied(options)} {self.lines[0]}"
        lines = (begun, *self.lines[1:])
        return json.dumps({"lines": lines, "servers": self.servers, "kill": self.kill})

    def names(self) -> Iterator[tuple[str, str]]:
        """The names of the catalogue it uses, each with its kind, and its options."""
        kind = ""
        for word in " ".join((BASE, *self.lines)).split():
            if word.startswith("--"):
                kind = word[2:]
                yield OPTION, word
            elif kind in KINDS:
                yield kind, word.partition(":")[0]


def implied(options: Sequence[str]) -> str:
    """Return the options that have a tree with `options` do as one without them."""
    return " ".join(f"{name} {value}" for name, value in IMPLIED.items() if name in options)


def configurations(names: Names) -> list[Configuration]:
    """Everything to run where `names` are known."""
    lines = dict(VARIANTS)
    for kind, name in [(k, name) for k in KINDS for name in names[k]]:
        more = [AIM] * (kind == "attack") + [NEEDS.get(f"{kind} {name}", "")]
        if f"{kind} {name}" not in LEFT_OUT:
            lines[f"{kind} {name}"] = " ".join([f"--{kind} {name}", *more])
    made = [Configuration(name, (line,)) for name, line in lines.items()]
    made += [
        Configuration("two threads", ("--threads 2",), like="plain"),
        Configuration("small chunks", ("--chunk-size 2",), like="plain"),
        Configuration("evaluations", ("--eval-interval 2",), like="plain"),
        Configuration(
            "resumed", ("--rounds 5 --checkpoint-interval 2", "--rounds 8"), like="plain"
        ),
        Configuration(
            "trainer killed", (f"{LONG} --checkpoint-interval 20", ""),
            kill="trainer", like="undisturbed",
        ),
        Configuration(
            "federated, resumed",
            (f"{FEDERATED} --rounds 4 --checkpoint-interval 3", "--rounds 8"),
            like="federated",
        ),
    ]  # fmt: skip
    made += [
        Configuration(f"servers, {name}", (VARIANTS[name],), servers=2, like=name)
        for name in (
            "wire float32",
            "wire bfloat16",
            "wire float16",
            "dropout",
            "garbage to krum",
            "federated",
        )
    ]
    made.append(
        Configuration("server killed", (LONG,), servers=2, kill="server", like="undisturbed")
    )
    return made


def chosen(known: Sequence[Configuration], word: str) -> list[Configuration]:
    """The configurations with `word` in their name, and those they must be like."""
    wanted = {c.name for c in known if word in c.name}
    wanted |= {c.like for c in known if c.name in wanted}
    return [c for c in known if c.name in wanted]


# -- Two trees


@frozen
class Outcome:
    """A run's exit code, its parameters' hash after each round, and its last error line."""

    code: int
    hashes: list[str]
    error: str = ""


@define
class Tree:
    """A source tree, and the process in which its configurations are run."""

    label: str
    path: Path
    python: str
    folder: Path
    names: Names = field(factory=dict)
    _process: subprocess.Popen[str] | None = None

    def environment(self) -> dict[str, str]:
        """The environment in which this tree's package is the one that is imported."""
        others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = [str(self.path), str(PLUGIN), *others]
        paths = [p for p in paths if p and (p == str(self.path) or Path(p).resolve() != ROOT)]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}

    def start(self) -> None:
        """Start its process, and learn which names it knows."""
        self.folder.mkdir()
        self._process = subprocess.Popen(
            [self.python, "-P", str(DRIVER), str(self.path), str(self.folder)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment(),
        )  # fmt: skip
        answer = self._answer()
        self.names = {kind: answer.get(kind, []) for kind in (*KINDS, OPTION)}

    def run(self, configuration: Configuration) -> Outcome:
        """The outcome of `configuration` in this tree."""
        assert self._process is not None and self._process.stdin is not None
        with suppress(BrokenPipeError):
            print(configuration.request(self.names[OPTION]), file=self._process.stdin, flush=True)
        return Outcome(**self._answer())

    def _answer(self) -> Any:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            fail(f"the process of {self.label} ended; its last words are above")
        return json.loads(line)

    @property
    def implied(self) -> str:
        """Return the options that have it do as an older tree."""
        return implied(self.names.get(OPTION, ()))

    def stop(self) -> None:
        """End its process, and with it its servers."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()

    def seconds_of_a_round(self, rounds: int) -> float:
        """The median round of the README's job, without its beginning."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            run = Path(folder, "run")
            words = f"--local 3 --dataset mnist5k --eval-interval 0 --quiet {self.implied} --rounds"
            subprocess.run(
                [self.python, "-P", "-m", "byzpy_tw.train", *words.split(), str(rounds),
                 "--run-dir", str(run)],
                check=True, env=self.environment(), cwd=folder, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            with open(run / "rounds.jsonl") as lines:
                return median([json.loads(line)["seconds"] for line in lines][rounds // 10 :])


def export(revision: str, path: Path) -> str:
    """Write the tree of `revision` to `path`; its short name."""

    def git(*words: str) -> bytes:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
        if done.returncode != 0:
            fail(done.stderr.decode().strip())
        return done.stdout

    name = git("rev-parse", "--short", "--verify", revision + "^{commit}").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(git("archive", name))) as archive:
        archive.extractall(path, filter="data")
    return name


def dependencies(tree: Path) -> list[str]:
    """The requirements that the setup.cfg of `tree` declares."""
    parser = configparser.ConfigParser()
    parser.read(tree / "setup.cfg")
    return sorted(parser["options"]["install_requires"].split("\n"))


def interpreter_for(tree: Path, folder: Path) -> str:
    """This interpreter, or that of a new virtual environment if dependencies differ."""
    wanted = dependencies(tree)
    if wanted == dependencies(ROOT):
        return sys.executable
    progress("other dependencies: making a virtual environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", *filter(None, wanted)], check=True)
    return python


# -- Comparing


def first_difference(one: Sequence[str], other: Sequence[str]) -> int | None:
    """The first round at which two lists of hashes part, or at which one of them ends."""
    for i, (a, b) in enumerate(zip(one, other)):
        if a != b:
            return i
    return None if len(one) == len(other) else min(len(one), len(other))


def difference(one: Outcome, other: Outcome, labels: tuple[str, str]) -> str:
    """Where two outcomes part, in words; nothing where they do not."""
    parted = first_difference(one.hashes, other.hashes)
    if one.code != other.code:
        codes = [f"exit code {o.code} in {name} ({o.error})"
                 for o, name in zip((one, other), labels)]  # fmt: skip
        return ", ".join(codes) + ("" if parted is None else f"; they part at round {parted}")
    if parted is not None:
        return (f"{labels[0]} and {labels[1]} part at round {parted} "
                f"of {len(one.hashes)} and {len(other.hashes)}")  # fmt: skip
    if one.code != 0 or not one.hashes:
        return f"both end after {len(one.hashes)} rounds with exit code {one.code}: {one.error}"
    return ""


def compare_bits(old: Tree, new: Tree, wanted: Iterable[Configuration]) -> int:
    """Run what is `wanted` in both trees and print what differs; how many do."""
    todo, begun = list(wanted), time.monotonic()
    made: dict[str, tuple[Outcome, Outcome]] = {}
    found = 0
    for i, c in enumerate(todo, 1):
        started = time.monotonic()
        before, now = made[c.name] = old.run(c), new.run(c)
        lines = [difference(before, now, (old.label, new.label))]
        for tree, outcome, like in zip((old, new), (before, now), made.get(c.like, ())):
            if not lines[0]:
                lines.append(difference(like, outcome, (c.like, f"it, in {tree.label},")))
        found += any(lines)
        for line in filter(None, lines):
            print(f"{c.name}: {line}", flush=True)
        spent = time.monotonic() - started
        progress(f"{i}/{len(todo)} {c.name}: {len(now.hashes)} rounds, {spent:.1f} s")
    rounds = sum(len(now.hashes) for _, now in made.values())
    result = f"{found} differ" if found else "all equal"
    print(f"{len(made)} configurations, {rounds} rounds: {result}")
    progress(f"in {time.monotonic() - begun:.0f} s for both trees")
    return found


def compare_speed(old: Tree, new: Tree, pairs: int, rounds: int, at_most: float | None) -> bool:
    """Run the README's job by turns and print the ratio; whether it is at most `at_most`."""
    ratios = []
    for i in range(pairs):
        before, now = old.seconds_of_a_round(rounds), new.seconds_of_a_round(rounds)
        ratios.append(now / before)
        progress(f"pair {i + 1}: {before * 1e3:.1f} ms, {now * 1e3:.1f} ms, {ratios[-1]:.3f}")
    middle = median(ratios)
    low, _, high = quantiles(ratios, n=4, method="inclusive") if pairs > 1 else [middle] * 3
    print(f"seconds of a round, {new.label} by {old.label}: median {middle:.3f}, "
          f"quartiles {low:.3f} and {high:.3f}, {pairs} pairs")  # fmt: skip
    if high - low > WIDE and pairs < ENOUGH:
        print(f"the quartiles lie {100 * (high - low):.1f} % apart: {ENOUGH - pairs} more pairs "
              f"are wanted (--pairs {ENOUGH})")  # fmt: skip
    if at_most is not None and middle > at_most:
        print(f"the median is over {at_most}")
        return False
    return True


def progress(line: str) -> None:
    """Tell of progress, on standard error."""
    print(line, file=sys.stderr, flush=True)


def fail(line: str) -> NoReturn:
    """End the program: nothing can be compared."""
    progress(f"same_bits: {line}")
    sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    made.add_argument("revision", nargs="?", help="what to compare the working tree with")
    made.add_argument("--only", metavar="WORD", default="", help="those with WORD in their name")
    made.add_argument("--list", action="store_true", help="print the configurations' names")
    made.add_argument("--pairs", type=int, default=0, metavar="N", help="compare speed, N times")
    made.add_argument("--at-most", type=float, metavar="RATIO", help="the largest median allowed")
    made.add_argument("--environment", metavar="PYTHON", help="interpreter of the old tree")
    made.add_argument("--rounds", type=int, default=200, help=argparse.SUPPRESS)  # of a pair's run
    return made


def main() -> int:
    """Run the command; its exit code."""
    asked = parser().parse_args()
    if asked.revision is None and not asked.list:
        parser().error("which revision?")
    if asked.pairs < 0 or (asked.at_most is not None and not asked.pairs):
        parser().error("--pairs is the number of pairs, and --at-most needs some")
    with tempfile.TemporaryDirectory(prefix="same_bits-") as name:
        folder = Path(name)
        new = Tree("the working tree", ROOT, sys.executable, folder / "new")
        trees = [new]
        if not asked.list:
            label = export(asked.revision, folder / "tree")
            python = asked.environment or interpreter_for(folder / "tree", folder / "venv")
            trees.insert(0, Tree(label, folder / "tree", python, folder / "old"))
        try:
            for tree in trees:
                tree.start()
            known = common(trees)
            wanted = chosen(known, asked.only)
            if not wanted:
                parser().error(f"no configuration has {asked.only!r} in its name; see --list")
            if asked.list:
                print("\n".join(c.name for c in wanted))
                return 0
            differ = compare_bits(trees[0], new, wanted)
        finally:
            for tree in trees:
                tree.stop()
        quick = not asked.pairs or compare_speed(
            trees[0], new, asked.pairs, asked.rounds, asked.at_most
        )
    return 1 if differ or not quick else 0


def common(trees: Sequence[Tree]) -> list[Configuration]:
    """The configurations whose names every tree knows; tell of names that only one does."""
    union = {kind: sorted({n for t in trees for n in t.names.get(kind, ())}) for kind in KINDS}
    used = {name for c in configurations(union) for kind, name in c.names() if kind == OPTION}
    options = sorted(used & {n for t in trees for n in t.names.get(OPTION, ())})
    unknown = set()
    for kind, names in {**union, OPTION: options}.items():
        for name in names:
            at = [tree.label for tree in trees if name in tree.names.get(kind, ())]
            if len(at) < len(trees):
                unknown.add((kind, name))
                print(f"left out: {kind} {name}, which only {at[0]} has")
    return [c for c in configurations(union) if not unknown & set(c.names())]


if __name__ == "__main__":
    sys.exit(main())
