"""A fleet whose hosts the test brings along."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from byzpy_tw.rounds.placement import Placement


@define(eq=False, slots=False)
class StillCluster:
    """Hosts that are there from the first, and stay."""

    members: list[Any] = field(factory=list)
    nodes: int = 1
    events: list[str] = field(factory=list)
    since: dict[int, float] = field(factory=dict)
    given_up: list[Any] = field(factory=list)
    placement: Placement = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.placement = Placement(("here",), self.nodes)
        self.placement.back("here")
        self.placement.fill()

    def worth_waiting_for(self, node: int) -> bool:
        return True

    def hosts(self) -> list[Any]:
        return self.members

    def settle(self) -> None: ...

    def tell(self, line: str) -> None:
        self.events.append(line)

    def bytes(self) -> tuple[int, int]:
        return 0, 0

    def give_up(self, host: Any, why: str) -> None:
        self.given_up.append(host)
