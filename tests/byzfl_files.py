"""Files of ByzFL for tests: its own template, and changes of it."""

from __future__ import annotations

import copy
from typing import Any

# What byzfl 0.0.11 writes where there is no config.json.
TEMPLATE: dict[str, Any] = {
    "benchmark_config": {
        "training_algorithm": {"name": "DSGD", "parameters": {}},
        "nb_steps": 800,
        "device": "cuda",
        "training_seed": 0,
        "nb_training_seeds": 3,
        "nb_honest_clients": 10,
        "f": [1, 2, 3, 4],
        "data_distribution_seed": 0,
        "nb_data_distribution_seeds": 1,
        "data_distribution": [
            {
                "name": "gamma_similarity_niid",
                "distribution_parameter": [1.0, 0.66, 0.33, 0.0],
            }
        ],
    },
    "model": {
        "name": "cnn_mnist",
        "dataset_name": "mnist",
        "nb_labels": 10,
        "loss": "NLLLoss",
        "learning_rate": 0.1,
        "learning_rate_decay": 1.0,
        "milestones": [],
    },
    "aggregator": [
        {"name": "GeometricMedian", "parameters": {"nu": 0.1, "T": 3}},
        {"name": "TrMean", "parameters": {}},
    ],
    "pre_aggregators": [
        {"name": "Clipping", "parameters": {}},
        {"name": "NNM", "parameters": {}},
    ],
    "honest_clients": {"momentum": 0.9, "weight_decay": 0.0001, "batch_size": 25},
    "attack": [
        {"name": "SignFlipping", "parameters": {}},
        {"name": "Optimal_InnerProductManipulation", "parameters": {}},
        {"name": "Optimal_ALittleIsEnough", "parameters": {}},
    ],
    "evaluation_and_results": {
        "evaluation_delta": 50,
        "batch_size_evaluation": 128,
        "evaluate_on_test": True,
        "store_per_client_metrics": True,
        "store_models": False,
        "data_folder": "./data",
        "results_directory": "./results",
    },
}
LEFT_OUT = object()


def changed(**changes: Any) -> dict[str, Any]:
    """The template with other values: ``model__name="fc_mnist"``; `LEFT_OUT` removes a key."""
    table = copy.deepcopy(TEMPLATE)
    for path, value in changes.items():
        *sections, key = path.split("__")
        inner = table
        for section in sections:
            inner = inner[section]
        if value is LEFT_OUT:
            del inner[key]
        else:
            inner[key] = value
    return table
