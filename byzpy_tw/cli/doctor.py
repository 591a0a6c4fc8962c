"""``python -m byzpy_tw doctor``: whether a run would start, and what keeps it from that.

It takes the command line of ``python -m byzpy_tw.train``, and two options more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byzpy_tw.cli import train
from byzpy_tw.config.run import LOCATIONS, RunConfig
from byzpy_tw.console import print_error
from byzpy_tw.errors import ConfigError

if TYPE_CHECKING:
    from byzpy_tw.rounds.feasibility import Feasibility
    from byzpy_tw.trainer.doctor import Doctor
    from byzpy_tw.trainer.server_check import ServerCheck

HELP = "say whether a run would start; takes the options of byzpy_tw.train"


def options(parser: argparse.ArgumentParser) -> None:
    """None of its own here: `main` reads the words, so that they may be a run's."""


def own_parser() -> argparse.ArgumentParser:
    """Reads what is not a run's."""
    own = argparse.ArgumentParser(
        prog="python -m byzpy_tw doctor", add_help=False, allow_abbrev=False
    )
    own.add_argument("--json", action="store_true", help="one JSON object, for programs")
    own.add_argument(
        "--wait", type=float, default=None, metavar="SECONDS",
        help="for what a server in health answers at once (default: 5)",
    )  # fmt: skip
    return own


def main(arguments: Sequence[str]) -> int:
    """Examine, and print what was found; 0 where a run would start, 1 where not."""
    own = own_parser()
    if {"-h", "--help"} & set(arguments):
        print(f"{own.format_usage()}\n{__doc__}\n{own.format_help().partition('options:')[2]}")
        print("and of python -m byzpy_tw.train:\n\n" + train.parser().format_help())
        return 0
    chosen, rest = own.parse_known_args(arguments)
    if chosen.wait is not None and not 0 < chosen.wait <= 3600:
        raise ConfigError(f"--wait must be above 0 and at most 3600, got {chosen.wait:g}")
    found = train.parse_invocation(rest)
    config, resumed = _of(found)
    # Imported only now: a mistake on the command line is told at once.
    from byzpy_tw.trainer.doctor import WAIT

    doctor = _examined(found, config, resumed, chosen.wait or WAIT)
    if not doctor.done:
        print_error("interrupted")
        return 130
    if chosen.json:
        print(json.dumps(doctor.to_plain(), indent=2))
    else:
        print("\n".join(lines(doctor)))
    if doctor.busy:  # a thread that nobody waits for would keep this process
        sys.stdout.flush()
        os._exit(0 if doctor.well else 1)
    return 0 if doctor.well else 1


def _configured(words: Sequence[str]) -> tuple[RunConfig, Path | None]:
    """The configuration that `words` describe, and the folder that it goes on in, if any.

    Where they do not say where the nodes live, that is here.
    """
    return _of(train.parse_invocation(words))


def _of(found: train.Invocation) -> tuple[RunConfig, Path | None]:
    if found.resume is None:
        placed = any(found.options.get(name) for name in LOCATIONS)
        return found.configuration(**({} if placed else {"in_process": True})), None
    from byzpy_tw.records.resume import load_config_to_resume

    return load_config_to_resume(found.resume, found.options), found.resume


def _examined(
    found: train.Invocation, config: RunConfig, resumed: Path | None, wait: float
) -> Doctor:
    """In a reactor of this process."""
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react
    from twisted.logger import (
        FilteringLogObserver,
        LogLevel,
        LogLevelFilterPredicate,
        globalLogBeginner,
        textFileLogObserver,
    )

    from byzpy_tw.config.paths import resolve_paths
    from byzpy_tw.config.unused import drop_unused
    from byzpy_tw.kernels.cpu import cores
    from byzpy_tw.kernels.parallel import pool as make_pool
    from byzpy_tw.scheduling.clock import use_monotonic_clock
    from byzpy_tw.trainer.doctor import Doctor

    # What a server did is in the report; what is left to say is a bug of ours.
    bugs = FilteringLogObserver(
        textFileLogObserver(sys.stderr), [LogLevelFilterPredicate(LogLevel.critical)]
    )
    globalLogBeginner.beginLoggingTo([bugs], redirectStandardIO=False, discardBuffer=True)
    registry, pool = found.registry(), make_pool(config.threads or cores())
    if resumed is None:
        config = drop_unused(config, registry, found.beneath)
    config = resolve_paths(config)
    made: list[Doctor] = []

    def main(reactor: Any) -> Deferred[None]:
        use_monotonic_clock(reactor)
        made.append(Doctor(config, registry, reactor, pool, wait, resumed))
        return Deferred.fromCoroutine(made[0].examine())

    try:
        react(main)
    except SystemExit as e:
        if e.code:  # interrupted, or a bug of ours, which was printed
            raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return made[0]


# -- as text


def lines(doctor: Doctor) -> Iterator[str]:
    """All that a person wants to read of it."""
    config = doctor.config
    yield (
        f"byzpy_tw doctor: {config.rounds} rounds of {config.model} on {config.dataset}, "
        f"{config.num_honest} honest and {config.num_byz} Byzantine nodes ({config.attack}), "
        f"{config.pipeline} with f = {config.f}"
    )
    yield from _here(doctor)
    if doctor.servers:
        yield "servers"
        for server in doctor.servers:
            yield f"  {_server(server)}"
    elif config.local:
        yield f"servers: {config.local}, which the run starts on this machine"
    yield from _budget(doctor)
    for line in doctor.warnings:
        yield f"warning: {line}"
    for line in doctor.troubles:
        yield f"trouble: {line}"
    count = len(doctor.troubles)
    yield (
        "a run would start"
        if doctor.well
        else (f"a run would not start: {count} trouble{'s' * (count != 1)}")
    )


def _here(doctor: Doctor) -> Iterator[str]:
    found = doctor.to_plain()["here"]
    yield "here"
    yield "  " + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    device = f"device {found['device']}" + (f" ({found['cuda']})" if found["cuda"] else "")
    machine = f", {found['instructions']}" if "instructions" in found else ""
    yield f"  {found['threads']} threads on {found['cores']} cores, {device}{machine}"
    if "dimension" in found:
        train_, test = found["examples"]
        least, most = found["shards"]
        yield (
            f"  data {doctor.config.dataset}: {train_:,} examples, {test:,} to test, digest "
            f"{found['data_digest'][:12]}; {least:,} to {most:,} in a shard, "
            f"{doctor.config.batch_size} in a batch"
        )
        d = found["dimension"]
        yield f"  model {doctor.config.model}: {d:,} parameters, {_size(4 * d)} a vector"
    if found["disk_free_bytes"] is not None:
        each = found["checkpoint_bytes"]
        told = f"; a checkpoint takes {_size(each)}" if each is not None else ""
        yield f"  disk: {_size(found['disk_free_bytes'])} free in {found['folder']}{told}"


def _server(server: ServerCheck) -> str:
    nodes = ", ".join(str(node.node) for node in server.nodes[:10]) or "none"
    more = ", ..." if len(server.nodes) > 10 else ""
    if server.error is not None:
        return f"{server.name}: NOT WELL ({server.error.code}); nodes {nodes}{more}"
    told = [f"{server.name}: well; nodes {nodes}{more}"]
    if server.round_trip is not None:
        told.append(f"round trip {1000 * server.round_trip:.2g} ms")
    if server.bandwidth is not None:
        told.append(f"{_size(server.bandwidth)}/s to it")
    if server.gradient is not None:
        told.append(f"a gradient in {1000 * server.gradient:.3g} ms")
    if server.clock_ahead is not None:
        told.append(f"clock {server.clock_ahead:+.1f} s")
    if server.environment is not None:
        there = server.environment
        told.append(f"{there.threads} threads, {there.device}, torch {there.torch}")
        told.append("plugins " + ", ".join(f"{n} {v}" for n, v in list(there.plugins.items())[:10]))
    return "; ".join(told)


def _budget(doctor: Doctor) -> Iterator[str]:
    config = doctor.config
    behind = " | ".join(config.pre_aggregator)
    yield f"rules for n = {config.n}, f = {config.f}" + (f", behind {behind}" if behind else "")
    yield f"  {'rule':<22} {'may be lost':<12} {'f at most':<10} guarantee"
    for line in doctor.budget:
        yield _rule(line)


def _rule(line: Feasibility) -> str:
    most = "-" if line.most_f is None else str(line.most_f)
    if line.uncomputable is not None:
        return f"  {line.rule:<22} {'-':<12} {most:<10} cannot be computed: {line.uncomputable}"
    why = "yes" if line.unguaranteed is None else f"no: {line.unguaranteed}"
    return f"  {line.rule:<22} {line.lost:<12} {most:<10} {why}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
