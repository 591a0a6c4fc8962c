"""One synchronous round, from parameters to parameters."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from attrs import define, evolve, field, frozen
from torch import Tensor
from twisted.internet.defer import Deferred

from byzpy_tw.attacks.knowledge import Knowledge
from byzpy_tw.attacks.tiers import pieces_of
from byzpy_tw.errors import BrokenPlugin, BudgetExceeded, ByzpyTwError, Diverged
from byzpy_tw.kernels.parallel import using
from byzpy_tw.runs.aggregation import Aggregated
from byzpy_tw.runs.config import RunConfig
from byzpy_tw.runs.learner import Learner
from byzpy_tw.runs.round import Halt, Proceed, Round
from byzpy_tw.runs.rules import Rules
from byzpy_tw.seeds import Context
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.hosts import Host
from byzpy_tw.vectors import narrowed
from byzpy_tw.wire.pieces import PAST, PIECES, narrow
from byzpy_tw.wire.threads import in_pool


@define(eq=False)
class Stopwatch:
    """Seconds by phase; a phase ends where the next begins."""

    _clock: Any
    _last: float = field(init=False)
    phases: dict[str, float] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._last = self._clock.seconds()

    def lap(self, phase: str) -> None:
        now = self._clock.seconds()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self._last
        self._last = now

    def skip(self) -> None:
        """What went by since the last lap is nobody's."""
        self._last = self._clock.seconds()

    @property
    def total(self) -> float:
        return sum(self.phases.values())


@frozen(eq=False)
class Ran:
    """A round that was run: its line of rounds.jsonl but for ``parameters_sha256``,
    which `digest` fires with, while the next round is under way.
    """

    record: dict[str, Any]
    digest: Deferred[str]


@define(eq=False)
class Rounds:
    """Runs one round after another over `hosts`."""

    config: RunConfig
    hosts: Sequence[Host]
    collector: Collector
    learner: Learner
    rules: Rules
    _reactor: Any
    _pool: Executor
    _threads: int
    memory: dict[str, Any] = field(factory=dict, init=False)  # the attack's, kept here
    # node -> its momentum, (d,); of honest nodes, with --worker-momentum
    momenta: dict[int, Tensor] = field(factory=dict, init=False)
    # round -> Byzantine node -> what it sent, for attacks that replay it
    history: dict[int, dict[int, Tensor]] = field(factory=dict, init=False)
    _outgoing: Tensor | None = field(default=None, init=False)  # what the hosts are sent next
    _sending: int = field(default=-1, init=False)  # the round whose parameters were sent last
    _reading: int = field(default=0, init=False)  # hosts that have not taken them all

    async def run(
        self, number: int, settled: Callable[[], Awaitable[None]] | None = None
    ) -> Ran:
        """Round `number`.

        `settled` is waited for, off the clock, before the parameters change: by then
        whoever still read those that the last round left, its digest first, is done.
        Raises `Diverged`, `BudgetExceeded`, and what the rules raise.
        """
        if self._outgoing is None:
            self._outgoing = await in_pool(self._reactor, self._pool, self._travelling)
        config, clock = self.config, Stopwatch(self._reactor)
        sent, received = self._bytes()
        round = Round(number, config.num_honest, config.num_byz, config.f)
        self.collector.begin(round)
        honest = range(config.num_honest)
        byzantine = range(config.num_honest, config.n)
        # One timeout covers both phases.  Attackers get the second half of it,
        # so that an honest node that stays silent cannot take their time too.
        timeout = config.round_timeout
        deadline = self._reactor.seconds() + timeout
        first = timeout / 2 if config.num_byz else timeout

        self._send_parameters(number)
        for host in self.hosts:
            if nodes := self._awaited(round, host, honest):
                host.compute(number, nodes).addCallback(
                    lambda failures: self.collector.failed(number, failures)
                )
        await self._until(lambda r: r.honest_complete, honest, first)
        if config.worker_momentum and not round.diverged:
            await in_pool(self._reactor, self._pool, self._apply_momentum, round)
        clock.lap("honest")

        # An attack is shown nothing of a round that has failed already.
        if config.num_byz and not round.diverged and round.honest_accepted:
            shown = await in_pool(self._reactor, self._pool, self._show, round)
            past = self.history.get(number - getattr(self.rules.attack, "age", 0), {})
            h = len(round.honest_accepted)
            for host in self.hosts:
                if nodes := self._awaited(round, host, byzantine):
                    host.attack(number, nodes, h, shown, past).addCallback(
                        lambda failures: self.collector.failed(number, failures)
                    )
            left = max(deadline - self._reactor.seconds(), timeout / 2)
            await self._until(lambda r: r.complete, byzantine, left)
        self.collector.expire(range(config.n))
        clock.lap("byzantine")

        verdict = round.verdict(self.rules.aggregation.computable)
        if isinstance(verdict, Halt):
            raise (Diverged if verdict.diverged else BudgetExceeded)(verdict.why)
        self._remember(round, verdict.nodes)
        if settled is not None:
            await settled()
            clock.skip()
        aggregated = await in_pool(
            self._reactor, self._pool, self._advance, verdict, number, clock
        )
        digest = in_pool(self._reactor, self._pool, self.learner.digest)
        clock.lap("step")
        after = self._bytes()
        record = {
            "round": number,
            "seconds": clock.total,
            "phases": dict(clock.phases),
            "loss": self._loss(round),
            "aggregate_norm": aggregated.norm,
            "norms": {str(node): norm for node, norm in sorted(self.collector.norms.items())},
            **_outcomes(verdict, aggregated, round),
            "bytes_sent": after[0] - sent,
            "bytes_received": after[1] - received,
        }
        return Ran(record, digest)

    # -- asking

    def _send_parameters(self, number: int) -> None:
        """To every host; the coming step leaves that memory alone until all have read it."""
        vector, self._outgoing = self._outgoing, None
        assert vector is not None

        def sent(_: Any, of: int) -> None:
            if of == self._sending:
                self._reading -= 1

        self._sending, self._reading = number, len(self.hosts)
        for host in self.hosts:
            host.parameters(number, vector).addCallback(sent, number)

    def _awaited(self, round: Round, host: Host, nodes: range) -> list[int]:
        return [node for node in self.collector.nodes_on(host, nodes) if round.awaits(node)]

    async def _until(self, enough: Any, nodes: range, seconds: float) -> None:
        """Wait until `enough` holds, or for so long; then `nodes` are late."""
        done: Deferred[None] = self.collector.wait(enough)
        alarm = self._reactor.callLater(seconds, self.collector.expire, nodes)
        try:
            await done
        finally:
            if alarm.active():
                alarm.cancel()

    # -- in the pool

    def _apply_momentum(self, round: Round) -> None:
        """Honest vectors become their nodes' momenta, before anyone else sees them.

        m = beta m + (1 - beta) g, from zero (Karimireddy et al., ICML 2021,
        Algorithm 1).  An absent node's momentum stays as it was.
        """
        beta = self.config.worker_momentum
        for node in round.honest_accepted:
            row = self.collector.matrix[node]
            if node not in self.momenta:
                self.momenta[node] = torch.zeros_like(row)
            self.momenta[node].mul_(beta).add_(row, alpha=1 - beta)
            row.copy_(self.momenta[node])

    def _remember(self, round: Round, nodes: tuple[int, ...]) -> None:
        """Keep what accepted Byzantine nodes sent, as long as it may be replayed."""
        attack = self.rules.attack
        if attack is not None and PAST in pieces_of(attack):
            # What came over the wire goes back as it was.
            rows = {n: self.collector.matrix[n] for n in nodes if n >= round.honest}
            sent = {n: row.to(self._wire, copy=True) for n, row in rows.items()}
            self.history[round.number] = sent
            self.history.pop(round.number - attack.age, None)

    def _show(self, round: Round) -> Mapping[str, Tensor]:
        """The pieces of knowledge that travel in this round."""
        rows = round.honest_accepted
        honest = self.collector.matrix[: round.honest]
        if len(rows) < round.honest:
            honest = honest[list(rows)]
        aggregation = self.rules.aggregation
        f = round.likely_budget(aggregation.computable)
        context = Context(
            seed=self.config.seed,
            round=round.number,
            nodes=rows,
            n=self.config.n,
            f=f,
            byzantine=self.config.num_byz,
            pipeline=aggregation.chain(f),
        )
        try:
            with using(self._threads):
                known = Knowledge.for_attack(
                    self.rules.attack_on(f),
                    honest,
                    context=context,
                    state=self.memory,
                    memory=aggregation.memory,
                )
        except ByzpyTwError:
            raise
        except Exception as e:  # a plugin's code
            raise BrokenPlugin(f"attack {self.config.attack!r}: raised {e!r}") from e
        found = {piece: getattr(known, piece) for piece in PIECES}
        return narrow({p: t for p, t in found.items() if t is not None}, self._wire)

    def _advance(self, verdict: Proceed, number: int, clock: Stopwatch) -> Aggregated:
        """From the vectors to the next parameters, in one visit to the pool."""
        aggregation = self.rules.aggregation
        with using(self._threads):
            aggregated = aggregation(self.collector.matrix, verdict.nodes, verdict.f, number)
        clock.lap("aggregate")
        try:
            self.learner.step(aggregated.vector, number, lent=self._reading > 0)
        except Diverged as e:
            raise Diverged(f"round {number}: {e}") from e
        self._outgoing = self._travelling()
        return evolve(aggregated, vector=None)  # its memory goes now

    def _travelling(self) -> Tensor:
        """The parameters as they travel: their own memory, if they lie there like that."""
        return narrowed(self.learner.parameters.cpu(), self._wire)

    @property
    def _wire(self) -> torch.dtype:
        return getattr(torch, self.config.wire_dtype)

    # -- telling

    def _loss(self, round: Round) -> float:
        """Mean loss of the honest nodes that were accepted."""
        losses = [self.collector.losses[node] for node in round.honest_accepted]
        return math.fsum(losses) / len(losses) if losses else math.nan

    def _bytes(self) -> tuple[int, int]:
        return (
            sum(host.bytes_sent for host in self.hosts),
            sum(host.bytes_received for host in self.hosts),
        )


def _outcomes(verdict: Proceed, aggregated: Aggregated, round: Round) -> dict[str, Any]:
    """Who was used, who was not, and why."""
    selected = aggregated.selected
    excluded = [] if selected is None else sorted(set(verdict.nodes) - set(selected))
    return {
        "f": verdict.f,
        "selected": None if selected is None else list(selected),
        "excluded": excluded,
        "refused": [
            {"node": r.node, "reason": r.reason.value, "detail": r.detail}
            for _, r in sorted(round.refusals.items())
        ],
    }


