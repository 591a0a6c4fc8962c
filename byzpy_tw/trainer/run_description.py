"""The description of a run, config.json: from its first moment to servers that join it late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field

from byzpy_tw.records.folder import RunDirectory
from byzpy_tw.records.membership import add_server, merge_placement, read_texts
from byzpy_tw.records.resume import ResumePoint
from byzpy_tw.trainer.preparation import Prepared
from byzpy_tw.trainer.server_entry import ServerEntry


@define(eq=False)
class RunDescription:
    """The content of a run's config.json, which is written whenever it changes."""

    _initial: Mapping[str, Any]  # the content from the first moment
    _directory: RunDirectory
    _begun: ResumePoint
    _content: Mapping[str, Any] = field(factory=dict, init=False)  # once begun

    def texts_before(self, entry: str) -> dict[str, str]:
        """Return the `entry` of config.json before this process, by server."""
        return read_texts(self._begun.description, entry)

    def begin(
        self,
        prepared: Prepared,
        servers: Sequence[ServerEntry],
        placement: Mapping[str, Sequence[int]],
        processes: Sequence[Mapping[str, Any]],
    ) -> Mapping[str, Any]:
        """Put on record what the run computes with and where; return the content."""
        devices = {entry.name: entry.device for entry in servers if entry.device}
        digests = {entry.name: entry.data_digest for entry in servers if entry.data_digest}
        description = {
            **self._initial,
            **prepared.describe({**self.texts_before("data_digests"), **digests}),
            "placement": merge_placement(self._begun.description.get("placement"), placement),
            "devices": {**self.texts_before("devices"), **devices},
            "seconds_before": self._begun.seconds,
            "processes": processes,
        }
        self._record(description)
        return description

    def add_server(self, entry: ServerEntry, nodes: Sequence[int]) -> None:
        """Put on record a server that has joined after the start, its data and its nodes."""
        name = entry.display_name or entry.name
        found = add_server(self._content, name, entry.data_digest, entry.device, nodes)
        if found != self._content:
            self._record(found)

    def _record(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._directory.write_config(content)
