"""Every rule against ByzPy 0.1.4, ByzFL 0.0.11 and against its own floor.

    python benchmarks/kernels.py [--shapes 20x421642,...] [--rules median,nnm+krum,...]
        [--peers DIRECTORY] [--turns 2] [--no-peers]
        [--away 1]
    python benchmarks/kernels.py --once [--shapes 20x421642] [--rules median,krum,...]
        [--threads 1]

The floor of a rule is what torch's own matmul takes for one Gram matrix, ``X @ X.T``,
and one weighted sum, ``w @ X``, in the same run.  Times are medians, in milliseconds,
over as many rounds as four seconds hold, but seven at least (three for calls that take
half a second): what is quick would else be measured in one tenth of a second, good or
bad for all of it.  In each round every call has a few turns in a row, of which ``--turns``
are counted.  The first is not, nor are others of its first 20 milliseconds: for so long
after torch's own matmul its OpenMP threads may spin, and would slow down whatever comes
next.  A call that takes ten seconds has one turn, and a peer that would take a minute,
going by a smaller shape, has none.  Each rule has a process of its own.  Memory is the
most that one call adds to the process, less its result, as a share of the input;
measured in another process (Linux).

The rows are normal numbers, and one vector of normal numbers times ``--away`` added to
all of them; with ``--away 1000`` they are near each other for how far they are from the
origin, so that ours read them twice for their inner products.

With ``--once`` each call comes after 50 milliseconds of other work, which allocates and frees
tensors of up to 8 MB: a rule as a script has it, not one in a loop.  By turns with it, and in the
same way, come the floor and ``torch.mean``; medians of 30.  Geometric and coordinate-wise rules are
compared with the floor, `mean` with ``torch.mean``.  "loop" is the ratio of the same calls in a
loop, "cpu" that of the processor time, and "faults" the pages that one call takes from the system.
With ``--threads 1`` the processor time says something also while other programs use the cores:
torch's own threads wait for each other by spinning.

Where the peers are not installed beside this package, name a directory made with
``pip install --no-deps --target DIRECTORY byzpy==0.1.4 byzfl==0.0.11`` and what
they import (cloudpickle, scipy).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from math import inf
from statistics import median
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from byzpy_tw.aggregators import BUILTIN, Pipeline
from byzpy_tw.aggregators.rule import root_needs
from byzpy_tw.preaggregators import BUILTIN as PRE

SHAPES = "10x421642,20x421642,64x421642,20x11173962"
SLOW = 10.0  # seconds; a peer's call that takes longer is not repeated
HOPELESS = 60.0  # seconds; one that would take longer is not made
ROUNDS, FEW = 7, 3
LONG = 4.0  # seconds of rounds, where that is more than so many
SETTLED = 0.02  # seconds after another call's turns
ONCE = 30  # calls of each, with --once

Rule = Callable[[Tensor], Any]
Makers = dict[str, Callable[[int, int], Rule]]


def ours(n: int, f: int) -> dict[str, Rule]:
    """Each of our rules, and the chains that the project speaks of."""
    takes = {name: factory for name, factory, _ in (*BUILTIN, *PRE)}

    def make(name: str) -> Rule:
        return takes[name](f=f)

    found = {name: make(name) for name, maker, _ in BUILTIN if not root_needs(maker)}
    if n <= 4 * f:
        found["bulyan"] = takes["bulyan"](f=(n - 3) // 4)
    for pre in ("nnm", "clipping", "arc", "bucketing"):
        for last in ("krum", "geometric-median"):
            if pre == "bucketing" and last == "krum":
                continue
            found[f"{pre}+{last}"] = Pipeline(pre=(make(pre),), aggregator=make(last))
    found["clipping+nnm+arc+geometric-median"] = Pipeline(
        pre=(make("clipping"), make("nnm"), make("arc")), aggregator=make("geometric-median")
    )
    found["nnm+trimmed-mean"] = Pipeline(pre=(make("nnm"),), aggregator=make("trimmed-mean"))
    return found


def byzfl(n: int, f: int) -> dict[str, Rule]:
    if "byzfl" not in sys.modules:
        # Its top imports what it draws figures with; the rules need none of that.
        spec = find_spec("byzfl")
        sys.modules["byzfl"] = bare = ModuleType("byzfl")
        bare.__path__ = list(spec.submodule_search_locations)
    kit = import_module("byzfl.aggregators")
    nnm = kit.NNM(f)
    return {
        "mean": kit.Average(),
        "median": kit.Median(),
        "trimmed-mean": kit.TrMean(f),
        "meamed": kit.Meamed(f),
        "krum": kit.Krum(f),
        "multi-krum": kit.MultiKrum(f),
        "geometric-median": kit.GeometricMedian(),
        "centered-clipping": kit.CenteredClipping(L=3, tau=10.0),
        "monna": kit.MoNNA(f),
        "caf": kit.CAF(f),
        "nnm+krum": lambda x: kit.Krum(f)(nnm(x)),
        "nnm+geometric-median": lambda x: kit.GeometricMedian()(nnm(x)),
        "nnm+trimmed-mean": lambda x: kit.TrMean(f)(nnm(x)),
    }


def byzpy(n: int, f: int) -> dict[str, Rule]:
    def kit(where: str, name: str) -> Any:
        return getattr(import_module(f"byzpy.{where}"), name)

    def krum(rows: list[Tensor]) -> Any:
        return kit("aggregators.geometric_wise.krum", "Krum")(f).aggregate(rows)

    def geometric_median(rows: list[Tensor]) -> Any:
        where = "aggregators.geometric_wise.geometric_median"
        return kit(where, "GeometricMedian")().aggregate(rows)

    def trimmed_mean(rows: list[Tensor]) -> Any:
        where = "aggregators.coordinate_wise.trimmed_mean"
        return kit(where, "CoordinateWiseTrimmedMean")(f).aggregate(rows)

    nnm = kit("pre_aggregators", "NearestNeighborMixing")(f)
    rules = {
        "median": kit("aggregators.coordinate_wise.median", "CoordinateWiseMedian")().aggregate,
        "trimmed-mean": trimmed_mean,
        "meamed": kit("aggregators.coordinate_wise.mean_of_medians", "MeanOfMedians")(f).aggregate,
        "krum": krum,
        "multi-krum": kit("aggregators.geometric_wise.krum", "MultiKrum")(f, n - f - 1).aggregate,
        "geometric-median": geometric_median,
        "centered-clipping": kit("aggregators.norm_wise.center_clipping", "CenteredClipping")(
            c_tau=10.0, M=3
        ).aggregate,
        "monna": kit("aggregators.geometric_wise.monna", "MoNNA")(f).aggregate,
        "cge": kit(
            "aggregators.norm_wise.comparative_gradient_elimination",
            "ComparativeGradientElimination",
        )(f).aggregate,
        "caf": kit("aggregators.norm_wise.caf", "CAF")(f).aggregate,
        "nnm+krum": lambda rows: krum(nnm.pre_aggregate(rows)),
        "nnm+geometric-median": lambda rows: geometric_median(nnm.pre_aggregate(rows)),
        "nnm+trimmed-mean": lambda rows: trimmed_mean(nnm.pre_aggregate(rows)),
    }
    # It takes lists; taking a matrix apart costs nothing.
    return {name: lambda x, rule=rule: rule(list(x.unbind(0))) for name, rule in rules.items()}


PEERS = {"byzpy": byzpy, "byzfl": byzfl}


def timed(calls: dict[str, Callable[[], Any]], counted: int) -> dict[str, float]:
    """The median time of each call, ms.  One that fails is left out."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    begun, wanted = time.perf_counter(), dict(calls)
    for turn_round in count(1):
        for name in list(wanted):
            found = row(name, calls[name], counted)
            times[name] += found
            best = min(found, default=inf)  # infinite: it fails
            if best > SLOW or (best > 0.5 and turn_round >= FEW):
                del wanted[name]
        if turn_round >= ROUNDS and (not wanted or time.perf_counter() > begun + LONG):
            break
    return {name: median(found) * 1e3 for name, found in times.items() if found}


def row(name: str, call: Callable[[], Any], counted: int) -> list[float]:
    """The seconds of so many turns in a row, once it has settled; fewer of a slow call."""
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < counted:
        begun = time.perf_counter()
        try:
            call()
        except Exception as e:  # a peer's failure is its own affair
            print(f"  {name}: {e!r:.100}", file=sys.stderr)
            break
        took = time.perf_counter() - begun
        if took > SLOW:
            return [took]
        if begun > start + SETTLED:
            times.append(took)
    return times


def other_work(draw: random.Random) -> None:
    """Fifty milliseconds of what a script does between two calls of a rule."""
    end, kept = time.perf_counter() + 0.05, []
    while time.perf_counter() < end:
        kept.append(torch.rand(draw.choice((1_000, 30_000, 300_000, 2_000_000))) * 2)
        if len(kept) > 8:
            kept.pop(draw.randrange(8))


def clocked(call: Callable[[], Any]) -> dict[str, float]:
    """The milliseconds, those of the processor and the page faults of one call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    cpu, begun = time.process_time(), time.perf_counter()
    call()
    ended, spent = time.perf_counter(), time.process_time()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"once": 1e3 * (ended - begun), "cpu": 1e3 * (spent - cpu), "faults": faults}


def called_once(name: str, n: int, d: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians of the rule, of its floor and of ``torch.mean``, each after other work."""
    torch.manual_seed(0)
    matrix, weights = torch.randn(n, d) + args.away * torch.randn(d), torch.rand(n)
    rule, draw = ours(n, n // 5)[name], random.Random(0)
    calls: dict[str, Callable[[], Any]] = {
        "gram": lambda: matrix @ matrix.T,
        "sum": lambda: weights @ matrix,
        "torch.mean": lambda: matrix.mean(dim=0),
        "ours": lambda: rule(matrix),
    }
    found: dict[str, list[dict[str, float]]] = {which: [] for which in calls}
    for turn in range(ONCE + 1):
        for which, call in calls.items():
            other_work(draw)
            one = clocked(call)
            call()
            one["loop"] = clocked(call)["once"]
            if turn:  # the first loads and starts things
                found[which].append(one)
    return {
        which: {key: median(one[key] for one in ones) for key in ones[0]}
        for which, ones in found.items()
    }


def report_once(n: int, d: int, args: argparse.Namespace) -> None:
    rules = ours(n, n // 5)
    print(f"\nn={n} d={d} f={n // 5}, {torch.get_num_threads()} threads, called once, medians")
    print(f"{'rule':34}{'ms':>9}{'base':>9}{'x base':>9}{'cpu':>9}{'loop':>9}{'faults':>9}  base")
    for name in args.rules.split(",") if args.rules else rules:
        if rules[name].computable(n) is not None:
            continue
        command = [
            sys.executable, __file__, "--row", name, "--once", "--shapes", f"{n}x{d}",
            "--away", str(args.away), "--threads", str(torch.get_num_threads()),
        ]  # fmt: skip
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(answer.stdout)
        bases = ("torch.mean",) if name == "mean" else ("gram", "sum")
        ratio = {
            key: found["ours"][key] / sum(found[base][key] for base in bases)
            for key in ("once", "cpu", "loop")
        }
        took = sum(found[base]["once"] for base in bases)
        print(
            f"{name:34}{found['ours']['once']:9.1f}{took:9.1f}{ratio['once']:9.2f}"
            f"{ratio['cpu']:9.2f}{ratio['loop']:9.2f}{found['ours']['faults']:9.0f}  "
            f"{' + '.join(bases)}",
            flush=True,
        )


def extra_memory(rule: str, n: int, d: int) -> float:
    """The most memory that a call adds, less its result, as a share of the input."""
    answer = subprocess.run(
        [sys.executable, __file__, "--memory", rule, "--shapes", f"{n}x{d}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(answer.stdout)


def measure_memory(rule: str, n: int, d: int) -> float:
    def status(key: str) -> int:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

    call = ours(n, n // 5)[rule]
    call(torch.randn(n, 1000))  # threads and libraries are there now
    matrix = torch.randn(n, d)
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    result = call(matrix)
    return (status("VmHWM") - before - result.numel() * 4) / (matrix.numel() * 4)


# (peer, rule) -> seconds for each number of the input, where it was last called
_rate: dict[tuple[str, str], float] = {}


def turns(
    name: str, n: int, d: int, peers: Sequence[str], args: argparse.Namespace
) -> dict[str, float]:
    """Milliseconds of the rule `name`, of its floor, and of those `peers` that have it."""
    f = n // 5
    torch.manual_seed(0)
    matrix = torch.randn(n, d) + args.away * torch.randn(d)
    weights = torch.rand(n)
    rule = ours(n, f)[name]
    calls: dict[str, Callable[[], Any]] = {
        "gram": lambda: matrix @ matrix.T,
        "sum": lambda: weights @ matrix,
        "ours": lambda: rule(matrix),
    }
    for peer in peers:
        offered = PEERS[peer](n, f)
        if name in offered:
            calls[peer] = lambda theirs=offered[name]: theirs(matrix)
    return timed(calls, args.turns)


def apart(name: str, n: int, d: int, peers: Sequence[str], args: argparse.Namespace) -> Any:
    """The same from a process of its own.

    What one rule leaves of the heap is not the next one's luck: ByzPy's multi-krum took
    35 ms in a fresh process, and 12 after twenty other rules.
    """
    command = [
        sys.executable, __file__, "--row", name, "--shapes", f"{n}x{d}",
        "--against", ",".join(peers), "--peers", args.peers, "--turns", str(args.turns),
        "--away", str(args.away),
    ]  # fmt: skip
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout)


def report(n: int, d: int, args: argparse.Namespace) -> None:
    f = n // 5
    rules = ours(n, f)
    chosen = args.rules.split(",") if args.rules else list(rules)
    peers = [] if args.no_peers else list(PEERS)
    print(f"\nn={n} d={d} f={f}, {torch.get_num_threads()} threads, medians, away {args.away:g}")
    print(f"{'rule':34}{'ms':>9}{'floor':>9}{'x floor':>9}", end="")
    print("".join(f"{peer + ' ms':>11}" for peer in peers), end="")
    print(f"{'x faster':>10}" * bool(peers) + f"{'memory':>9}")
    for name in chosen:
        if rules[name].computable(n) is not None:
            print(f"{name:34}{rules[name].computable(n)}")
            continue
        able = [p for p in peers if _rate.get((p, name), 0.0) * n * d < HOPELESS]
        found = apart(name, n, d, able, args)
        floor = found["gram"] + found["sum"]
        for peer in able:
            if peer in found:
                _rate[peer, name] = found[peer] / 1e3 / (n * d)
        print(f"{name:34}{found['ours']:9.1f}{floor:9.1f}{found['ours'] / floor:9.2f}", end="")
        for peer in peers:
            print(f"{found[peer]:11.1f}" if peer in found else f"{'-':>11}", end="")
        best = min((found[peer] for peer in peers if peer in found), default=None)
        if peers:
            print(f"{best / found['ours']:10.1f}" if best else f"{'-':>10}", end="")
        print(f"{extra_memory(name, n, d):9.2f}" if args.with_memory else f"{'-':>9}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes")
    parser.add_argument("--rules", default="")
    parser.add_argument("--peers", default="")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--away", type=float, default=1.0)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--threads", type=int, help="torch's threads (default: its own)")
    parser.add_argument("--with-memory", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--against", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peers:
        sys.path.append(args.peers)
    if args.threads:
        torch.set_num_threads(args.threads)
    for shape in (args.shapes or ("20x421642" if args.once else SHAPES)).split(","):
        n, d = map(int, shape.split("x"))
        if args.memory:
            print(measure_memory(args.memory, n, d))
        elif args.once:
            if args.row:
                print(json.dumps(called_once(args.row, n, d, args)))
            else:
                report_once(n, d, args)
        elif args.row:
            against = args.against.split(",") if args.against else []
            print(json.dumps(turns(args.row, n, d, against, args)))
        else:
            report(n, d, args)


if __name__ == "__main__":
    main()
