"""A ``config.json`` of ByzFL 0.0.11 as a study, and what differs between the two programs.

Each of its settings becomes the options of a run, and these become axes again, so that the
combinations that ByzFL drops (more Byzantine nodes than tolerated ones) are no points.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from byzpy_tw.config.merge import OPTIONS, convert_option
from byzpy_tw.config.validators import flag
from byzpy_tw.errors import BadParameter, ConfigError
from byzpy_tw.parameters import quote
from byzpy_tw.sweep import byzfl_fedavg as fedavg
from byzpy_tw.sweep import byzfl_names as names
from byzpy_tw.sweep.byzfl_differences import find_differences
from byzpy_tw.sweep.byzfl_settings import Settings, expand
from byzpy_tw.sweep.default_study import with_location
from byzpy_tw.sweep.factor import factor
from byzpy_tw.sweep.plan import MOST_RUNS
from byzpy_tw.sweep.study import Axis, Selection, Study

# Their section, key and default, and our option of the same meaning.
_SAME = (
    ("benchmark_config", "nb_steps", 1000, "rounds"),
    ("benchmark_config", "device", "cpu", "device"),
    ("model", "learning_rate", 0.1, "lr"),
    ("honest_clients", "momentum", 0.9, "worker_momentum"),
    ("honest_clients", "weight_decay", 1e-4, "weight_decay"),
    ("honest_clients", "batch_size", 32, "batch_size"),
    ("evaluation_and_results", "evaluation_delta", 50, "eval_interval"),
    ("evaluation_and_results", "data_folder", "./data", "data_root"),
)
MODELS = {"cnn_mnist": "cnn-mnist", "fc_mnist": "mlp:hidden=100"}
DATASETS = {"mnist": "mnist", "fashionmnist": "fashion-mnist", "cifar10": "cifar10"}
OPTIMIZERS = {"SGD": "sgd", "Adam": "adam"}
_LOSSES = ("NLLLoss", "CrossEntropyLoss")
_HAS_NO_TWIN = {
    "logreg_mnist": "its sigmoid before NLLLoss makes a loss that no model here has",
    "cnn_cifar": "cnn-cifar here has other layers",
    **dict.fromkeys(
        ("ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152"),
        "its BatchNorm and its layers are not those of resnet18 here",
    ),
    **dict.fromkeys(("emnist", "cifar100", "imagenet"), "this data has no name here"),
}
# The partition of a data distribution, and our name of its parameter.
PARTITIONS = {
    "iid": ("iid", None),
    "gamma_similarity_niid": ("gamma", "gamma"),
    "dirichlet_niid": ("dirichlet", "alpha"),
    "extreme_niid": ("extreme", None),
}
CHOSEN = ("lr", "worker_momentum", "weight_decay")  # by ByzFL's selection


def read_byzfl(table: Any, given: Collection[str] = ()) -> Study:
    """Return the study that the content `table` of a ``config.json`` describes.

    `given` are options that the command line replaces: what ByzFL says about them need not be
    known here.  Raises `ConfigError` with the key, the value and what to do.
    """
    settings = list(expand(table))
    federated = fedavg.uses_fedavg(settings)
    rows: list[dict[str, Any]] = []
    starts: dict[tuple[int, int], None] = {}
    for setting in settings:
        options = _translate(setting, given)
        if options["num_byz"] <= options["f"]:  # ByzFL drops the others
            rows.append({name: value for name, value in options.items() if name not in given})
            starts[_first_seeds(setting)] = None
    if not rows:
        raise ConfigError("benchmark_config: each f is above each tolerated_f; lower one of them")
    options, axes = factor(rows)
    seed_options, seed_axes = _seed_axes(_seeds(starts, settings[0]), given)
    return Study(
        options=with_location({**options, **seed_options}),
        axes=(*axes, *seed_axes),
        selection=_selection(
            axes, options, fedavg.chosen_options(settings) if federated else CHOSEN
        ),
        differences=tuple(find_differences(settings, rows, federated)),
    )


_BENCHMARK, _MODEL = "benchmark_config", "model"


def _value(setting: Settings, section: str, key: str, default: Any = None) -> Any:
    """Return a value, or ByzFL's default where there is none, or null."""
    found = (setting.get(section) or {}).get(key)
    return default if found is None else found


def _translate(setting: Settings, given: Collection[str]) -> dict[str, Any]:
    """Return the options of a run with this setting, without its seeds."""
    federated = _is_federated(setting)
    size = _number(setting, "size_train_set", 0.8)
    if not 0 < size <= 1:
        raise ConfigError(f"{_BENCHMARK}.size_train_set must be above 0 and at most 1, got {size}")
    found = {
        **_model(setting, given),
        **_nodes(setting),
        **_rules(setting, given),
        **dict(_same(setting)),
        "momentum": 0.0,  # of the server's optimizer
        "batches": "epochs:keep",  # as a DataLoader's
        "validation": round(1 - size, 12),
    }
    if federated:
        found |= fedavg.read_fedavg(setting, found["num_honest"], found)
        found = {name: value for name, value in found.items() if name not in fedavg.UNUSED}
    return found


def _same(setting: Settings) -> Iterator[tuple[str, Any]]:
    for section, key, default, option in _SAME:
        value = _value(setting, section, key, default)
        yield option, convert_option(option, value, f"{section}.{key}")
    milestones = _value(setting, _MODEL, "milestones", [])
    if milestones:
        yield "lr_milestones", _convert("lr_milestones", milestones, "model.milestones")
        decay = _value(setting, _MODEL, "learning_rate_decay", 1.0)
        yield "lr_decay", _convert("lr_decay", decay, "model.learning_rate_decay")
    else:
        yield from (("lr_milestones", ()), ("lr_decay", OPTIONS["lr_decay"].default))


def _convert(option: str, value: Any, place: str) -> Any:
    try:
        return convert_option(option, value, place)
    except BadParameter as e:  # in the text of a rule
        raise BadParameter(f"{place}: {e}") from None


def _number(setting: Settings, key: str, default: float) -> float:
    value = _value(setting, _BENCHMARK, key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{_BENCHMARK}.{key} must be a number, got {quote(value)}")
    return value


def _integer(setting: Settings, key: str, default: int, least: int = 0) -> int:
    value = _number(setting, key, default)
    if not isinstance(value, int) or not least <= value < 2**62:
        raise ConfigError(
            f"{_BENCHMARK}.{key} must be a whole number of at least {least}, got {value}"
        )
    return value


def _first_seeds(setting: Settings) -> tuple[int, int]:
    """Return the first seed of a setting's training, and of its data."""
    return _integer(setting, "training_seed", 0), _integer(setting, "data_distribution_seed", 0)


def _seeds(starts: Collection[tuple[int, int]], setting: Settings) -> dict[tuple[int, int], None]:
    """Return the pairs of seeds that count up from `starts`, as many as each setting has.

    Raises `ConfigError` for more than a sweep has runs, before there are any.
    """
    training = _repeated(setting, "nb_training_seeds")
    data = _repeated(setting, "nb_data_distribution_seeds")
    if (count := len(starts) * training * data) > MOST_RUNS:
        raise ConfigError(
            f"{_BENCHMARK}: nb_training_seeds {training} x nb_data_distribution_seeds {data} x "
            f"{len(starts)} of first seeds make {count} seeds; a sweep has at most {MOST_RUNS} runs"
        )
    return dict.fromkeys(
        (first + i, second + more)
        for first, second in starts for more in range(data) for i in range(training)
    )  # fmt: skip


def _seed_axes(
    seeds: Collection[tuple[int, int]], given: Collection[str]
) -> tuple[dict[str, int], list[Axis]]:
    """Return the options and the axes of the pairs `seeds`, of the training and of the data."""
    points = [dict(zip(("seed", "data_seed"), pair, strict=True)) for pair in seeds]
    return factor([{n: value for n, value in point.items() if n not in given} for point in points])


def _repeated(setting: Settings, key: str) -> int:
    count = _integer(setting, key, 1, least=1)
    if count > MOST_RUNS:
        raise ConfigError(f"{_BENCHMARK}.{key} is {count}; a sweep has at most {MOST_RUNS} runs")
    return count


def _nodes(setting: Settings) -> dict[str, int]:
    """Return the numbers of nodes: of honest ones, Byzantine ones, and tolerated ones."""
    f, clients = _integer(setting, "f", 0), _integer(setting, "nb_honest_clients", 10, least=1)
    if _value(setting, _BENCHMARK, "set_honest_clients_as_clients", False):
        if clients <= f:
            raise ConfigError(
                f"{_BENCHMARK}: f = {f} of nb_honest_clients = {clients}, which are all clients "
                "by set_honest_clients_as_clients, leaves no honest one; lower f"
            )
        clients -= f
    return {"num_honest": clients, "num_byz": f, "f": _integer(setting, "tolerated_f", f)}


def _rules(setting: Settings, given: Collection[str]) -> dict[str, Any]:
    """Return the partition, the attack and the rules, but for those that are `given`."""
    read = {
        "partition": lambda: _partition(setting),
        "attack": lambda: _rule(setting, "attack", names.ATTACKS, "NoAttack"),
        "pre_aggregator": lambda: _chain(setting),
        "aggregator": lambda: _rule(setting, "aggregator", names.AGGREGATORS, "Average"),
    }
    return {option: make() for option, make in read.items() if option not in given}


def _rule(setting: Settings, section: str, twins: Mapping[str, names.Twin], default: str) -> str:
    given = setting.get(section)
    return names.translate({"name": default} if given is None else given, twins, section)


def _chain(setting: Settings) -> tuple[str, ...]:
    rules = setting.get("pre_aggregators")
    if rules is None:
        return ()
    if not isinstance(rules, list):
        raise ConfigError(f"pre_aggregators must be a list, got {quote(rules)}")
    return tuple(names.translate(rule, names.PREAGGREGATORS, "pre_aggregators") for rule in rules)


def _partition(setting: Settings) -> str:
    given = _value(setting, _BENCHMARK, "data_distribution", {})
    place, name = f"{_BENCHMARK}.data_distribution", given.get("name") or "iid"
    found, parameter = _look_up(name, PARTITIONS, f"{place}.name")
    if parameter is None:
        return str(found)
    value = given.get("distribution_parameter")
    value = 1.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{place}.distribution_parameter must be a number, got {quote(value)}")
    return f"{found}:{parameter}={names.number_text(value)}"


def _model(setting: Settings, given: Collection[str]) -> dict[str, Any]:
    """Return the model, the data and the optimizer, but for those that are `given`."""
    keys = (
        ("model", "name", "cnn_mnist", MODELS),
        ("dataset", "dataset_name", "mnist", DATASETS),
        ("optimizer", "optimizer_name", "SGD", OPTIMIZERS),
    )
    found = {}
    for option, key, default, known in keys:
        if option not in given:
            name = _value(setting, _MODEL, key, default)
            found[option] = _look_up(name, known, f"model.{key}", flag(option))
    loss = _value(setting, _MODEL, "loss", "NLLLoss")
    if "task" not in given and loss not in _LOSSES:
        raise ConfigError(
            f"model.loss {quote(loss)} cannot be read: write NLLLoss or CrossEntropyLoss, "
            "which are both the cross-entropy for these models, or give --task"
        )
    labels = _value(setting, _MODEL, "nb_labels", 10)
    if "dataset" not in given and labels != 10:
        raise ConfigError(f"model.nb_labels must be 10, as this data has, got {quote(labels)}")
    return found


def _look_up(name: Any, known: Mapping[str, Any], place: str, replace: str = "") -> Any:
    """Return what stands for `name` here; raises `ConfigError` where nothing does."""
    if isinstance(name, str) and name in known:
        return known[name]
    why = _HAS_NO_TWIN.get(name) if isinstance(name, str) else None
    told = f"{place} {quote(name)} has no counterpart here"
    told += f": {why}" if why else names.suggest_nearest(str(name), known)
    cure = f"; give {replace} NAME in its place" if replace else ""
    raise ConfigError(f"{told} (known: {', '.join(known)}){cure}")


def _is_federated(setting: Settings) -> bool:
    """Return whether a setting trains by FedAvg; raises `ConfigError` for no known algorithm."""
    algorithm = _value(setting, _BENCHMARK, "training_algorithm", {})
    place, name = f"{_BENCHMARK}.training_algorithm", algorithm.get("name") or "DSGD"
    if name == fedavg.NAME:
        return True
    if name != "DSGD":
        raise ConfigError(f"{place}.name must be 'DSGD' or 'FedAvg', got {quote(name)}")
    for key in algorithm.get("parameters") or {}:
        raise ConfigError(f"{place}.parameters: {key!r} is of 'FedAvg' alone: leave it out")
    return False


def _selection(
    axes: Collection[Axis], options: Mapping[str, Any], chosen: Collection[str]
) -> Selection | None:
    """Return ByzFL's choice of the options `chosen`, where several are tried on validation data."""
    varying = [name for axis in axes for name in axis.options]
    over = tuple(name for name in chosen if name in varying)
    if not over or not ("validation" in varying or options.get("validation")):
        return None
    return Selection(over, "accuracy", ("attack",) if "attack" in varying else ())
