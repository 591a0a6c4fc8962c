"""Options one by one: found by name, converted, merged, and dropped where they have no effect.

An option counts as given where it differs from its default.  An option on the command line may
make one of a file useless: that one is dropped, so that one file can serve several locations.
Any other option without effect is refused when a run is begun.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain
from typing import Any

import attrs

from byzpy_tw.config.run_config import LOCATIONS, RunConfig
from byzpy_tw.config.validators import flag, toml_key
from byzpy_tw.errors import ByzpyTwError, ConfigError
from byzpy_tw.parameters import check_value
from byzpy_tw.plugins import Registry, parse
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.plugins.recorded_object import object_of
from byzpy_tw.text import clip

OPTIONS: Mapping[str, attrs.Attribute[Any]] = {f.name: f for f in attrs.fields(RunConfig)}


# By location: the reason, and the options without effect where the nodes live there.
_UNUSED_AT_LOCATION: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "in_process": (
        "with --in-process, where there are no servers",
        ("keys", "min_servers", "max_nodes_per_server", "heartbeat_timeout", "failover"),
    ),
    "local": ("with --local, whose servers need no keys", ("keys",)),
}
# Options of gradients and their steps, where nodes take local steps.
_OF_GRADIENTS = ("lr", "momentum", "weight_decay", "clip_norm")
# Names of options in other libraries, where none of ours is near.
_OTHER_NAMES = {"epochs": "rounds", "learning_rate": "lr", "scheduler": "lr_schedule"}


def convert_option(name: str, value: Any, spelling: str | None = None) -> Any:
    """`value` as `RunConfig` has it; a `ConfigError` calls it `spelling`, by default its flag."""
    option: Any = OPTIONS[name]
    value = option.converter(value)
    check_value(option.metadata["constraint"], spelling or flag(name), value, ConfigError)
    return value


def find_option(key: str, spell: Callable[[str], str] = toml_key) -> attrs.Attribute[Any]:
    """The option that a user calls `key`; raises `ConfigError` with the nearest one.

    `spell` writes an option's name as the user has to.
    """
    name = key.replace("-", "_")
    if name not in OPTIONS:
        meant = _OTHER_NAMES.get(name)
        near = (
            f"; did you mean {spell(meant)!r}?" if meant
            else suggest_nearest(spell(name), list(map(spell, OPTIONS)))
        )  # fmt: skip
        raise ConfigError(f"there is no option {clip(key)!r}{near}")
    return OPTIONS[name]


def merge_options(given: Mapping[str, Any], beneath: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `given` over `beneath`, without those of `beneath` that `given` makes useless."""
    located = [name for name in LOCATIONS if given.get(name)]
    unused = (_UNUSED_AT_LOCATION.get(location, ("", ()))[1] for location in located)
    dropped = {*(LOCATIONS if located else ()), *chain.from_iterable(unused)}
    # These are of another file.
    dropped |= {f"{name}_sha256" for name in ("init", "weights") if name in given}
    return {**{k: v for k, v in beneath.items() if k not in dropped}, **given}


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
            raise no_use(option, why)
        dropped[option] = OPTIONS[option].default
    return attrs.evolve(config, **dropped) if dropped else config


def no_use(option: str, why: str) -> ConfigError:
    """Return the error about an option without effect."""
    return ConfigError(f"{flag(option)} has no use {why}: leave it out")


def find_unused(config: RunConfig, registry: Registry, chains: Collection[str]) -> dict[str, str]:
    """Return the options that have no effect in `config`, each with the reason.

    ``q`` has one where any of `chains` takes it.
    """
    return {option: why for option, _, why in _find_unused(config, registry, chains)}


def _find_unused(
    config: RunConfig, registry: Registry | None, chains: Collection[str] | None
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield each option without effect, the options that are the cause, and the reason."""

    def given(name: str) -> bool:
        return bool(getattr(config, name) != OPTIONS[name].default)

    for location, (why, options) in _UNUSED_AT_LOCATION.items():
        if getattr(config, location):
            yield from ((name, (location,), why) for name in filter(given, options))
    if given("lr_decay") and not config.lr_milestones:
        yield "lr_decay", ("lr_milestones",), "without --lr-milestones"
    if given("lr_milestones") and parse(config.lr_schedule).name != "milestones":
        yield "lr_milestones", ("lr_schedule",), f"with --lr-schedule {config.lr_schedule}"
    for name in filter(given, ("confidence", "over_sample")):
        if config.participants is None:
            yield name, ("participants",), "without --participants"
    if given("init_sha256") and config.init is None:
        yield "init_sha256", ("init",), "without --init"
    if given("weights_sha256") and config.weights_file is None:
        yield "weights_sha256", ("weights",), f"with --weights {config.weights}, which is no file"
    if given("max_weight") and config.weights == "equal":
        yield "max_weight", ("weights",), "with --weights equal"
    if given("keep_checkpoints") and config.checkpoint_interval == 0:
        why = "with --checkpoint-interval 0, which writes none"
        yield "keep_checkpoints", ("checkpoint_interval",), why
    yield from _find_unused_rates(config, registry, given)
    if registry is not None and config.local_steps is None:
        for name in filter(given, ("momentum", "weight_decay")):
            if not _takes(registry, ("optimizer", config.optimizer), name):
                why = f"with --optimizer {config.optimizer}, which takes no {name}"
                yield name, ("optimizer",), why
    chosen = (config.pipeline,) if chains is None else chains
    if registry is not None and config.q is not None:
        if not any(_takes(registry, stage, "q") for rules in chosen for stage in _stages(rules)):
            why = f"with {', '.join(chosen)[:200]}, which takes no q"
            yield "q", ("aggregator", "pre_aggregator"), why
    if registry is not None and given("root_examples"):
        tried = [str(value) for value in parse(config.attack).parameters.values()]
        stages = [stage for rules in (*chosen, *tried) for stage in _stages(rules)]
        if not any(_may_need_root(registry, stage) for stage in stages):
            why = f"with {', '.join(chosen)[:200]}, which needs no root set"
            yield "root_examples", ("aggregator", "pre_aggregator"), why


def _find_unused_rates(
    config: RunConfig, registry: Registry | None, given: Callable[[str], bool]
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield options of learning that the texts of algorithm and optimizer have in their place."""
    own = object_of(parse(config.optimizer)) is not None  # whose text has no place for lr
    if config.local_steps is not None:
        for name in filter(given, _OF_GRADIENTS[own:]):
            yield name, ("algorithm",), (
                f"with --algorithm {parse(config.algorithm).name}, whose parameters are the nodes' "
                "(lr, momentum, weight_decay, clip); the trainer's are those of --optimizer, by "
                "default sgd:lr=1,momentum=0"
            )  # fmt: skip
    elif registry is not None and given("lr"):
        try:
            rate = registry.learning_rate(config.optimizer)
        except ByzpyTwError:
            return  # it is reported when the optimizer is made
        if rate is not None:
            yield "lr", ("optimizer",), f"with --optimizer {config.optimizer}, which says it"


def _stages(rules: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each rule of a chain."""
    *before, last = rules.split("|")
    return [*(("pre-aggregator", text) for text in before), ("aggregator", last)]


def _may_need_root(registry: Registry, named: tuple[str, str]) -> bool:
    """Return whether a rule needs the root set; True for a plugin's, which says so once made."""
    kind, text = named
    try:
        entry = registry.entry(kind, parse(text).name)
    except ByzpyTwError:
        return False
    needs = (getattr(entry.factory, name, False) for name in ("needs_root", "needs_score"))
    return entry.foreign or any(needs)


def _takes(registry: Registry, named: tuple[str, str], parameter: str) -> bool:
    """Return whether the kind and text of `named` take `parameter`; True for unknown names."""
    kind, text = named
    try:
        return parameter in registry.entry(kind, parse(text).name).parameters
    except ByzpyTwError:
        return True  # the unknown name is reported when the thing is made


def unused_notices(config: RunConfig) -> list[str]:
    """Notices of options that decide nothing in this run."""
    if config.num_byz == 0 and config.attack not in (OPTIONS["attack"].default, "none"):
        return [f"--attack {config.attack} is not used: --num-byz 0"]
    return []
