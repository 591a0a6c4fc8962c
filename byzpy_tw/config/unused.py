"""Options that have no effect beside others: refused when a run is begun.

An option counts as given where it differs from its default.  Where options come in layers,
a file's and a command line's, the upper layer may take the use from an option of the lower
one: that one is dropped then, so that one file can serve several places.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from attrs import evolve, frozen

from byzpy_tw.config.merge import OPTIONS, UNUSED_AT_LOCATION
from byzpy_tw.config.run import RunConfig
from byzpy_tw.config.validators import flag
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.plugins import Registry, parse


@frozen
class _Useless:
    """An option without use, the options that take it away, and why."""

    option: str
    by: tuple[str, ...]
    why: str


def drop_unused(
    config: RunConfig,
    registry: Registry | None = None,
    beneath: Collection[str] = (),
    chains: Collection[str] | None = None,
) -> RunConfig:
    """`config` of a new run, without the options `beneath` whose use others took away.

    `beneath` are those that come from the lower layer.  `chains` are the rules, where they
    are not the configuration's own; without a `registry` nobody looks at what rules take.
    Raises `ConfigError` for any other option that has no use.
    """
    dropped = {}
    for useless in _useless(config, registry, chains):
        above = any(name not in beneath for name in useless.by)
        if useless.option not in beneath or not above:
            raise ConfigError(f"{flag(useless.option)} has no use {useless.why}: leave it out")
        dropped[useless.option] = OPTIONS[useless.option].default
    return evolve(config, **dropped) if dropped else config


def _useless(
    config: RunConfig, registry: Registry | None, chains: Collection[str] | None
) -> Iterator[_Useless]:
    def given(name: str) -> bool:
        return bool(getattr(config, name) != OPTIONS[name].default)

    for place, options in UNUSED_AT_LOCATION.items():
        if getattr(config, place):
            for name in filter(given, options):
                why = (
                    "with --in-process, where there are no servers"
                    if place == "in_process"
                    else "with --local, whose servers need no keys"
                )
                yield _Useless(name, (place,), why)
    if given("lr_decay") and not config.lr_milestones:
        yield _Useless("lr_decay", ("lr_milestones",), "without --lr-milestones")
    if given("keep_checkpoints") and config.checkpoint_interval == 0:
        why = "with --checkpoint-interval 0, which writes none"
        yield _Useless("keep_checkpoints", ("checkpoint_interval",), why)
    if registry is not None and config.q is not None:
        chosen = (config.pipeline,) if chains is None else chains
        if not any(_takes_q(chain, registry) for chain in chosen):
            why = f"with {', '.join(chosen)[:200]}, which takes no q"
            yield _Useless("q", ("aggregator", "pre_aggregator"), why)


def _takes_q(chain: str, registry: Registry) -> bool:
    *before, last = (parse(text).name for text in chain.split("|"))
    try:
        entries = [registry.entry("pre-aggregator", name) for name in before]
        entries.append(registry.entry("aggregator", last))
    except ByzpyTwError:
        return True  # a name that is wrong is told as such, elsewhere
    return any("q" in entry.parameters for entry in entries)


def unused(config: RunConfig) -> list[str]:
    """Notices of options that are read and, in this run, decide nothing."""
    if config.num_byz == 0 and config.attack not in (OPTIONS["attack"].default, "none"):
        return [f"--attack {config.attack} is not used: --num-byz 0"]
    return []
