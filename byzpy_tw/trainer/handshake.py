"""Before a server takes part: it is compared, opened and given its nodes.

Whatever is wrong is one error that says which server, why, and what to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

from byzpy_tw.config.run import RunConfig
from byzpy_tw.errors import BadAddress, MissingPlugin, ServerDiffers, UnknownName
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.registry import OWN_DISTRIBUTION
from byzpy_tw.trainer.server_interface import Notify, Opened, Server, Sink
from byzpy_tw.workers.environment import Environment, differences
from byzpy_tw.workers.spec import NodeSpec

T = TypeVar("T")

# What of a run's configuration servers look up by name.
_LOOKED_UP = ("dataset", "model", "partition", "attack")


async def gather_all(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results in order; the first failure, as itself, once it happens.

    The rest is cancelled.
    """
    started = [Deferred.fromCoroutine(_plain(w)) for w in work]
    try:
        return await gatherResults(started, consumeErrors=True)
    except FirstError as e:
        for other in started:
            other.cancel()
        raise e.subFailure.value from None


async def _plain(work: Awaitable[T]) -> T:
    return await work


def compare(
    name: str,
    config: RunConfig,
    registry: Registry,
    mine: Environment,
    theirs: Environment,
    notify: Notify,
) -> None:
    """Compare what the host called `name` said of itself with this process.

    Raises `ServerDiffers` with ``--strict``; says it otherwise.
    """
    used = {
        registry.entry(kind, parse(getattr(config, kind)).name).distribution for kind in _LOOKED_UP
    }
    for line in differences(mine, theirs, used):
        if config.strict:
            raise ServerDiffers(f"{name} {line}; install the same there, or run without --strict")
        notify(f"warning: {name} {line}: results may differ in their last bits")


def same_server_error(name: str, other: str) -> BadAddress:
    """The error for two addresses under which one server answers."""
    return BadAddress(f"{name} and {other} are one server: name it once")


async def open_run(
    server: Server, run: str, config: RunConfig, registry: Registry, sink: Sink
) -> Opened:
    """Have `server` build the run; what it then has."""
    try:
        return await server.open(run, config.spec(), sink)
    except UnknownName as e:
        raise _missing(server, config, registry, e) from e


def check_opened(
    name: str,
    opened: Opened,
    mine: Opened,
    config: RunConfig,
    *,
    notify: Notify,
    exact: bool,
    local: bool = False,
) -> None:
    """`ServerDiffers` where a host's data or model is not what it must be.

    Where trials differ, `notify` a warning, or raise with ``--strict``.  `exact` demands the bits
    of this process; with `local` data only what does not depend on the data is compared.
    """
    if opened.digest != mine.digest:
        raise ServerDiffers(
            f"{name} holds other data for {config.dataset!r} than the trainer "
            f"(digests {opened.digest[:12]} and {mine.digest[:12]}); give both the same "
            "files, with --data-root on either side"
        )
    if opened.dimension != mine.dimension:
        raise ServerDiffers(
            f"{name}'s {config.model!r} has {opened.dimension} parameters, the "
            f"trainer's {mine.dimension}; install the same version of its plugin"
        )
    if opened.trial is None or mine.trial is None:
        return
    differing = mine.trial.differences(opened.trial, exact=exact, local=local)
    if differing:
        line = (
            f"{name} differs in {' and '.join(differing)}: its copy of the code of "
            f"{config.dataset!r}, {config.partition!r} or {config.model!r} is another one"
        )
        if config.strict:
            raise ServerDiffers(f"{line}; install the same there, or run without --strict")
        notify(f"warning: {line}; results will differ from those of the same run elsewhere")


def same_bits(mine: Environment, theirs: Environment) -> bool:
    """Return whether a server computes to the bits that this process computes trials to."""
    return mine.probe == theirs.probe and theirs.device == "cpu"


async def spawn(
    server: Server,
    nodes: Sequence[NodeSpec],
    config: RunConfig,
    registry: Registry,
    *,
    attack: str = "",
    notify: Notify = lambda line: None,
) -> None:
    """Give `server` its nodes.

    `attack` is the digest that the trial of the run's attack must have there, if it is known:
    where it has another, `notify` a warning, or raise `ServerDiffers` with ``--strict``.
    """
    try:
        told = await server.spawn(nodes)
        if attack and told and set(told) != {attack}:
            line = f"{server.name}'s code of the attack {config.attack!r} is another one"
            if config.strict:
                raise ServerDiffers(f"{line}; install the same there, or run without --strict")
            notify(f"warning: {line}; results will differ from those of the same run elsewhere")
    except UnknownName as e:
        raise _missing(server, config, registry, e) from e


def _missing(
    server: Server, config: RunConfig, registry: Registry, error: UnknownName
) -> Exception:
    """`MissingPlugin` with the distribution to install, where one of ours has the name.

    The advice comes from this process's own metadata, never from the peer.
    """
    text = str(error)
    for kind in _LOOKED_UP:
        name: Any = parse(getattr(config, kind)).name
        entry = registry.entry(kind, name)
        if entry.distribution != OWN_DISTRIBUTION and f"no {kind} is called {name!r}" in text:
            if f"not looked at: {entry.distribution}" in text:
                return MissingPlugin(
                    f"{server.name} lacks the {kind} {name!r}, which comes from "
                    f"{entry.distribution}: start that server without --disable-plugin "
                    f"{entry.distribution}"
                )
            return MissingPlugin(
                f"{server.name} lacks the {kind} {name!r}, which comes from "
                f"{entry.distribution} {entry.version}: on that machine, run "
                f"'pip install {entry.distribution}=={entry.version}' in the server's "
                "environment and restart the server"
            )
    return error
