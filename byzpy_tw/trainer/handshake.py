"""The comparison of a server with this process, before it takes part in a run.

Each difference is one error that names the server, the cause and the cure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from attrs import frozen
from twisted.internet.defer import Deferred, FirstError, ensureDeferred, gatherResults

from byzpy_tw.config.run_config import RunConfig, added_options
from byzpy_tw.config.validators import flag
from byzpy_tw.errors import (
    BadAddress,
    BadRequest,
    MissingPlugin,
    ServerDiffers,
    ServerUnreachable,
    UnknownName,
)
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.registry import OWN_DISTRIBUTION, Entry
from byzpy_tw.text import clean_value
from byzpy_tw.trainer.server_interface import Notify, RunFingerprint, Server, Sink
from byzpy_tw.workers.environment import Environment, differences
from byzpy_tw.workers.spec import NodeSpec

T = TypeVar("T")
Plugins = Mapping[str, str]  # versions by distribution
_COPY = "copy the trainer's file to that machine, and restart the server with --plugin and its path"


async def gather_all(work: Sequence[Coroutine[Any, Any, T] | Deferred[T]]) -> list[T]:
    """Return all results in order, or raise the first failure and cancel the rest."""
    started = [ensureDeferred(w) for w in work]
    try:
        return await gatherResults(started, consumeErrors=True)
    except FirstError as e:
        for other in started:
            other.cancel()
        raise e.subFailure.value from None


def same_server_error(name: str, other: str) -> BadAddress:
    """Return the error for two addresses under which one server answers."""
    return BadAddress(f"{name} and {other} are one server: name it once")


def same_bits(mine: Environment, theirs: Environment) -> bool:
    """Return whether trials give the same bits on a server (`theirs`) as in this process."""
    return mine.probe == theirs.probe and theirs.device == "cpu"


def _do_without(options: Sequence[str]) -> str:
    """Say how a run does without `options`, which came after 0.1."""
    before, fields = added_options(), attrs.fields_dict(RunConfig)
    changed = [name for name in options if before[name] != fields[name].default]
    given = [f"give {flag(name)} {before[name]}" for name in changed]
    others = [flag(name) for name in options if name not in changed]
    return " and ".join([*given, *([f"leave out {', '.join(others)}"] if others else [])])


def _model_difference(opened: RunFingerprint, mine: RunFingerprint) -> str:
    """Return in which numbers a server's model is not this process's, and the cure; or nothing."""
    if opened.dimension != mine.dimension:
        return (
            f"{opened.dimension} parameters, the trainer's {mine.dimension}; install the same "
            "version of its plugin"
        )
    if opened.trial and mine.trial and mine.trial.has_other_frozen(opened.trial):
        return (
            "other values in its frozen parameters than the trainer's (digests "
            f"{clean_value(opened.trial.frozen)} and {clean_value(mine.trial.frozen)}): give both "
            "the same file of them, or the same version of the model's plugin"
        )
    return ""


@frozen(eq=False)
class Handshake:
    """Compares servers with a run of `config`.

    Differences that only change results raise `ServerDiffers` with ``--strict``, else warn.
    """

    config: RunConfig
    registry: Registry
    warn: Notify

    def _differs(
        self,
        line: str,
        consequence: str = "; results will differ from those of the same run elsewhere",
    ) -> None:
        if self.config.strict:
            raise ServerDiffers(f"{line}; install the same there, or run without --strict")
        self.warn(f"{line}{consequence}")

    def compare(self, name: str, mine: Environment, theirs: Environment) -> None:
        """Compare the environment of the server called `name` with this process's."""
        used = {entry.distribution for _, _, entry in self._entries()}
        files = {file.name for file in self.registry.files} & used
        self._compare_files(name, files, theirs.plugins)
        for line in differences(mine, theirs, used - files):
            self._differs(f"{name} {line}", ": results may differ in their last bits")

    def _compare_files(self, name: str, used: set[str], theirs: Plugins) -> None:
        """Raise an error where the server called `name` has not the same files of ``--plugin``.

        A file is small and changes often: unlike a distribution's, its version must be equal.
        """
        for kind, thing, entry in self._entries():
            there, here = theirs.get(entry.distribution), f"{entry.distribution} {entry.version}"
            if entry.distribution not in used or there == entry.version:
                continue
            if there is None:
                raise self._missing_error(name, kind, thing, entry)
            raise ServerDiffers(
                f"{name} has {entry.distribution} {there}, the trainer {here}, which the run's "
                f"{kind} {thing!r} comes from: {_COPY}"
            )

    def compare_devices(self, name: str, device: str, others: Iterable[str]) -> None:
        """Compare the `device` of the server called `name` with those of `others`, if any."""
        if differing := sorted(set(others) - {device}):
            line = f"{name} computes on {device}, other nodes of the run on {', '.join(differing)}"
            self._differs(line, ": results may differ in their last bits")

    async def open_run(
        self, server: Server, run: str, sink: Sink, plugins: Plugins | None = None
    ) -> RunFingerprint:
        """Have `server`, which has `plugins`, build the run; raises `MissingPlugin` with advice."""
        spec = self.config.spec()
        try:
            return await server.open(run, spec, sink)
        except UnknownName as e:
            kinds = ("dataset", "model", "partition", "task")
            raise self._missing(server, e, kinds, plugins) or e from e
        except BadRequest as e:
            options = {f.metadata["node_field"]: f.name for f in attrs.fields(RunConfig)}
            newer = sorted(options[name] for name in spec.newer_fields())
            if not newer:
                raise
            raise BadRequest(
                f"{e}; a server of byzpy_tw 0.1 knows no {', '.join(map(flag, newer))}: install "
                f"the trainer's version there, or {_do_without(newer)}"
            ) from e

    def check_opened(
        self,
        name: str,
        opened: RunFingerprint,
        mine: RunFingerprint,
        *,
        exact: bool,
        local: bool = False,
    ) -> None:
        """Raise `ServerDiffers` where a server's data or model is not this process's.

        `exact` demands the same bits in its trial; with `local` data only the parts that do not
        depend on the data are compared, and its data with that of the run's begin there.
        """
        config = self.config
        if opened.digest != mine.digest:
            raise self._other_data(
                name, clean_value(opened.digest), clean_value(mine.digest), local
            )
        if why := _model_difference(opened, mine):
            raise ServerDiffers(f"{name}'s {config.model!r} has {why}")
        if opened.trial is None or mine.trial is None:
            return
        differing = mine.trial.differences(
            opened.trial, exact=exact, local=local, precision=config.precision
        )
        if differing:
            line = (
                f"{name} differs in {' and '.join(differing)}: its copy of the code of "
                f"{config.dataset!r}, {config.partition!r} or {config.model!r} is another one"
            )
            self._differs(line)

    def check_kept_aside(self, name: str, opened: RunFingerprint, mine: RunFingerprint) -> None:
        """Warn where a server, on data of its own, trains on what is kept aside in this process."""
        if self.config.validation and opened.digest == mine.digest:
            self.warn(
                f"{name} has the trainer's own files for {self.config.dataset!r}: its nodes train "
                "on the examples that --validation keeps aside, so their metrics are too good"
            )

    def _other_data(self, name: str, there: str, here: str, local: bool) -> ServerDiffers:
        """Return the error for data of the digest `there`, where that of `here` is expected."""
        dataset = self.config.dataset
        if local:
            return ServerDiffers(
                f"{name}: its data for {dataset!r} is not what this run began with there "
                f"(digests {there} now, {here} then); put back the data of then at that site, or "
                "begin another run"
            )
        return ServerDiffers(
            f"{name} holds other data for {dataset!r} than the trainer (digests {there} and "
            f"{here}); give both the same files, with --data-root on either side"
        )

    async def spawn(
        self,
        server: Server,
        nodes: Sequence[NodeSpec],
        attack: str = "",
        plugins: Plugins | None = None,
    ) -> None:
        """Have `nodes` on `server`, which has `plugins`; raises `MissingPlugin` with advice.

        `attack` is the digest that the trial of the run's attack must have there, if known.
        """
        await self._compare_attack(server, server.spawn(nodes), attack, plugins)

    async def register(
        self, server: Server, most: int, attack: str = "", plugins: Plugins | None = None
    ) -> None:
        """Have all nodes of the run on `server`, of which a round asks at most `most`; see `spawn`.

        A server of byzpy_tw 0.1, which spawns each node, hangs up.
        """
        text = self.config.attack if self.config.num_byz else None
        try:
            await self._compare_attack(server, server.register(most, text), attack, plugins)
        except ServerUnreachable as e:
            raise ServerUnreachable(
                f"{e}; where rounds ask {most} of {self.config.n} nodes a server of byzpy_tw 0.1 "
                "hangs up: has it the trainer's version?"
            ) from e

    async def _compare_attack(
        self,
        server: Server,
        answer: Awaitable[Collection[str] | None],
        attack: str,
        plugins: Plugins | None,
    ) -> None:
        """Compare the digests of the trials of attacks that `server` answers with `attack`."""
        try:
            digests = await answer
        except UnknownName as e:
            raise self._missing(server, e, ("attack",), plugins) or e from e
        if attack and digests and set(digests) != {attack}:
            line = f"{server.name}'s code of the attack {self.config.attack!r} is another one"
            self._differs(line)

    def _entries(self) -> Iterator[tuple[str, str, Entry]]:
        for kind in ("dataset", "model", "partition", "attack", "task"):  # looked up by servers
            if text := getattr(self.config, kind):
                name = parse(text).name
                yield kind, name, self.registry.entry(kind, name)

    def _missing(
        self, server: Server, error: UnknownName, kinds: Sequence[str], plugins: Plugins | None
    ) -> MissingPlugin | None:
        """Return the error with advice, from this process's metadata, if a plugin is missing."""
        # The data or the model may name the task.
        tasks = [(e.kind, e.name, e) for e in self.registry.entries() if e.kind == "task"]
        looked_up = [found for found in self._entries() if found[0] in kinds]
        for kind, name, entry in [*self._entries(), *tasks] if error.fields else looked_up:
            if error.fields:
                named = error.fields == {"kind": kind, "name": name}
            else:  # of byzpy_tw 0.1, which does not say which: one that it cannot have
                named = plugins is not None and entry.distribution not in plugins
            if entry.distribution != OWN_DISTRIBUTION and named:
                return self._missing_error(server.name, kind, name, entry)
        return None

    def _missing_error(self, server: str, kind: str, name: str, entry: Entry) -> MissingPlugin:
        what, whole = entry.distribution, f"{entry.distribution} {entry.version}"
        cure = (
            f"on that machine, run 'pip install {what}=={entry.version}' in the server's "
            "environment, or leave out its --disable-plugin, and restart the server"
        )
        if any(file.name == what for file in self.registry.files):
            cure = _COPY
        return MissingPlugin(
            f"{server} lacks the {kind} {name!r}, which comes from {whole}: {cure}"
        )
