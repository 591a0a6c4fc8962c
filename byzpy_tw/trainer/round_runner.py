"""The steps of a round in order: vectors, attack, aggregation, optimizer, probation, record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from attrs import define, evolve, field, frozen
from torch import Tensor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from byzpy_tw.algorithms.algorithm import Algorithm, Revealed
from byzpy_tw.algorithms.guarded import GuardedAlgorithm
from byzpy_tw.algorithms.participation import Participants
from byzpy_tw.algorithms.state import State, check_shapes
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.errors import BudgetExceeded, Diverged
from byzpy_tw.events import Incident, NodeOnProbation, NodeReadmitted
from byzpy_tw.kernels.parallel import thread_limit
from byzpy_tw.output.event_text import describe
from byzpy_tw.rounds.evaluator import Evaluator
from byzpy_tw.rounds.probation import Probation
from byzpy_tw.rounds.round import Halt, Proceed, Reason, Round
from byzpy_tw.scheduling import clock
from byzpy_tw.scheduling.threads import defer_to_pool
from byzpy_tw.trainer.cluster import Cluster
from byzpy_tw.trainer.collector import Collector
from byzpy_tw.trainer.reactor import ITrainerReactor
from byzpy_tw.trainer.recorded_events import RecordedEvents
from byzpy_tw.trainer.round_driver import RoundDriver
from byzpy_tw.trainer.server_interface import AttackInput, Server
from byzpy_tw.vectors import sha256_of


@define(eq=False)
class Stopwatch:
    """The seconds of each phase; a phase ends where the next begins."""

    _clock: IReactorTime
    _last: float = field(init=False)
    phases: dict[str, float] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._last = clock.seconds(self._clock)

    def lap(self, phase: str) -> None:
        now = clock.seconds(self._clock)
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self._last
        self._last = now

    def skip(self) -> None:
        """Count the time since the last lap to no phase."""
        self._last = clock.seconds(self._clock)

    @property
    def total(self) -> float:
        return sum(self.phases.values())


@frozen(eq=False)
class GatheredRound:
    """A round whose vectors are there, and how to go on with them."""

    round: Round
    verdict: Proceed
    stopwatch: Stopwatch
    bytes_before: tuple[int, int]  # sent and received until it began
    attack_memory: Mapping[str, Any]  # once the round is done
    costly_failures: frozenset[int]  # nodes whose failure the round has waited for
    told_f: int | None  # the rules' f, as the attack was told, where it was shown anything
    unseen: Sequence[int] = ()  # honest nodes that answered once the attack had been shown others


@frozen(eq=False)
class CompletedRound:
    """A round that was run: its line of rounds.jsonl but for ``parameters_sha256``.

    `digest` fires with that, while the next round is under way.  ``state`` is the run's state
    right after the round, where it was wanted: of a `large` one the run's own tensors, which
    the next `commit` changes.
    """

    record: dict[str, Any]
    digest: Deferred[str]
    state: State | None = None
    events: Sequence[Incident] = ()  # that the round decided, and nobody was told of yet


@frozen(eq=False)
class _Step:
    """The outcome of an aggregation and the step along its vector."""

    norm: float
    selected: tuple[int, ...] | None  # None where the rule does not choose between rows
    byzantine_weight: float | None  # None where it is not known
    state: State | None
    events: list[Incident]


@define(eq=False)
class RoundRunner:
    """Runs one round after another.

    A round changes the run's state in `commit` alone.  Until then it can be given up, and run
    again from the same state.
    """

    config: RunConfig
    cluster: Cluster
    collector: Collector
    evaluator: Evaluator
    algorithm: Algorithm
    recorded_events: RecordedEvents
    _reactor: ITrainerReactor
    _pool: Executor
    _threads: int
    task: str = ""  # of other code, for messages
    _state: State = field(init=False)  # its tensors change in place, from round to round
    probation: Probation = field(factory=Probation, init=False)
    # Rounds that are committed; None while one is, or where that failed half-way.
    rounds_done: int | None = field(default=0, init=False)
    # The entry in result.json about a round that could not be aggregated.
    halt_record: Mapping[str, Any] | None = field(default=None, init=False)
    _next_parameters: Tensor | None = field(default=None, init=False)  # to be sent
    _sent_round: int = field(default=-1, init=False)  # the round whose parameters were sent last
    _readers: int = field(default=0, init=False)  # servers that have not taken them all

    def __attrs_post_init__(self) -> None:
        self._state = self.algorithm.begin(self.evaluator.parameters)

    # -- the state between rounds

    def state(self) -> State:
        """Return the state after the rounds that are done.  Its tensors are the run's own."""
        assert self.rounds_done is not None
        return evolve(self._state, probation=self.probation.to_plain())

    def restore(self, state: State) -> None:
        """Go on from `state`, whose memory is taken over.

        Raises `DamagedCheckpoint` where it is of another run.
        """
        check_shapes(state, self._state)
        self._state = self.algorithm.resume(state)
        self.evaluator.load(self._state.parameters)
        self.probation = Probation.from_plain(state.probation)
        self.rounds_done = state.round

    # -- a round

    async def gather(self, number: int) -> GatheredRound:
        """Collect the vectors of round `number`.

        Changes nothing, and may be cancelled.  Raises `Diverged`, `BudgetExceeded`, and the
        attack's error.
        """
        if self._next_parameters is None:
            self._next_parameters = await defer_to_pool(self._reactor, self._pool, self._request)
        config, watch = self.config, Stopwatch(self._reactor)
        before = self.cluster.tensor_bytes()
        self.cluster.return_nodes()
        asked = await self._participants()
        await self.cluster.place((*asked.nodes, *asked.spare))
        round = Round(
            number, config.num_honest, config.num_byz, asked.f, self.probation.nodes, asked.nodes,
            asked.spare, asked.rows,
            local_steps=config.local_steps is not None,
        )  # fmt: skip
        driver = RoundDriver(
            round, config, self.cluster, self.collector, self._reactor, self._sender(number)
        )
        attack, told_f, computable = self._state.attack, None, self.algorithm.computable
        driver.begin()
        try:
            await driver.collect_honest()
            if not round.diverged:
                await self._receive(round.honest_accepted)
            watch.lap("honest")
            # An attack is shown nothing of a round that has failed already.
            before_attack = round.honest_accepted
            shows = bool(before_attack) or asked.rows is not None
            if round.byzantine_asked and not round.diverged and shows:
                told_f = round.told_f(computable)
                shown = await defer_to_pool(self._reactor, self._pool, self._reveal, round, told_f)
                attack, past = shown.memory, self.algorithm.past_vectors(self._state)
                honest = len(before_attack) if shown.honest is None else shown.honest
                await driver.collect_byzantine(AttackInput(honest, shown.pieces, past))
                await self._receive([n for n in round.usable if n not in set(before_attack)])
            else:
                round.mark_not_asked(_no_attack(round))
        finally:
            driver.end()
        self.collector.expire(round.participants)
        watch.lap("byzantine")
        verdict = round.verdict(computable)
        if isinstance(verdict, Halt):
            self.halt_record = {"round": number, "refused": _refused(round)}
            why = verdict.why
            if self.task and round.honest_not_finite:
                why += f"; or else {self.task} has a loss that is not finite"
            raise (Diverged if verdict.diverged else BudgetExceeded)(why)
        costly = driver.costly_failures()
        unseen = sorted(set(round.honest_accepted).difference(before_attack))
        return GatheredRound(round, verdict, watch, before, attack, costly, told_f, unseen)

    async def commit(self, gathered: GatheredRound, *, keep: bool = False) -> CompletedRound:
        """Aggregate and step.

        The last round must be evaluated by now, and no checkpoint may be reading the run's own
        tensors.  Where a server still reads the sent parameters, the step is taken on a copy.
        Not to be cancelled: its work in the pool would be done all the same.  Raises `Diverged`
        and the rules' errors.
        """
        watch, round, verdict = gathered.stopwatch, gathered.round, gathered.verdict
        watch.skip()
        step = await defer_to_pool(self._reactor, self._pool, self._advance, gathered, keep)
        digest = defer_to_pool(self._reactor, self._pool, sha256_of, self._state.parameters)
        watch.lap("step")
        sent, received = self.cluster.tensor_bytes()
        losses = [self.collector.losses[node] for node in round.honest_accepted]
        record = {
            "round": round.number,
            "seconds": watch.total,
            "phases": dict(watch.phases),
            "loss": math.fsum(losses) / len(losses) if losses else math.nan,
            "aggregate_norm": step.norm,
            "norms": {str(node): norm for node, norm in sorted(self.collector.norms.items())},
            **_outcomes(verdict, step.selected, round),
            "foreseen_f": gathered.told_f,
            "bytes_sent": sent - gathered.bytes_before[0],
            "bytes_received": received - gathered.bytes_before[1],
        }
        if step.byzantine_weight is not None:
            record["byzantine_weight"] = step.byzantine_weight
        if round.n < self.config.n:
            record["participants"] = round.asked
        if round.replacements:
            pairs = round.replacements.items()
            record["replaced"] = [{"node": node, "by": spare} for node, spare in pairs]
        if gathered.unseen:
            record["unseen"] = list(gathered.unseen)
        if events := [*self.recorded_events.take(), *step.events]:
            # Nodes may have moved.
            record["placement"] = {s.name: list(s.nodes) for s in self.cluster.server_states()}
            record["events"] = [describe(event) for event in events]
        return CompletedRound(record, digest, step.state, step.events)

    # -- asking

    def _sender(self, number: int) -> Callable[[Server], None]:
        """Return how to send the parameters; the step leaves them alone until all have read."""
        vector, self._next_parameters = self._next_parameters, None
        assert vector is not None
        self._sent_round, self._readers = number, 0

        def sent(_: Any) -> None:
            if number == self._sent_round:
                self._readers -= 1

        def send(server: Server) -> None:
            self._readers += 1
            server.parameters(number, vector).addCallback(sent)

        return send

    async def _participants(self) -> Participants:
        """Return the nodes of the next round; a plugin's code runs in the pool."""
        if not isinstance(self.algorithm, GuardedAlgorithm):
            return self.algorithm.participants(self._state)
        return await defer_to_pool(
            self._reactor, self._pool, self.algorithm.participants, self._state
        )

    async def _receive(self, nodes: Sequence[int]) -> None:
        """Replace the vectors of `nodes` by their rows, before anyone else sees them."""
        nodes = [node for node in nodes if not self.algorithm.keeps_vector(node)]
        if nodes:
            await defer_to_pool(self._reactor, self._pool, self._replace_vectors, nodes)

    # -- in the pool

    def _request(self) -> Tensor:
        return self.algorithm.request(self._state)

    def _replace_vectors(self, nodes: Sequence[int]) -> None:
        for node in nodes:
            row = self.collector.rows.row(node)
            row.copy_(self.algorithm.receive(self._state, node, row))

    def _reveal(self, round: Round, f: int) -> Revealed:
        """Return the knowledge that travels in this round, the rules' f being `f`."""
        nodes = round.honest_accepted
        rows = self.collector.rows.of(nodes)
        with thread_limit(self._threads):
            return self.algorithm.reveal(self._state, nodes, rows, f)

    def _advance(self, gathered: GatheredRound, keep: bool) -> _Step:
        """Go from the vectors to the next state, in one visit to the pool; `keep` that state."""
        round, verdict = gathered.round, gathered.verdict
        rows = self.collector.rows.of(verdict.nodes)
        with thread_limit(self._threads):
            aggregated = self.algorithm.aggregate(self._state, verdict.nodes, verdict.f, rows)
        gathered.stopwatch.lap("aggregate")
        self.rounds_done = None
        try:
            self._state = self.algorithm.advance(
                self._state, verdict.nodes, rows, aggregated, gathered.attack_memory,
                reuse=True, lent=self._readers > 0,
            )  # fmt: skip
        except Diverged as e:
            raise Diverged(f"round {round.number}: {round.excess_attackers}{e}") from e
        self.evaluator.load(self._state.parameters)
        events = self._update_probation(round, gathered.costly_failures)
        self._next_parameters = self._request()
        self.rounds_done = self._state.round
        state = self.state().snapshot() if keep else None
        found = aggregated  # all of it but the vector
        return _Step(found.norm, found.selected, found.byzantine_weight, state, events)

    def _update_probation(self, round: Round, costly_failures: frozenset[int]) -> list[Incident]:
        """Put nodes on probation and readmit them by their outcome in `round`."""
        answered = [*round.usable, *sorted(round.answered_on_probation)]
        events: list[Incident] = [
            NodeReadmitted(round.number, node)
            for node in sorted(self.probation.record_success(answered))
        ]
        for node, refusal in round.refusals.items():
            if refusal.reason in (Reason.PROBATION, Reason.LOST, Reason.NOT_ASKED):
                continue  # nothing new; not its doing
            why = self.probation.record_failure(node, costly=node in costly_failures)
            if why:
                events.append(NodeOnProbation(round.number, node, why))
        return events


def _outcomes(verdict: Proceed, selected: tuple[int, ...] | None, round: Round) -> dict[str, Any]:
    """Return which nodes were used and which were not, with the reasons."""
    return {
        "f": verdict.f,
        "selected": None if selected is None else list(selected),
        "excluded": [] if selected is None else sorted(set(verdict.nodes) - set(selected)),
        "refused": _refused(round),
    }


def _refused(round: Round) -> list[dict[str, Any]]:
    """Return the refusals of `round` as records have them."""
    return [
        {"node": r.node, "reason": r.reason.value, "detail": r.detail}
        for _, r in sorted(round.refusals.items())
    ]


def _no_attack(round: Round) -> str:
    """Say why the Byzantine nodes of `round` were not asked."""
    if round.diverged:
        return "the honest vectors are not finite"
    return "no honest vector could be shown"
