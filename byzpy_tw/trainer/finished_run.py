"""The end of a run that has done all its rounds: its attack is checked, and its model saved."""

from __future__ import annotations

from pathlib import Path

from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import AttackFailed, CannotRecord, RunDirectoryError
from byzpy_tw.plugins import Registry
from byzpy_tw.records.final_model import make_final_model
from byzpy_tw.records.saved_model import save_model
from byzpy_tw.records.summary import RunSummary
from byzpy_tw.trainer.preparation import Prepared


def check_attack(config: RunConfig, summary: RunSummary) -> None:
    """Raise `AttackFailed` where the attack has not contributed to any round."""
    failures = summary.counts.attack_failures
    if failures is not None and failures.all_failed:
        raise AttackFailed(
            f"the attack {config.attack!r} failed {failures.calls}, and not one of its "
            f"vectors was aggregated: {failures.first}; the result says nothing about "
            f"{config.pipeline}: mend the attack, or choose another --attack"
        )


def save_final_model(
    config: RunConfig, registry: Registry, prepared: Prepared, run_dir: Path
) -> None:
    """Write the model with the final parameters where ``--save-model`` says.

    Raises `RunDirectoryError`.
    """
    found, root = prepared.evaluator.parameters.cpu(), prepared.data_root
    model, _ = make_final_model(config.spec(), registry, prepared.dataset, found, root)
    try:
        save_model(model, Path(str(config.save_model)))
    except CannotRecord as e:  # but for this, the run is complete
        result = f"byzpy_tw.Result.read({str(run_dir)!r})"
        raise RunDirectoryError(
            f"{e}; the run is finished: {result}.save_model(FILE) saves its model"
        ) from e
