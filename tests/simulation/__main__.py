"""``python -m tests.simulation``: one history, told; or many, checked."""

from __future__ import annotations

import argparse
import sys
import time

from byzpy_tw.console import run_command, say
from tests.simulation.history import registry
from tests.simulation.many import check_seeds, check_seeds_in_processes, examine, to_json
from tests.simulation.schedule import Schedule


def _seeds(text: str) -> range:
    try:
        return range(*map(int, text.split(":")))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:END or FIRST:END:STEP") from None


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 where something did not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="A trainer and its servers on virtual time, among faults drawn from a seed.",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="tell the history of this seed")
    parser.add_argument(
        "--seeds", type=_seeds, metavar="A:B", help="check those of seeds A to B - 1"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="K", help="of a sweep")
    parser.add_argument(
        "--twice", action="store_true", help="each must come out the same a second time"
    )
    parser.add_argument("--json", action="store_true", help="the sweep's last line is for programs")
    chosen = parser.parse_args(arguments)
    if (chosen.seed is None) == (chosen.seeds is None):
        parser.error("say either --seed N or --seeds A:B")
    return _tell(chosen.seed) if chosen.seeds is None else _check(chosen)


def _tell(seed: int) -> int:
    schedule = Schedule.draw(seed, registry())
    history, wrong = examine(schedule)
    print("\n".join([*schedule.lines(), *history.lines(), f"digest {history.digest}"]))
    print("\n".join(f"WRONG: {what}" for what in wrong) or "all that must hold does")
    return 1 if wrong else 0


def _check(chosen: argparse.Namespace) -> int:
    begun = time.perf_counter()
    if chosen.processes > 1:
        totals = check_seeds_in_processes(chosen.seeds, chosen.processes, say, twice=chosen.twice)
    else:
        totals = check_seeds(chosen.seeds, say, twice=chosen.twice)
    say(to_json(totals) if chosen.json else f"{totals}; {time.perf_counter() - begun:.1f} s in all")
    return 1 if totals.broken else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
