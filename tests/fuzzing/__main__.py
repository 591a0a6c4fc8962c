"""``python -m tests.fuzzing``: hostile inputs in any number, and what came of them."""

from __future__ import annotations

import argparse
import json
import sys
import time

from byzpy_tw.console import run_command, say
from tests.fuzzing import server_in_memory, trainer_in_memory
from tests.fuzzing.parallel import run_in_processes
from tests.fuzzing.tally import Examine, Tally, fuzz

EXAMINE: dict[str, Examine] = {
    "server": server_in_memory.examine,
    "trainer": trainer_in_memory.examine,
}


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 where something did not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzzing",
        description="Malicious peers against a server that a run is on, or malicious servers "
        "against a trainer, until so many hostile inputs were said.",
    )
    parser.add_argument("whom", choices=sorted(EXAMINE))
    parser.add_argument("--inputs", type=_positive, default=2_000, metavar="N")
    parser.add_argument("--processes", type=_positive, default=1, metavar="K")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the histories")
    parser.add_argument("--step", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, metavar="N", help="tell the history of this seed")
    parser.add_argument(
        "--sockets", action="store_true", help="real processes and sockets, no virtual time"
    )
    parser.add_argument("--json", action="store_true", help="the last line is for programs")
    chosen = parser.parse_args(arguments)
    if chosen.sockets and (chosen.seed is not None or chosen.processes > 1):
        parser.error("--sockets has real time, and one process: no --seed, no --processes")
    if chosen.seed is not None:
        return _tell(EXAMINE[chosen.whom], chosen.seed)
    begun = time.perf_counter()
    tally = _tally(chosen)
    if chosen.json:  # the parent process judges
        say(json.dumps(tally.to_dict()))
    else:
        tally.judge()
        say("\n".join([*tally.lines(), f"{time.perf_counter() - begun:.0f} s in all"]))
    return 1 if tally.wrong else 0


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _tally(chosen: argparse.Namespace) -> Tally:
    if chosen.sockets:
        from tests.fuzzing import real_processes  # it installs a reactor

        return real_processes.fuzz(chosen.whom, chosen.inputs, chosen.first, say)
    if chosen.processes == 1:
        return fuzz(EXAMINE[chosen.whom], chosen.inputs, chosen.first, chosen.step, say)
    each = str(-(-chosen.inputs // chosen.processes))
    shares = [
        [chosen.whom, "--json", "--inputs", each, "--first", str(chosen.first + i),
         "--step", str(chosen.processes)]
        for i in range(chosen.processes)
    ]  # fmt: skip
    tally = Tally()
    for found in run_in_processes("tests.fuzzing", shares, say):
        tally.add(Tally.from_dict(found))
    return tally


def _tell(examine: Examine, seed: int) -> int:
    history, wrong, counts = examine(seed)
    say("\n".join([*history.schedule.lines(), *history.lines(), str(dict(counts))]))
    say("\n".join(f"WRONG: {what}" for what in wrong) or "all that must hold does")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
