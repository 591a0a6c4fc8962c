"""A training by ByzFL's own clients and server beside ours, for ``peers.py byzfl --training``.

Both get the same digits, shards, first parameters and numbers, and differ in the order of their
examples: ByzFL's clients go through theirs by a `DataLoader`.  Each line of
`peer_training.jsonl` is a final accuracy on the test data, in percent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from attrs import evolve, frozen
from torch.utils.data import DataLoader, TensorDataset

import byzpy_tw
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.datasets import Dataset
from byzpy_tw.plugins import load
from byzpy_tw.workers.building import make_model
from byzpy_tw.workers.shards import make_shards

RESULTS = Path(__file__).with_name("peer_training.jsonl")
ORDERS = ("draws", "epochs")
# As ByzFL's benchmark has them, but for fewer steps; our model, and theirs of the same layers.
SETTING = RunConfig(
    in_process=True, dataset="mnist5k", partition="iid", num_honest=10, num_byz=0, f=0,
    aggregator="mean", batch_size=25, micro_batch_size=25, lr=0.1, momentum=0.0,
    worker_momentum=0.9, weight_decay=1e-4, eval_interval=0, threads=1, checkpoint_interval=0,
)  # fmt: skip

Row = dict[str, Any]


@frozen
class Model:
    """A model of theirs, and how long ours of the same layers is trained, with which seeds."""

    theirs: str
    rounds: int
    seeds: range


MODELS = {
    "mlp:hidden=100": Model("fc_mnist", 400, range(10)),
}


@frozen
class Training:
    """The training of one model with one seed."""

    model: str
    seed: int

    @property
    def config(self) -> RunConfig:
        rounds = MODELS[self.model].rounds
        return evolve(SETTING, model=self.model, seed=self.seed, rounds=rounds)

    def ours(self, batches: str) -> float:
        """Return our final accuracy with `batches`, in percent."""
        options = {k: v for k, v in self.config.to_dict().items() if v is not None}
        run = byzpy_tw.run(**{**options, "batches": batches, "run_dir": None}, show=None)
        assert run.accuracy is not None
        return 100 * run.accuracy

    def theirs(self) -> float:
        """Return ByzFL's, by the loop of its ``benchmark/train.py``."""
        from byzfl import Client, Server

        config, registry = self.config, load(only=())
        data = registry.make("dataset", config.dataset, root=None)
        shared = {"model_name": MODELS[self.model].theirs, "device": "cpu"}
        steps = {
            "learning_rate": config.lr, "weight_decay": config.weight_decay, "milestones": [],
            "learning_rate_decay": 1.0, "optimizer_name": "SGD",
        }  # fmt: skip
        torch.manual_seed(self.seed)
        clients = [
            Client({
                **shared, "loss_name": "NLLLoss", "LabelFlipping": False, "nb_labels": 10,
                "momentum": config.worker_momentum, "training_dataloader": loader,
                "store_per_client_metrics": False,
            })
            for loader in self._loaders(data)
        ]  # fmt: skip
        tested = TensorDataset(data.inputs(data.test.x), data.test.y)
        server = Server({
            **shared, **steps, "aggregator_info": {"name": "Average", "parameters": {}},
            "pre_agg_list": [], "test_loader": DataLoader(tested, batch_size=100),
        })  # fmt: skip
        first = make_model(config.spec(), registry, data)
        with torch.no_grad():
            for ours, theirs in zip(first.parameters(), server.model.parameters(), strict=True):
                theirs.copy_(ours)
        for _ in range(config.rounds):
            for client in clients:
                client.set_model_state(server.get_dict_parameters())
                client.compute_gradients()
            found = [client.get_flat_gradients_with_momentum() for client in clients]
            server.update_model_with_gradients(found)
        return 100 * server.compute_test_accuracy()

    def _loaders(self, data: Dataset) -> Iterator[DataLoader[Any]]:
        """Yield the loaders of our shards, made as ByzFL's `DataDistributor` makes them."""
        spec = self.config.spec()
        inputs = data.inputs(data.train.x)
        for shard in make_shards(spec, load(only=()), data):
            chosen = torch.from_numpy(shard)
            subset = TensorDataset(inputs[chosen], data.train.y[chosen])
            yield DataLoader(subset, batch_size=spec.batch_size, shuffle=True)


def measure(path: Path = RESULTS) -> None:
    """Add the missing lines to the file `path`."""
    known = {(row["model"], row["seed"], row["order"]) for row in read(path)}
    for model in MODELS:
        for seed in MODELS[model].seeds:
            training = Training(model, seed)
            for order in ("byzfl", *ORDERS):
                if (model, seed, order) not in known:
                    own = order in ORDERS
                    found = training.ours(order) if own else training.theirs()
                    row = {
                        "model": model,
                        "seed": seed,
                        "order": order,
                        "accuracy": round(found, 4),
                    }
                    with path.open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps(row) + "\n")


def read(path: Path = RESULTS) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def table(path: Path = RESULTS) -> str:
    """Return the Markdown table of the lines: means, and paired differences to ByzFL's."""
    lines = [
        "| model | rounds | seeds | ByzFL | `draws` | difference | `epochs` | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = read(path)
    for model in MODELS:
        of = {o: _by_seed(rows, model, o) for o in ("byzfl", *ORDERS)}
        seeds = sorted(set.intersection(*(set(found) for found in of.values())))
        if len(seeds) < 2:
            continue
        cells = [f"`{model}`", str(MODELS[model].rounds), str(len(seeds))]
        cells += [f"{fmean(of['byzfl'][s] for s in seeds):.2f}"]
        for order in ORDERS:
            apart = [of[order][seed] - of["byzfl"][seed] for seed in seeds]
            error = stdev(apart) / math.sqrt(len(apart))
            mean = fmean(of[order][seed] for seed in seeds)
            cells += [f"{mean:.2f}", f"{fmean(apart):+.2f} ± {error:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_seed(rows: list[Row], model: str, order: str) -> dict[int, float]:
    found = (row for row in rows if (row["model"], row["order"]) == (model, order))
    return {row["seed"]: row["accuracy"] for row in found}
