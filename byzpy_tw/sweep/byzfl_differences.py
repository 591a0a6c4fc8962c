"""The differences between a benchmark of ByzFL 0.0.11 and the same study here.

Only those that concern the study are told: a key, its meaning in ByzFL, and here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from byzpy_tw.plugins.naming import parse
from byzpy_tw.sweep.byzfl_settings import Settings

Difference = tuple[str, str, str]

_ALWAYS: tuple[Difference, ...] = (
    (
        "training_seed, data_distribution_seed",
        "seed global generators; the latter also draws the first parameters",
        "seed streams of their own; training_seed draws the first parameters: the same "
        "distributions, other numbers",
    ),
    (
        "evaluation_delta",
        "evaluations before step 0, before each multiple of it, and at the end",
        "evaluations after the same numbers of rounds, but none before the first",
    ),
    (
        "a vector that is not finite",
        "is computed with by most rules",
        "is refused, and charged to f",
    ),
)
_BY_NAME: Mapping[tuple[str, str], tuple[str, str]] = {
    ("aggregator", "caf"): (
        "follows one power iteration from a random vector",
        "follows the exact top direction",
    ),
    ("aggregator", "smea"): (
        "compares estimates by one power iteration from a random vector",
        "compares exact eigenvalues",
    ),
    ("attack", "label-flip"): (
        "each Byzantine client sends the mean of the honest clients' gradients on flipped labels",
        "each Byzantine node sends its own gradient on flipped labels of a shard of its own",
    ),
    ("attack", "none"): (
        "fails where f > 0",
        "Byzantine nodes send honest gradients of shards of their own",
    ),
    ("partition", "dirichlet"): (
        "may leave a client without data",
        "tops shards up to 64 examples",
    ),
    ("dataset", "fashion-mnist"): (
        "mirrored at random, in training and in tests, and not standardised",
        "as it is, standardised",
    ),
    ("dataset", "cifar10"): (
        "standardised by 0.2023, 0.1994, 0.2010",
        "standardised by the deviations of its pixels, 0.2470, 0.2435, 0.2616",
    ),
}
_FEDAVG: tuple[Difference, ...] = (
    (
        "learning_rate, weight_decay, momentum, milestones with FedAvg",
        "the first two are of the clients' local steps; the others are not used, and the server "
        "takes the aggregate of the clients' parameters as its own",
        "those of the nodes are in --algorithm fedavg:...; the trainer adds the aggregate of "
        "updates, as --optimizer sgd:lr=1 does, and the others are left out",
    ),
    (
        "the vectors of FedAvg",
        "parameters: a rule or an attack that depends on the origin, as clipping or sign-flip, "
        "acts on them",
        "updates, less the parameters that the round began with",
    ),
    (
        "f, tolerated_f with FedAvg",
        "rules take tolerated_f, which is of all clients, for the selected ones, and fail where it "
        "is too large for these",
        "--f is of all nodes; rules take the f of a sample, which covers all rounds with "
        "--confidence 0.99, and is told at the start",
    ),
    (
        "a selection of Byzantine clients alone",
        "fails",
        "makes no step",
    ),
    (
        "a client's batches with FedAvg",
        "go on from the round that last selected it",
        "follow from the round's number: it passes over those of rounds without it",
    ),
)
_FEDAVG_BY_NAME: Mapping[tuple[str, str], tuple[str, str]] = {
    ("attack", "label-flip"): (
        "is refused with FedAvg",
        "each Byzantine node trains on flipped labels of a shard of its own",
    ),
    ("attack", "none"): (
        "fails in a round that selects Byzantine clients",
        "Byzantine nodes send honest updates of shards of their own",
    ),
}
_OPTIMAL = ("opt-alie", "opt-ipm")
_COORDINATEWISE = ("median", "trimmed-mean", "meamed")


def find_differences(
    settings: Sequence[Settings], rows: Collection[Mapping[str, Any]], federated: bool = False
) -> Iterator[Difference]:
    """Yield the differences of a study of these `settings`, which make the options `rows`.

    `federated` says that they train by FedAvg.
    """
    yield from _ALWAYS
    yield from _FEDAVG if federated else ()
    used = {
        (option, parse(text).name): None
        for row in rows
        for option in ("dataset", "partition", "aggregator", "attack")
        if (text := row.get(option)) is not None and (option != "attack" or row.get("num_byz"))
    }
    for (option, name), told in {**_BY_NAME, **(_FEDAVG_BY_NAME if federated else {})}.items():
        if (option, name) in used:
            yield f"{option} {name}", *told
    attacked = any(("attack", name) in used for name in _OPTIMAL)
    if attacked and any(("aggregator", name) in used for name in _COORDINATEWISE):
        yield (
            "attack opt-alie, opt-ipm",
            "tries each strength on all coordinates",
            "tries it on a sample where a coordinate-wise rule has more than 65,536 (--search "
            "exact: on all)",
        )
    yield from _evaluation(settings[0].get("evaluation_and_results") or {})
    if any(row.get("validation") for row in rows):
        yield (
            "size_train_set",
            "hyper-parameters are chosen by the best step on validation data, and heat maps show "
            "the best step on test data",
            "hyper-parameters are chosen by the final value on validation data; final, worst and "
            "best are apart",
        )


def _evaluation(section: Settings) -> Iterator[Difference]:
    if section.get("evaluate_on_test") is False:
        yield "evaluate_on_test", "false: the test data is not used", "it is evaluated"
    if section.get("store_per_client_metrics", True):
        yield (
            "store_per_client_metrics",
            "each client's losses and accuracies on its batches",
            "the honest nodes' mean loss",
        )
    if section.get("store_models"):
        yield "store_models", "a model at each evaluation", "checkpoints: --checkpoint-interval"
    folder = section.get("results_directory") or "./results"
    yield (
        "results_directory",
        f"{folder} has the results",
        f"--out has them; --export-byzfl {folder} writes ByzFL's files",
    )
