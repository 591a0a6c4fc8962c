"""Options without effect beside others: refused when a run is begun.

An option counts as given where it differs from its default.  An option on the command line may
make one of a file useless: that one is dropped, so that one file can serve several locations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from attrs import evolve

from byzpy_tw.config.merge import OPTIONS, UNUSED_AT_LOCATION
from byzpy_tw.config.run import RunConfig
from byzpy_tw.config.validators import flag
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.plugins import Registry, parse


class _Unused(NamedTuple):
    """An option without effect, the options that are the cause, and the reason."""

    option: str
    by: tuple[str, ...]
    why: str


def drop_unused(
    config: RunConfig,
    registry: Registry | None = None,
    beneath: Collection[str] = (),
    chains: Collection[str] | None = None,
) -> RunConfig:
    """`config` of a new run, without the options `beneath` that others made useless.

    `beneath` are the options of a file.  `chains` are the rules, where they are not the
    configuration's own; without a `registry` the rules' parameters are not checked.  Raises
    `ConfigError` for any other option without effect.
    """
    dropped: dict[str, Any] = {}
    for option, by, why in _find_unused(config, registry, chains):
        if option not in beneath or all(name in beneath for name in by):
            raise ConfigError(f"{flag(option)} has no use {why}: leave it out")
        dropped[option] = OPTIONS[option].default
    return evolve(config, **dropped) if dropped else config


def _find_unused(
    config: RunConfig, registry: Registry | None, chains: Collection[str] | None
) -> Iterator[_Unused]:
    def given(name: str) -> bool:
        return bool(getattr(config, name) != OPTIONS[name].default)

    for location, options in UNUSED_AT_LOCATION.items():
        if getattr(config, location):
            why = {
                "in_process": "with --in-process, where there are no servers",
                "local": "with --local, whose servers need no keys",
            }[location]
            yield from (_Unused(name, (location,), why) for name in filter(given, options))
    if given("lr_decay") and not config.lr_milestones:
        yield _Unused("lr_decay", ("lr_milestones",), "without --lr-milestones")
    if given("lr_milestones") and parse(config.lr_schedule).name != "milestones":
        why = f"with --lr-schedule {config.lr_schedule}"
        yield _Unused("lr_milestones", ("lr_schedule",), why)
    if registry is not None:
        yield from _unused_by_optimizer(config, registry, given)
    if given("keep_checkpoints") and config.checkpoint_interval == 0:
        why = "with --checkpoint-interval 0, which writes none"
        yield _Unused("keep_checkpoints", ("checkpoint_interval",), why)
    if registry is not None and config.q is not None:
        chosen = (config.pipeline,) if chains is None else chains
        if not any(_takes_q(chain, registry) for chain in chosen):
            why = f"with {', '.join(chosen)[:200]}, which takes no q"
            yield _Unused("q", ("aggregator", "pre_aggregator"), why)


def _unused_by_optimizer(
    config: RunConfig, registry: Registry, given: Callable[[str], bool]
) -> Iterator[_Unused]:
    name = parse(config.optimizer).name
    try:
        taken = registry.entry("optimizer", name).parameters
    except ByzpyTwError:
        return  # the unknown name is reported when the optimizer is made
    for option in ("momentum", "weight_decay"):
        if given(option) and option not in taken:
            why = f"with --optimizer {config.optimizer}, which takes no {option}"
            yield _Unused(option, ("optimizer",), why)


def _takes_q(chain: str, registry: Registry) -> bool:
    *before, last = (parse(text).name for text in chain.split("|"))
    try:
        entries = [registry.entry("pre-aggregator", name) for name in before]
        entries.append(registry.entry("aggregator", last))
    except ByzpyTwError:
        return True  # the unknown name is reported when the rules are made
    return any("q" in entry.parameters for entry in entries)


def unused_notices(config: RunConfig) -> list[str]:
    """Notices of options that decide nothing in this run."""
    if config.num_byz == 0 and config.attack not in (OPTIONS["attack"].default, "none"):
        return [f"--attack {config.attack} is not used: --num-byz 0"]
    return []
