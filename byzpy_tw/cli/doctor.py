"""``python -m byzpy_tw doctor``: check whether a run would start.

It takes the command line of ``python -m byzpy_tw.train``, and two options more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from byzpy_tw.cli import train
from byzpy_tw.console import print_error
from byzpy_tw.errors import ConfigError
from byzpy_tw.text import clean_value, number_range

if TYPE_CHECKING:
    from byzpy_tw.trainer.doctor import Doctor
    from byzpy_tw.trainer.server_check import ServerCheck

_ABOUT = """Check whether a run would start.

It takes the command line of python -m byzpy_tw.train, and two options more.
"""
HELP = "say whether a run would start; takes the options of byzpy_tw.train"


def options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `main` parses the words itself, as those of a run."""


def own_parser() -> argparse.ArgumentParser:
    """Return the parser of the two options that a run does not have."""
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
    """Check, and print the report; return 0 where a run would start, else 1."""
    own = own_parser()
    if {"-h", "--help"} & set(arguments):
        print(f"{own.format_usage()}\n{_ABOUT}\n{own.format_help().partition('options:')[2]}")
        print("and of python -m byzpy_tw.train:\n\n" + train.parser().format_help())
        return 0
    chosen, rest = own.parse_known_args(arguments)
    if chosen.wait is not None and not 0 < chosen.wait <= 3600:
        raise ConfigError(f"--wait must be above 0 and at most 3600, got {chosen.wait:g}")
    invocation = train.parse_invocation(rest)
    doctor, code = _examine(invocation, chosen.wait)
    if not doctor.done:  # interrupted, or a bug
        return code
    print(json.dumps(doctor.to_plain(), indent=2) if chosen.json else "\n".join(lines(doctor)))
    if doctor.busy:  # a thread that still reads data would keep this process alive
        sys.stdout.flush()
        os._exit(code)
    return code


def _examine(invocation: train.Invocation, wait: float | None) -> tuple[Doctor, int]:
    """Run the checks in a reactor of this process; return the exit code as well."""
    config = invocation.load_config()
    # Imported only now: a mistake on the command line is reported at once.
    from twisted.internet import reactor as installed
    from twisted.logger import LogLevel

    from byzpy_tw.config.merge import drop_unused
    from byzpy_tw.config.paths import resolve_paths
    from byzpy_tw.kernels.cpu import cores
    from byzpy_tw.kernels.parallel import pool as make_pool
    from byzpy_tw.output.program import ReactorProgram, log_to
    from byzpy_tw.trainer.doctor import WAIT, Doctor

    reactor: Any = installed  # typed as less than every reactor is
    log_to(sys.stderr, LogLevel.critical)  # bugs: all else is in the report
    registry, pool = invocation.registry(), make_pool(config.threads or cores())
    if invocation.resume is None:
        config = drop_unused(config, registry, invocation.beneath)
    config, wait = resolve_paths(config), wait or WAIT
    doctor = Doctor(config, registry, reactor, pool, wait, invocation.resume)

    async def examine() -> int:
        await doctor.examine()
        return 0 if doctor.well else 1

    try:
        return doctor, ReactorProgram(reactor, print_error).run(examine)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


# -- as text


def lines(doctor: Doctor) -> Iterator[str]:
    """Yield the lines of the report."""
    from byzpy_tw.output.text import describe_run

    config = doctor.config
    yield f"byzpy_tw doctor: {describe_run(config)}"
    yield from _environment_lines(doctor)
    if doctor.servers:
        yield "servers"
        yield from (f"  {_server_line(server)}" for server in doctor.servers)
    elif config.local:
        yield f"servers: {config.local}, which the run starts on this machine"
    yield from _budget_lines(doctor)
    yield from (f"warning: {line}" for line in doctor.warnings)
    yield from (f"advice: {line}" for line in doctor.advice)
    yield from (f"error: {line}" for line in doctor.troubles)
    count = len(doctor.troubles)
    errors = f"a run would not start: {count} error{'s' * (count != 1)}"
    yield "a run would start" if doctor.well else errors


def _environment_lines(doctor: Doctor) -> Iterator[str]:
    found = doctor.to_plain()["here"]
    yield "here"
    yield "  " + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    unused = found["cuda"] and found["device"] == "cpu"
    device = f"device {found['device']}" + f" (--device cuda: {found['cuda']})" * bool(unused)
    machine = f", {found['instructions']}" if "instructions" in found else ""
    yield f"  {found['threads']} threads on {found['cores']} cores, {device}{machine}"
    if found["keys_until"] is not None:
        yield f"  keys good until {found['keys_until']}"
    if "dimension" in found:
        train_, test = found["examples"]
        least, most = found["shards"]
        yield (
            f"  data {doctor.config.dataset}: {train_:,} examples, {test:,} to test, digest "
            f"{clean_value(found['data_digest'])}; {least:,} to {most:,} in a shard, "
            f"{doctor.config.batch_size} in a batch"
        )
        d = found["dimension"]
        yield f"  model {doctor.config.model}: {d:,} parameters, {_size(4 * d)} a vector"
    if found["disk_free_bytes"] is not None:
        each = found["checkpoint_bytes"]
        needed = f"; a checkpoint takes {_size(each)}" if each is not None else ""
        yield f"  disk: {_size(found['disk_free_bytes'])} free in {found['folder']}{needed}"


def _server_line(server: ServerCheck) -> str:
    nodes = ", ".join(str(node.node) for node in server.nodes[:10]) or "none"
    nodes += ", ..." * (len(server.nodes) > 10)
    if server.most_asked is not None:
        nodes = f"of all, {server.most_asked} in a round at most"
    outcome = "ok" if server.error is None else f"FAIL ({server.error.code})"
    parts = [f"{server.name}: {outcome}; nodes {nodes}"]
    if server.round_trip is not None:
        parts.append(f"round trip {1000 * server.round_trip:.2g} ms")
    if server.bandwidth is not None:
        parts.append(f"{_size(server.bandwidth)}/s to it")
    if server.gradient is not None:
        parts.append(f"a gradient in {1000 * server.gradient:.3g} ms")
    if server.clock_ahead is not None:
        parts.append(f"clock {server.clock_ahead:+.1f} s")
    if server.until is not None:
        parts.append(f"keys good until {server.until:%Y-%m-%d}")
    if (there := server.environment) is not None:
        plugins = list(there.plugins.items())[:10]
        parts.append(f"{there.threads} threads, {there.device}, torch {there.torch}")
        parts.append("plugins " + ", ".join(f"{name} {version}" for name, version in plugins))
    return "; ".join(parts)


def _budget_lines(doctor: Doctor) -> Iterator[str]:
    config = doctor.config
    behind = f", behind {' | '.join(config.pre_aggregator)}" if config.pre_aggregator else ""
    n, f = (number_range(getattr(s, name) for s in doctor.sizes) for name in ("n", "f"))
    yield f"rules for n = {n}{'' if n == str(config.n) else ' participants'}, f = {f}{behind}"
    yield f"  {'rule':<22} {'may be lost':<12} {'f at most':<10} guarantee"
    for line in doctor.budget:
        lost, most = str(line.lost), "-" if line.most_f is None else str(line.most_f)
        why = "yes" if line.unguaranteed is None else f"no: {line.unguaranteed}"
        if line.uncomputable is not None:
            lost, why = "-", f"cannot be computed: {line.uncomputable}"
        yield f"  {line.rule:<22} {lost:<12} {most:<10} {why}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
