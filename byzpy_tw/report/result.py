"""`Result`: the records of a run as one object, for scripts and notebooks.

A notebook shows it as curves and a table, in HTML that needs no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import define

from byzpy_tw.config.paths import absolute, expand_home
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.config.validators import to_tuple
from byzpy_tw.errors import ByzpyTwError, RunDirectoryError, RunFailed, error_from_code
from byzpy_tw.objects.options import has_objects
from byzpy_tw.records.folder import list_checkpoints, read_run
from byzpy_tw.records.metrics import DEFAULT, KINDS, metrics_in_result
from byzpy_tw.records.summary import curve, metric_curve, summarize
from byzpy_tw.tasks.metric import Metric
from byzpy_tw.text import clean_value

if TYPE_CHECKING:
    from byzpy_tw.objects.run_objects import RunObjects
    from byzpy_tw.plugins import Registry

_NOTEBOOK_STYLE = """
th, td { text-align: left; }
[data-jp-theme-light="true"] &, .vscode-light & { color-scheme: light; }
[data-jp-theme-light="false"] &, .vscode-dark &, [theme="dark"] & { color-scheme: dark; }
"""


@define(eq=False, repr=False, slots=False)
class Result:
    """The result of a run.  `Result.read` makes one of any run's folder.

    ``config`` leaves out the folder, which is ``path``, and can begin another run.  ``history`` has
    one record a round, as in rounds.jsonl: round, loss, seconds, selected and refused nodes,
    metrics where it was evaluated, and more.  ``figures`` is result.json.  ``task_metrics``
    describes the metrics of its task: name, unit, the better direction and the format.
    """

    path: Path
    config: RunConfig
    history: tuple[Mapping[str, Any], ...]
    figures: Mapping[str, Any]
    task_metrics: Sequence[Metric] = DEFAULT
    plugin: Sequence[str] | None = None  # paths of the run's files of code, for `model`
    objects: RunObjects | None = None  # those that it was given, for `model`

    @classmethod
    def read(
        cls,
        path: str | PathLike[str],
        *,
        plugin: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
        **objects: Any,
    ) -> Result:
        """Read the run in `path`, also one that is under way or was killed (status: unfinished).

        `plugin` are the paths of the files of a run with ``--plugin``, whose code `model` and
        `dataset` need: no file is run that only the records name.  `objects` are those that the run
        was given, such as ``model=MyNet``.  Raises `RunDirectoryError` where there is no run, a
        file of it is damaged, or the objects are others.
        """
        path = expand_home(path)
        run = read_run(path, strict=True)
        config = attrs.evolve(run.config, run_dir=None)
        figures = run.result
        if figures is None:
            figures = summarize(config, run.rounds, run.metrics).figures()
            figures = {"status": "unfinished", "error": None, **figures}
        plugin, made = None if plugin is None else to_tuple(plugin), None
        if objects:
            from byzpy_tw.objects.run_objects import RunObjects

            made = RunObjects.of_record(path, config, objects)
        return cls(path, config, tuple(run.rounds), figures, run.metrics, plugin, made)

    @property
    def status(self) -> str:
        """finished, paused, interrupted, diverged, failed, or unfinished (see `read`)."""
        return str(self.figures["status"])

    @property
    def rounds(self) -> int:
        """The number of rounds on record."""
        return len(self.history)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The metrics of the last evaluation by name; None where there was none."""
        found = metrics_in_result(self.figures)
        return {m.name: found.get(m.name, {}).get("final") for m in self.task_metrics}

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Return (rounds run, value) of each evaluation, of the `metric` with this name.

        Raises `ValueError` for a name that the task does not have.
        """
        names = [each.name for each in self.task_metrics]
        if metric not in names:
            raise ValueError(f"this run has no metric {metric!r}, but {', '.join(names)}")
        return metric_curve(self.history, metric)

    @property
    def accuracy(self) -> float | None:
        """The share of the test data that the last evaluation got right."""
        return self.figures.get("final_accuracy")

    @property
    def accuracies(self) -> list[tuple[int, float]]:
        """(rounds run, share of the test data got right), of each evaluation."""
        return metric_curve(self.history, "accuracy")

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(rounds run, mean loss of the honest nodes' batches), where it was finite."""
        return curve(self.history, "loss")

    @property
    def error(self) -> ByzpyTwError | None:
        """The error that ended the run early, as it was raised; None if there is none on record."""
        message, code = self.figures.get("error"), self.figures.get("error_code")
        if message is None:
            return None
        return error_from_code(code, message) if code else RunFailed(message)

    @cached_property
    def parameters(self) -> Any:
        """The final values of all trained parameters: a flat ``(d,)`` tensor.

        They are in the order of ``model.parameters()``, without frozen ones.  They are read from
        the last checkpoint, once, and have the recorded SHA-256.  Raises `RunDirectoryError` where
        no checkpoint has them: with ``checkpoint_interval=0``, and after a run that diverged or
        was killed.
        """
        from byzpy_tw.records import checkpoint
        from byzpy_tw.vectors import sha256_of

        kept = list_checkpoints(self.path)
        if self.rounds not in kept:
            newest = f"no checkpoint after round {max(kept)}" if kept else "no checkpoint"
            if self.status == "finished":
                newest += ": train with --checkpoint-interval 10 (a sweep keeps none without it)"
            raise RunDirectoryError(
                f"{self.path} keeps no parameters of its last round, {self.rounds}: the run is "
                f"{self.status}, and there is {newest}"
            )
        parameters = checkpoint.read(kept[self.rounds]).parameters
        if sha256_of(parameters) != self.figures.get("parameters_sha256"):
            raise RunDirectoryError(
                f"{kept[self.rounds]} has other parameters than the run's records say"
            )
        return parameters

    def dataset(self) -> Any:
        """Read the dataset that the run's trainer used: a `byzpy_tw.datasets.Dataset`.

        ``dataset.inputs(x)`` makes a model's inputs from examples x, such as those of
        ``dataset.test.x``.  Raises `DatasetUnavailable`, and `RunDirectoryError` where the data
        are no longer those of the run.
        """
        data = self._read_dataset()
        self._check_dataset(data)
        return data

    def _check_dataset(self, data: Any) -> None:
        """Raise `RunDirectoryError` where `data` are not those of the run."""
        recorded = read_run(self.path).description.get("data_digest")
        if isinstance(recorded, str) and data.digest() != recorded:
            raise RunDirectoryError(
                f"{self.config.dataset} in {absolute(self.config.data_root)} is not what the run "
                f"was trained on: its SHA-256 is {clean_value(data.digest())}, the run recorded "
                f"{clean_value(recorded)}"
            )

    def model(self) -> Any:
        """Make the model with the final parameters: a `torch.nn.Module` of its own, in eval mode.

        It expects inputs as `dataset` makes them, and raises `TypeError` for bytes.  Reads the
        dataset, for the shape of an input, and for statistics of BatchNorm, which are computed
        as in the run; raises `DatasetUnavailable` beside the errors of `parameters`.
        """
        from byzpy_tw.records.final_model import make_final_model
        from byzpy_tw.report.input_check import check_inputs

        parameters, data = self.parameters, self._read_dataset()
        root = absolute(self.config.data_root)
        spec, registry = self.config.spec(), self.registry()
        model, uses_data = make_final_model(spec, registry, data, parameters, root)
        if uses_data:
            self._check_dataset(data)
        check_inputs(model, data)
        return model.eval()

    def save_model(self, path: str | PathLike[str]) -> None:
        """Write the model to a ``.safetensors`` file, by the names of its ``state_dict()``.

        Plain torch loads it: ``module.load_state_dict(safetensors.torch.load_file(path))``.
        Raises `ConfigError` for a path that cannot be written to, and the errors of `model`.
        """
        from byzpy_tw.records.saved_model import check_can_save, save_model

        check_can_save(absolute(path))
        save_model(self.model(), absolute(path))

    def _read_dataset(self) -> Any:
        from byzpy_tw.workers.data import make_dataset

        root = absolute(self.config.data_root)
        return make_dataset(self.registry(), self.config.dataset, self.config.partition, root)

    def registry(self) -> Registry:
        """Return the names that the run's configuration uses, its files and objects included."""
        from byzpy_tw.plugins.shorthand import registry
        from byzpy_tw.records.run_registry import load_registry

        names = load_registry(registry, {"plugin": self.plugin}, self.path, self.objects)
        if self.objects is None and has_objects(self.config):
            from byzpy_tw.objects.run_objects import RunObjects

            RunObjects().check_recorded(self.path, self.config)  # raises what is missing
        return names

    def plot(self, axes: Any = None) -> Any:
        """Draw metrics and loss on matplotlib's `axes`, new ones by default; needs matplotlib."""
        if axes is None:
            try:
                from matplotlib import pyplot
            except ImportError as e:
                raise ImportError(
                    "plot() needs matplotlib: pip install matplotlib; in a notebook the result "
                    "shows itself without it"
                ) from e
            axes = pyplot.subplots()[1]
        measured = [(metric.words, self.curve(metric.name)) for metric in self.task_metrics]
        for name, points in (*measured, ("loss", self.losses)):
            if points:
                axes.plot(*zip(*points), label=name)
        axes.set_xlabel("rounds")
        axes.set_title(self._title)
        axes.legend()
        return axes

    @property
    def _title(self) -> str:
        config = self.config
        attack = f"{config.num_byz} x {config.attack}" if config.num_byz else "no attack"
        return f"{config.pipeline}, f = {config.f}, against {attack}"

    @property
    def _status(self) -> str:
        return f"{self.status}: {self.rounds} of {self.config.rounds} rounds"

    @property
    def _time(self) -> str:
        started, ended = self.figures.get("started"), self.figures.get("ended")
        return f"{started} to {ended}" if started and ended else ""

    def __repr__(self) -> str:
        found = [(metric, self.metrics[metric.name]) for metric in self.task_metrics]
        reached = "".join(f", {m.words} {m.text(value)}" for m, value in found if value is not None)
        return f"<Result {self._status}{reached}; {self._title}; records in {self.path}>"

    def _repr_html_(self) -> str:
        """Return metrics and loss as curves, and a table, which stays where scripts are removed.

        Styles hold inside the fragment only, and its scripts leave no global names.
        """
        from html import escape
        from secrets import token_hex

        from byzpy_tw.report.curves import run_charts
        from byzpy_tw.report.html import CHART_SCRIPTS, CHART_STYLES, read_assets, script_json
        from byzpy_tw.report.load import begin

        report = begin(self.path.name, self.config.to_dict())
        report.history.metrics = self.task_metrics
        for record in self.history:
            report.add(record)
        charts = script_json(run_charts(report.plain())[: len(self.task_metrics) + 1])
        table = "".join(
            f'<tr><th scope="row">{name}</th><td>{escape(value)}</td></tr>'
            for name, value in self._table().items()
            if value
        )
        name = f"byzpy-tw-{token_hex(6)}"
        style = read_assets(CHART_STYLES).replace(":root", "&") + _NOTEBOOK_STYLE
        return (
            f'<div class="byzpy-tw-result"><style>.byzpy-tw-result {{ {style} }}</style>'
            f'<div class="grid" id="{name}"></div><table>{table}</table>'
            f"<script>(() => {{\n{read_assets(CHART_SCRIPTS)}\n"
            f'const holder = document.getElementById("{name}");\n'
            f"byzpy.drawCharts(holder, {charts});\n"
            "})();</script></div>"
        )

    def _table(self) -> dict[str, str]:
        config, found = self.config, metrics_in_result(self.figures)
        measured = {}
        for metric in self.task_metrics:
            values = [found.get(metric.name, {}).get(kind) for kind in KINDS]
            final, worst, best = ("-" if v is None else metric.text(v) for v in values)
            measured[metric.words] = f"{final} (worst {worst}, best {best})"
        return {
            "status": self._status,
            **measured,
            "rule": self._title,
            "data": f"{config.dataset}, {config.model}, {config.num_honest} honest nodes",
            "error": self.figures.get("error") or "",
            "time": self._time,
            "records": str(self.path),
        }
