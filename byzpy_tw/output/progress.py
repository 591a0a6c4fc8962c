"""A run on a terminal: one line that moves, and lines above it for what happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from attrs import define, field
from tqdm import tqdm

from byzpy_tw.config.run import RunConfig
from byzpy_tw.output.text import TextOutput
from byzpy_tw.output.view import Places
from byzpy_tw.workers.spec import NodeSpec

tqdm.monitor_interval = 0  # or it would start a thread, for bars that are not told of

_FORMAT = "{desc} {n_fmt}/{total_fmt} |{bar:16}| {rate_fmt}, {remaining} left{postfix}"


@define(eq=False)
class ProgressBar:
    """Rounds, loss, accuracy, rounds a second, time left, nodes refused or lost.

    What a `TextOutput` would say of evaluations the bar says; a refusal is a line of its
    own the first time that a node is refused for a reason.
    """

    _file: IO[str]
    _screen: TextOutput = field(init=False)
    _bar: Any = field(default=None, init=False)
    _rounds: int = field(default=0, init=False)
    _told: set[tuple[int, str]] = field(factory=set, init=False)
    _accuracy: float | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._screen = TextOutput(self._write)

    def _write(self, line: str) -> None:
        """A line above the bar."""
        with suppress(OSError, ValueError):  # nobody reads it any more: no reason to end a run
            tqdm.write(line, file=self._file)
            self._file.flush()

    def say(self, line: str) -> None:
        self._screen.say(line)

    def notice(self, line: str) -> None:
        self._screen.notice(line)

    def event(self, line: str) -> None:
        self._screen.event(line)

    def tell(self, line: str) -> None:
        self._screen.tell(line)

    def configuration(self, config: RunConfig, directory: str, threads: int) -> None:
        self._rounds = config.rounds
        self._screen.configuration(config, directory, threads)

    def watch(self, servers: Places) -> None:
        pass

    def placement(self, placement: Sequence[tuple[str, Sequence[NodeSpec]]]) -> None:
        self._screen.placement(placement)

    def begun(self, description: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> None:
        for record in records:
            self._count(record)
        with suppress(OSError, ValueError):
            self._bar = tqdm(
                total=self._rounds,
                initial=len(records),
                file=self._file,
                desc="round",
                unit=" rounds",
                position=0,
                dynamic_ncols=True,
                bar_format=_FORMAT,
            )

    def round(self, record: Mapping[str, Any], elapsed: float) -> None:
        new = [r for r in record["refused"] if (r["node"], r["reason"]) not in self._told]
        self._count(record)
        for refused in new:
            self._screen.refusal(record["round"], refused)
        if self._bar is None:
            return
        loss = record["loss"]
        figures = [f"loss {loss:.4g}" if loss is not None else "loss not finite"]
        if self._accuracy is not None:
            figures.append(f"accuracy {self._accuracy:.2%}")
        if out := [r["node"] for r in record["refused"]]:
            more = f" and {len(out) - 3} more" if len(out) > 3 else ""
            figures.append(f"without node {', '.join(map(str, out[:3]))}{more}")
        with suppress(OSError, ValueError):
            self._bar.set_postfix_str(", ".join(figures), refresh=False)
            self._bar.update()

    def _count(self, record: Mapping[str, Any]) -> None:
        self._told.update((r["node"], r["reason"]) for r in record["refused"])
        self._accuracy = record.get("accuracy", self._accuracy)

    def over(self, result: Mapping[str, Any]) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            with suppress(OSError, ValueError):
                bar.close()

    def result(self, result: Mapping[str, Any], directory: str) -> None:
        self._screen.result(result, directory)
