"""A file of experiments of Blades as a study, where it has one gradient of each client a round.

That is ``FEDAVG`` with one batch a round and the learning rate 1 at the clients, which Blades
calls FedSGD.  Each ``grid_search`` is an axis.  Models are named on the command line: those of
Blades are not here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from byzpy_tw.config.merge import OPTIONS, convert_option
from byzpy_tw.errors import ConfigError
from byzpy_tw.parameters import quote
from byzpy_tw.plugins.naming import suggest_nearest
from byzpy_tw.sweep.byzfl_names import check_keys, check_size, number_text
from byzpy_tw.sweep.factor import factor
from byzpy_tw.sweep.plan import MOST_RUNS
from byzpy_tw.sweep.study import Study
from byzpy_tw.text import clip

GRID = "grid_search"
_CONFIG = (
    "random_seed", "dataset_config", "evaluation_interval", "num_remote_workers",
    "num_gpus_per_worker", "num_cpus_per_worker", "num_cpus_for_driver", "num_gpus_for_driver",
    "global_model", "client_config", "server_config", "num_malicious_clients", "adversary_config",
)  # fmt: skip
AGGREGATORS = {
    "Mean": "mean", "Median": "median", "Trimmedmean": "trimmed-mean", "GeoMed": "geometric-median",
    "DnC": "dnc:iterations=5", "Multikrum": "multi-krum", "Centeredclipping": "centered-clipping",
    "Signguard": "sign-guard", "Clippedclustering": "clipped-clustering",
}  # fmt: skip
# Our text of an adversary, with its parameters by their names, our names and their defaults.
ADVERSARIES: Mapping[str, tuple[str, Mapping[str, tuple[str, float]]]] = {
    "ALIEAdversary": ("alie:ddof=1", {}),
    "IPMAdversary": ("ipm", {"scale": ("tau", 1.0)}),
    "LabelFlipAdversary": ("label-flip", {}),
    "MinMaxAdversary": ("min-max", {}),
    "NoiseAdversary": ("gaussian", {"mean": ("mu", 0.1), "std": ("sigma", 0.1)}),
    "SignFlipAdversary": ("sign-flip:of=own", {}),
}
DATASETS = {"MNIST": "mnist", "FashionMNIST": "fashion-mnist", "CIFAR10": "cifar10"}
_DIFFERENCES = (
    (
        "random_seed",
        "seeds global generators",
        "seeds streams: the same distributions, other numbers",
    ),
    ("evaluation", "the mean over the clients' shares of the test data", "all of the test data"),
    ("partitioner_config", "all clients have shards", "honest nodes share all of the data"),
    ("adversary_config", "sees updates of the model", "sees gradients, which have the other sign"),
    ("aggregator", "the parameters that it has in Blades", "the defaults of the rule here"),
    ("GeoMed", "Weiszfeld steps with distances in the 1-norm", "the geometric median"),
)


def read_blades(table: Any, given: Collection[str] = ()) -> Study:
    """Return the study of the content `table` of a file of Blades.

    `given` are options that the command line replaces.  Raises `ConfigError` with the key and
    what to do.
    """
    if not isinstance(table, Mapping) or len(table) != 1:
        raise ConfigError("Blades' file must have one experiment, as NAME: {run: ..., config: ...}")
    key, experiment = next(iter(table.items()))
    name = clip(key) if isinstance(key, str) else quote(key)
    check_size(experiment, name)
    if _count(experiment, name) > MOST_RUNS:
        raise ConfigError(f"its grids make more than {MOST_RUNS} runs: shorten one")
    rows = [dict(_Reader(setting, name, given).options()) for setting in _expand(experiment)]
    options, axes = factor(rows)
    return Study(options=options, axes=tuple(axes), differences=_DIFFERENCES)


def _count(value: Any, name: str) -> int:
    """Return how many combinations `_expand` yields; raises `ConfigError` for an empty grid."""
    if not isinstance(value, Mapping):
        return 1
    if set(value) != {GRID}:
        return prod(_count(inner, name) for inner in value.values())
    if value[GRID] == []:
        raise ConfigError(f"{name}: a {GRID} is empty: give it a value")
    return sum(_count(one, name) for one in _values(value))


def _values(grid: Mapping[str, Any]) -> list[Any]:
    return grid[GRID] if isinstance(grid[GRID], list) else [grid[GRID]]


def _expand(value: Any) -> Iterator[Any]:
    """Yield `value` with each combination of the values of its grids."""
    if not isinstance(value, Mapping):
        yield value
    elif set(value) == {GRID}:
        for one in _values(value):
            yield from _expand(one)
    else:
        for values in product(*(list(_expand(inner)) for inner in value.values())):
            yield dict(zip(value, values, strict=True))


class _Reader:
    """One setting of an experiment, read key by key."""

    def __init__(self, setting: Any, name: str, given: Collection[str]) -> None:
        self._name, self._given = name, given
        self._setting = self._table(setting, name, ("run", "stop", "config"))

    def options(self) -> Iterator[tuple[str, Any]]:
        """Yield the options of a run, but for those that are given."""
        config = self._section(self._setting, "config", _CONFIG)
        if (run := self._setting.get("run")) != "FEDAVG":
            raise ConfigError(f"{self._name}.run must be FEDAVG here, got {quote(run)}")
        self._check_clients(config)
        for option, value in (
            *self._data(config), *self._nodes(config), *self._rules(config), *self._steps(config)
        ):  # fmt: skip
            if option not in self._given:
                yield option, convert_option(option, value, f"{self._name}: {option}")

    def _check_clients(self, config: Mapping[str, Any]) -> None:
        keys = ("lr", "momentum", "num_batch_per_round", "callbacks_config")
        client = self._section(config, "client_config", keys)
        for key, only in (("lr", 1), ("momentum", 0), ("num_batch_per_round", 1)):
            value = client.get(key, None if key == "lr" else only)
            if value != only:
                raise ConfigError(
                    f"{self._name}.config.client_config.{key} must be {only}, got {quote(value)}: "
                    "for local steps write a study with algorithm fedavg:steps=K,lr=..."
                )
        if client.get("callbacks_config") and "clip_norm" not in self._given:
            raise ConfigError(
                f"{self._name}.config.client_config.callbacks_config has no counterpart; for "
                "clipping give --clip-norm in its place"
            )
        if "model" not in self._given:
            raise ConfigError(
                f"{self._name}.config.global_model {quote(config.get('global_model'))} has "
                "no counterpart here: give --model NAME in its place"
            )

    def _data(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        keys = ("type", "num_clients", "num_classes", "train_batch_size", "partitioner_config")
        data = self._section(config, "dataset_config", keys)
        if "dataset" not in self._given:
            yield "dataset", self._known(data.get("type"), DATASETS, "dataset_config.type")
        yield "batch_size", data.get("train_batch_size")
        cut = self._section(data, "partitioner_config", ("type", "alpha", "num_clients"))
        kinds = {"IIDPartitioner": "iid", "DirichletPartitioner": "dirichlet"}
        kind = self._known(cut.get("type"), kinds, "partitioner_config.type")
        alpha = self._number(cut.get("alpha"), "alpha") if kind == "dirichlet" else ""
        yield "partition", f"dirichlet:alpha={alpha}" if alpha else kind

    def _nodes(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        clients = (config.get("dataset_config") or {}).get("num_clients")
        bad = config.get("num_malicious_clients", 0)
        if type(clients) is not int or type(bad) is not int or not 0 <= bad < clients:
            raise ConfigError(
                f"{self._name}.config: num_clients and num_malicious_clients must be whole "
                f"numbers, the latter the smaller, got {quote(clients)} and {quote(bad)}"
            )
        yield from (("num_honest", clients - bad), ("num_byz", bad), ("f", bad))

    def _rules(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        server = self._section(config, "server_config", ("aggregator", "optimizer"))
        if "aggregator" not in self._given:
            rule = server.get("aggregator")
            rule = {"type": rule} if isinstance(rule, str) else rule
            found = self._table(rule, "aggregator", ("type",))
            yield "aggregator", self._known(found.get("type"), AGGREGATORS, "aggregator.type")
        if "attack" not in self._given:
            yield "attack", self._attack(config.get("adversary_config"))

    def _attack(self, adversary: Any) -> str:
        if adversary is None:
            return "none"
        found = self._table(adversary, "adversary_config", ("type", "scale", "mean", "std"))
        text, known = self._known(found.get("type"), ADVERSARIES, "adversary_config.type")
        check_keys(found, ("type", *known), f"adversary_config of {found['type']}")
        pairs = ",".join(
            f"{ours}={self._number(found.get(key, default), key)}"
            for key, (ours, default) in known.items()
        )
        return f"{text}:{pairs}" if pairs else text

    def _steps(self, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        stop = self._section(self._setting, "stop", ("training_iteration",))
        yield "rounds", stop.get("training_iteration")
        for key, option in (("random_seed", "seed"), ("evaluation_interval", "eval_interval")):
            yield option, config.get(key, OPTIONS[option].default)
        server = config.get("server_config") or {}
        optimizer = self._section(server, "optimizer", ("type", "lr", "lr_schedule", "momentum"))
        self._known(optimizer.get("type"), {"SGD": "sgd"}, "optimizer.type")
        yield "momentum", optimizer.get("momentum", 0.0)
        yield from self._schedule(optimizer)

    def _schedule(self, optimizer: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the learning rate; a schedule must be constant but for steps of one factor."""
        points = optimizer.get("lr_schedule")
        if points is None:
            points = [[0, optimizer.get("lr")]]
        try:
            steps = [
                (round, value / before)
                for (last, before), (round, value) in zip(points, points[1:], strict=False)
                if value != before and round == last + 1
            ]
            changes = sum(a[1] != b[1] for a, b in zip(points, points[1:], strict=False))
            factors = {f"{factor:.9g}" for _, factor in steps}
            plain = len(steps) == changes and len(factors) <= 1 and points[0][0] == 0
        except (TypeError, LookupError, ValueError, ArithmeticError):
            plain = False
        if not plain and "lr_schedule" not in self._given:
            raise ConfigError(
                f"{self._name}.config.server_config.optimizer.lr_schedule is not constant but for "
                f"steps by one factor: give --lr-schedule in its place, got {quote(points)}"
            )
        yield "lr", points[0][1] if plain else optimizer.get("lr", OPTIONS["lr"].default)
        steps = steps if plain else []
        yield "lr_milestones", tuple(round for round, _ in steps)
        yield "lr_decay", float(factors.pop()) if steps else OPTIONS["lr_decay"].default

    def _section(self, table: Mapping[str, Any], key: str, known: tuple[str, ...]) -> Any:
        return self._table(table.get(key) or {}, key, known)

    def _table(self, value: Any, place: str, known: tuple[str, ...]) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{place} must be a table, got {quote(value)}")
        check_keys(value, known, place)
        return value

    def _known(self, name: Any, known: Mapping[str, Any], place: str) -> Any:
        """Return what stands for `name`, which may be a class's whole path."""
        word = name.rpartition(".")[2] if isinstance(name, str) else quote(name)
        if word not in known:
            raise ConfigError(
                f"{place} {quote(name)} has no counterpart here"
                f"{suggest_nearest(word, known)} (known: {', '.join(known)})"
            )
        return known[word]

    def _number(self, value: Any, key: str) -> str:
        if type(value) not in (int, float) or not abs(value) < 2**63:
            raise ConfigError(f"{key} must be a number, got {quote(value)}")
        return number_text(value)
