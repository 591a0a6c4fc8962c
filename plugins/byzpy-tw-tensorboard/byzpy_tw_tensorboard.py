"""TensorBoard for the runs of byzpy_tw: curves, phases and who was left out.

1. `run_started` remembers the configuration.
2. The first `round_completed` opens the log, so that a run that is resumed hides what
   it had written of rounds that it runs again.
3. Each round adds its scalars; `run_finished` adds the outcome and closes the log.

Observers are called in a thread of their own for each run.  So the state here is
thread-local, and two runs in one process do not mix.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from byzpy_tw import hookimpl

FOLDER = "BYZPY_TW_TENSORBOARD"  # the environment variable
FLUSH = 5  # seconds; a run is watched while it goes on

_runs = threading.local()  # .config and .log, of this thread's run


def folder_of(config: Mapping[str, Any]) -> Path:
    """The folder of this run's log; the same when it is resumed.

    ``config`` is what ``config.json`` holds.  A folder in `FOLDER`'s, which is
    ``runs/tensorboard`` by default; inside of ``--run-dir`` where one was given.
    """
    options = config["config"]
    if FOLDER not in os.environ and options["run_dir"] is not None:
        return Path(options["run_dir"]) / "tensorboard"
    rule, attack = (options[kind].partition(":")[0] for kind in ("aggregator", "attack"))
    top = Path(os.environ.get(FOLDER) or "runs/tensorboard")
    return top / f"{rule}-{attack}-{config['run'][:8]}"


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a line of ``rounds.jsonl``, by their names in TensorBoard."""
    named = (
        ("loss/train", "loss"),
        ("loss/test", "test_loss"),
        ("accuracy", "accuracy"),
        ("seconds/round", "seconds"),
        ("norm/aggregate", "aggregate_norm"),
        ("bytes/sent", "bytes_sent"),
        ("bytes/received", "bytes_received"),
        ("nodes/budget", "f"),
    )
    for tag, name in named:
        if record.get(name) is not None:  # accuracy is there in some rounds only
            yield tag, record[name]
    for name, value in record.get("metrics", {}).items():
        if name != "accuracy" and value is not None:
            yield f"metrics/{name}", value
    for phase, seconds in record["phases"].items():
        yield f"seconds/{phase}", seconds
    if record["selected"] is not None:  # a rule that chooses between rows
        yield "nodes/selected", len(record["selected"])
    yield "nodes/excluded", len(record["excluded"])
    yield "nodes/refused", len(record["refused"])
    for reason, count in Counter(r["reason"] for r in record["refused"]).items():
        yield f"refused/{reason}", count


def open_log(folder: Path, first: int) -> Any:
    """A writer into `folder`, from round `first` on."""
    # Imported only now: it takes seconds, and most commands load plugins without a run.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first or None, flush_secs=FLUSH)


def settings(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The options as TensorBoard's table of hyperparameters takes them."""
    return {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in config["config"].items()
    }


@hookimpl
def run_started(config: Mapping[str, Any]) -> None:
    _runs.config, _runs.log = config, None


@hookimpl
def round_completed(record: Mapping[str, Any]) -> None:
    if _runs.log is None:
        _runs.log = open_log(folder_of(_runs.config), record["round"])
    for tag, value in scalars(record):
        _runs.log.add_scalar(tag, value, record["round"])


@hookimpl
def run_finished(result: Mapping[str, Any]) -> None:
    log = getattr(_runs, "log", None)  # none where no round was run
    if log is None:
        return
    figures = {
        f"result/{name}": result[name]
        for name in ("final_accuracy", "worst_accuracy", "best_accuracy", "final_loss")
        if result[name] is not None
    }
    for name, values in result.get("metrics", {}).items():
        if name != "accuracy":
            kept = {kind: value for kind, value in values.items() if value is not None}
            figures |= {f"result/{kind}_{name}": value for kind, value in kept.items()}
    # In the run's own folder: by default it would become a run of its own.
    log.add_hparams(settings(_runs.config), figures, run_name=".")
    log.add_text("status", str(result["error"] or result["status"]))
    log.close()
    _runs.log = None
