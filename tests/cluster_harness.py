"""A cluster whose servers the test brings along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, field

from byzpy_tw.events import Incident
from byzpy_tw.rounds.placement import Placement


@define(eq=False, slots=False)
class StillCluster:
    """Servers that are there from the first, and stay."""

    slots: list[Any] = field(factory=list)
    nodes: int = 1
    events: list[Incident] = field(factory=list)
    unassigned_since: dict[int, float] = field(factory=dict)
    given_up: list[Any] = field(factory=list)
    placement: Placement = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.placement = Placement(("here",), self.nodes)
        self.placement.add_server("here")
        self.placement.assign_unassigned()

    def worth_waiting_for(self, node: int) -> bool:
        return True

    def servers(self) -> list[Any]:
        return self.slots

    def return_nodes(self) -> None: ...

    async def place(self, nodes: Sequence[int]) -> None: ...

    def ignore_assignments(self) -> None: ...

    def handle(self, event: Incident) -> None:
        self.events.append(event)

    def tensor_bytes(self) -> tuple[int, int]:
        return 0, 0

    def give_up(self, server: Any, why: str) -> None:
        self.given_up.append(server)
