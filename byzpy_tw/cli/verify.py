"""``python -m byzpy_tw verify``: compute a finished run again, and compare."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import asdict, define

from byzpy_tw.cli.plugin_options import add_plugin_options
from byzpy_tw.config.paths import expand_home
from byzpy_tw.errors import ConfigError
from byzpy_tw.plugins import load_and_warn
from byzpy_tw.text import clean_value, join_numbers, printable

if TYPE_CHECKING:
    from byzpy_tw.audit.verify import Verification

HELP = "compute a run again, and say whether its records are met"
SECONDS = 2.0  # between lines of progress
_MOST_SHOWN = 20  # problems


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN_DIR", help="what --run-dir was, or runs/...")
    parser.add_argument(
        "--from", dest="start", metavar="ROUND|newest", default="0",
        help="begin with the kept checkpoint of that round, or the newest one that rounds "
        "follow, and take what it holds for granted (default: with round 0)",
    )  # fmt: skip
    parser.add_argument(
        "--nodes", metavar="0,1,...",
        help="compute the vectors of these nodes alone, from the data here, in each round before "
        "which the parameters are kept, and compare their norms: for a site whose data is its own",
    )  # fmt: skip
    parser.add_argument("--data-root", metavar="DIR", help="folder of data (default: the run's)")
    add_plugin_options(parser, " (default: as in the run)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="compute threads (default: all cores)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


@define
class _Progress:
    """Prints the rounds done, the pace and the time left, every few seconds."""

    write: Callable[[str], None]
    _began: tuple[float, int] | None = None
    _last: float = 0.0

    def __call__(self, done: int, rounds: int) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began, self._last = (now, done), now
        if now - self._last < SECONDS or done == rounds:
            return
        self._last = now
        pace = (done - self._began[1]) / (now - self._began[0])
        left = (rounds - done) / pace
        self.write(f"  {done} of {rounds} rounds, {pace:.1f} rounds/s, {left:.0f} s left")


def run(chosen: argparse.Namespace) -> int:
    """Verify, and print the findings; return 0 where every recorded hash is met."""
    if chosen.threads is not None and not 1 <= chosen.threads <= 1024:
        raise ConfigError(f"--threads must be from 1 to 1024, got {chosen.threads}")
    nodes = _nodes(chosen.nodes, chosen.start)
    from byzpy_tw.audit.verify import Verification
    from byzpy_tw.kernels.cpu import cores
    from byzpy_tw.kernels.parallel import pool as make_pool
    from byzpy_tw.records.folder import read_run
    from byzpy_tw.records.run_registry import load_registry

    def write(line: str) -> None:
        if not chosen.json:
            print(printable(line), flush=True)

    folder = expand_home(chosen.folder)
    recorded, threads = read_run(folder), chosen.threads or cores()
    names = load_registry(load_and_warn, vars(chosen), folder)
    pool = make_pool(threads)
    verification = Verification(
        recorded, names, pool, threads, chosen.data_root, nodes, _Progress(write)
    )
    config, start = recorded.config, _start(chosen.start, verification.checkpointed_rounds())
    asked = "" if config.participants is None else f" ({config.participants} of them a round)"
    write(
        f"byzpy_tw: verify {chosen.folder}: {len(recorded.rounds)} rounds of {config.model} on "
        f"{config.dataset}, {config.num_honest} honest and {config.num_byz} Byzantine nodes"
        f"{asked}, {config.pipeline} with f = {config.f}"
    )
    what = f"rounds {start} to {len(recorded.rounds) - 1}"
    if nodes:
        kept = 1 + len(verification.checkpointed_rounds())
        what = (
            f"the vectors of nodes {join_numbers(nodes)} in {kept} of {len(recorded.rounds)} rounds"
        )
    write(f"  computing {what} again, threads: {threads}")
    try:
        verification.run(start)
    except KeyboardInterrupt:
        write("interrupted")
        return 130
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if chosen.json:
        print(json.dumps(_to_plain(verification, chosen.folder)))
    _tell(verification, start, write)
    return 0 if verification.confirmed else 1


def _start(text: str, checkpointed_rounds: list[int]) -> int:
    if text == "newest":
        if not checkpointed_rounds:
            raise ConfigError("--from newest: no checkpoint was kept that rounds follow")
        return checkpointed_rounds[-1]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"--from must be a round or newest, got {text[:40]!r}")
    return int(text)


def _nodes(text: str | None, start: str) -> tuple[int, ...]:
    """Return the nodes of ``--nodes``; none where it is not given."""
    if text is None:
        return ()
    if start != "0":
        raise ConfigError("--nodes looks at every kept checkpoint: leave out --from")
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise ConfigError(
            f"--nodes must be numbers with commas between, got {clean_value(text, 40)}"
        )
    return tuple(sorted(set(map(int, words))))


def _tell(verification: Verification, start: int, write: Callable[[str], None]) -> None:
    for note in verification.notes:
        write(f"notice: {clean_value(note, 2000)}")
    problems = verification.problems
    for problem in problems[:_MOST_SHOWN]:
        write(f"- {clean_value(problem.text, 2000)}")
    if len(problems) > _MOST_SHOWN:
        write(f"- and {len(problems) - _MOST_SHOWN} more (--json has them all)")
    done = sum(b - a for a, b in verification.spans)
    rounds = len(verification.rounds)
    since = f", from the checkpoint of round {start} on" if start else ""
    if verification.confirmed and verification.nodes:
        write(
            f"confirmed: {verification.vectors} vectors in {done} of {rounds} rounds, of nodes "
            f"{join_numbers(verification.nodes)}, have the recorded norms"
        )
    elif verification.confirmed:
        last = verification.rounds[-1]["parameters_sha256"]
        write(
            f"confirmed: the recorded hashes of {done} of {rounds} rounds are met{since}; "
            f"the parameters at the end are {clean_value(last)}"
        )
    else:
        first = min((p.round for p in problems if p.round is not None), default=None)
        where = "" if first is None else f", first in round {first}"
        many = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        write(f"not confirmed{where}: {many}; {done} of {rounds} rounds computed")


def _to_plain(verification: Verification, folder: str) -> dict[str, object]:
    return {
        "run_dir": folder,
        "confirmed": verification.confirmed,
        "rounds": len(verification.rounds),
        "computed": [list(span) for span in verification.spans],
        "nodes": [*verification.nodes],  # none: all of the run
        "vectors": verification.vectors,
        "problems": [asdict(problem) for problem in verification.problems],
        "notices": verification.notes,
    }
