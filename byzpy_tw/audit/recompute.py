"""A recorded round, computed again, and its differences from the record in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from attrs import define, evolve, frozen
from torch import Tensor

from byzpy_tw.algorithms.aggregation import Aggregated
from byzpy_tw.algorithms.participation import Participants
from byzpy_tw.algorithms.sampling import Sampling
from byzpy_tw.algorithms.state import State
from byzpy_tw.audit.replay import RoundReplay
from byzpy_tw.config.run_config import RunConfig
from byzpy_tw.kernels.parallel import thread_limit
from byzpy_tw.records.membership import read_nodes
from byzpy_tw.records.schema import ROUND_FIELDS
from byzpy_tw.rounds.round import Reason, Round
from byzpy_tw.rounds.round_rows import RoundRows
from byzpy_tw.text import clean_value
from byzpy_tw.vectors import norm_of, round_to_dtype, sha256_of

CLOSE = 1e-4  # relative; norms that differ by less differ by rounding
_NAMED = 5  # nodes


@frozen(eq=False)
class RecomputedRound:
    """A round computed again: the state after it, its hash, and verified entries of a record."""

    state: State
    digest: str
    entries: Mapping[str, Any]
    budgets: range  # that the rules can have had

    def differing_norms(self, record: Mapping[str, Any]) -> list[tuple[int, float, float]]:
        """Return each node whose vector has another norm, with the recorded and the computed."""
        norms = record.get("norms", {})
        return [
            (int(node), math.nan if norms.get(node) is None else float(norms[node]), here)
            for node, here in self.entries["norms"].items()
            if not _is_recorded(norms.get(node), here)
        ]

    def differing_entries(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Yield the verified entries of `record` that differ from this round's."""
        for name in ("f", "foreseen_f"):
            if (f := record.get(name)) is not None and f not in self.budgets:
                least, most = self.budgets[0], self.budgets[-1]
                possible = f"{least}" if least == most else f"{least} to {most}"
                yield f"{name} {clean_value(f)} on record, {possible} here"
        for name, field in ROUND_FIELDS.items():
            on_record = name in record or name in ("participants", "replaced")  # none: nobody else
            if not field.verified or not on_record or name not in self.entries:
                continue
            here, there = self.entries[name], record.get(name)
            if name == "norms":  # of refused vectors too
                there = {node: record["norms"].get(node) for node in here}
            if not _is_recorded(there, here):
                yield f"{name} {clean_value(there)} on record, {clean_value(here)} here"

    def explain_hash(self, record: Mapping[str, Any], placement: Any) -> str:
        """Return the cause of another hash as far as `record` and the `placement` tell."""
        asked, here = record.get("participants"), self.entries["participants"]
        if asked != here:
            return f"nodes {clean_value(asked)} took part, the algorithm names {clean_value(here)}"
        differing = self.differing_norms(record)
        if not differing:
            if _is_recorded(record.get("aggregate_norm"), self.entries["aggregate_norm"]):
                return "the norms of the vectors and of their aggregate are as recorded"
            return (
                "the norms of the vectors are as recorded, what the rules make of them is not: is "
                "it f or the membership on record, the rules or their version?"
            )
        if all(math.isclose(there, here, rel_tol=CLOSE) for _, there, here in differing):
            return (
                "norms differ by rounding alone: other versions, instructions or devices than then?"
            )
        named = [
            f"node {node}{_server(placement, node)} norm {there:.6g}, here {here:.6g}"
            for node, there, here in differing[:_NAMED]
        ]
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        return (
            f"not what the nodes compute: {'; '.join(named)}{more} (what a server sent in their "
            "place, if it lied, cannot be computed again)"
        )


def _replacements(record: Mapping[str, Any], asked: Participants) -> list[dict[str, int]]:
    """Return the nodes that were absent, by `record`, and those asked in their places."""
    absent = [
        one["node"]
        for one in record["refused"]
        if one["reason"] in {r.value for r in Reason} and Reason(one["reason"]).is_absence
    ]
    told = [pair["node"] for pair in record.get("replaced", ()) if pair["node"] in absent]
    order = dict.fromkeys([*told, *absent])  # of those that are not told, any
    return [{"node": node, "by": spare} for node, spare in zip(order, asked.spare)]


def _budgets(
    config: RunConfig, record: Mapping[str, Any], asked: Participants, replaced: int
) -> range:
    """Return the budgets that the rules can have had: lower ones by the refusals alone.

    That of a sample may have been another one, in a run with less rounds.
    """
    planned, sampling = asked.f, Sampling.of(config)
    if sampling is not None and asked.rows is None:
        planned = min(planned, evolve(sampling, rounds=record["round"] + 1).f)
    charged = max(0, len(record["refused"]) - replaced) if asked.rows is None else 0
    return range(max(0, planned - charged), asked.f + 1)


def _server(placement: Any, node: int) -> str:
    for name, nodes in placement.items() if isinstance(placement, dict) else ():
        if node in (read_nodes(nodes) or ()):
            return f" (at the start on {clean_value(name)})"
    return ""


def _is_recorded(there: Any, here: Any) -> bool:
    """Return whether a record has the value `here`; null stands for one that is not finite."""
    if isinstance(here, float) and not math.isfinite(here):
        here = None
    return bool(there == here)


@define(eq=False)
class RoundRecomputer:
    """Computes rounds of `replay` from their records, on `pool`."""

    replay: RoundReplay
    pool: Executor
    threads: int

    def recompute(self, state: State, record: Mapping[str, Any]) -> RecomputedRound:
        """Compute the round of `record` from the `state` before it.

        Older records lack the f that the attack was told; then each possible f is tried until
        one gives the recorded hash.
        """
        replay, algorithm, config = self.replay, self.replay.algorithm, self.replay.config
        refused = {one["node"] for one in record["refused"]}
        asked = algorithm.participants(state)
        replaced = _replacements(record, asked)
        everyone = sorted([*asked.nodes, *(pair["by"] for pair in replaced)])
        nodes = tuple(node for node in everyone if node not in refused)
        honest = [n for n in nodes if n < config.num_honest]
        rows = RoundRows(torch.zeros(len(nodes), replay.host.dimension))
        rows.begin(nodes)
        shown = [n for n in honest if n not in record.get("unseen", ())]
        norms: dict[int, float] = {}
        losses = []
        for node, gradient in replay.gradients(state, honest):
            sent = round_to_dtype(gradient.vector, algorithm.wire)
            norms[node] = self.pool.submit(norm_of, sent.float()).result()
            losses.append(gradient.loss)
            rows.row(node).copy_(algorithm.receive(state, node, sent.float()))
        owns = {n: replay.own_gradient(state, n) for n in nodes if n >= config.num_honest}

        def finish(f: int | None) -> RecomputedRound:
            with thread_limit(self.threads):
                attack = state.attack
                if f is not None:
                    attack = self._fill_attack_rows(state, shown, owns, rows, norms, f)
                used = rows.of(nodes)
                aggregated = algorithm.aggregate(state, nodes, record["f"], used)
                after = algorithm.advance(state, nodes, used, aggregated, attack)
            entries = self._entries(record, after, {n: norms[n] for n in nodes}, losses, aggregated)
            entries["participants"] = None if len(asked.nodes) == config.n else everyone
            entries["replaced"] = replaced or None
            budgets = _budgets(config, record, asked, len(replaced))
            return RecomputedRound(after, sha256_of(after.parameters), entries, budgets)

        # In the pool torch computes on one thread, but for `thread_limit`.
        candidates = self._candidate_f(record, asked, shown, everyone)
        found = (self.pool.submit(finish, f).result() for f in candidates)
        likely = next(found)
        if likely.digest == record["parameters_sha256"]:
            return likely
        return next((r for r in found if r.digest == record["parameters_sha256"]), likely)

    def _entries(
        self, record: Mapping[str, Any], after: State, norms: Mapping[int, float],
        losses: Sequence[float], aggregated: Aggregated,
    ) -> dict[str, Any]:  # fmt: skip
        chosen = aggregated.selected
        entries: dict[str, Any] = {
            "norms": {str(node): norm for node, norm in norms.items()},
            "aggregate_norm": aggregated.norm,
            "selected": None if chosen is None else list(chosen),
            "excluded": [] if chosen is None else sorted(set(norms) - set(chosen)),
            "byzantine_weight": aggregated.byzantine_weight,
            "loss": math.fsum(losses) / len(losses) if losses else None,
        }
        if "test_loss" in record:
            evaluator = self.replay.evaluator
            evaluator.load(after.parameters)
            evaluator.compute_statistics()
            shares = [evaluator.evaluate(job) for job in range(evaluator.jobs)]
            entries |= evaluator.add_up(shares).entries
        return entries

    def _candidate_f(
        self, record: Mapping[str, Any], asked: Participants, shown: Sequence[int],
        everyone: Sequence[int],
    ) -> list[int | None]:  # fmt: skip
        """Return each f that the attack may have been told, the likely one first."""
        config = self.replay.config
        nothing = not shown and asked.rows is None
        if nothing or all(node < config.num_honest for node in everyone):
            return [None]
        told_f = record.get("foreseen_f")
        # The budget of a sample may have been another one, in a run with less rounds.
        most = asked.f if config.participants is None else config.f
        if type(told_f) is int and 0 <= told_f <= most:
            return [told_f]
        round = Round(
            record["round"], config.num_honest, config.num_byz, asked.f, participants=asked.nodes,
            spare=asked.spare, rows=asked.rows,
        )  # fmt: skip
        for refused in record["refused"]:
            known = refused["node"] < config.num_honest or refused["reason"] == "probation"
            if known and refused["reason"] in {r.value for r in Reason}:
                round.refuse(refused["node"], Reason(refused["reason"]))
        likely = round.told_f(self.replay.algorithm.computable)
        return list(dict.fromkeys([likely, *range(asked.f, -1, -1)]))

    def _fill_attack_rows(
        self, state: State, honest: Sequence[int], owns: Mapping[int, Tensor | None],
        rows: RoundRows, norms: dict[int, float], f: int,
    ) -> Mapping[str, Any]:  # fmt: skip
        """Fill in the rows of Byzantine nodes; return the attack's memory after that."""
        replay = self.replay
        shown = replay.algorithm.reveal(state, honest, rows.of(honest), f)
        count = len(honest) if shown.honest is None else shown.honest
        for node, own in owns.items():
            sent = replay.attack_vector(state, node, count, shown, own).float()
            rows.row(node).copy_(replay.algorithm.receive(state, node, sent))
            norms[node] = norm_of(sent)
        return shown.memory
