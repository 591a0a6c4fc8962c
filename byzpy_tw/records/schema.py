"""The entries of a run's files, each with its type, meaning, CSV columns and metric.

The reader's checks, the CSV, the page's curves, the metrics endpoint, verification and
docs/reference/files.md iterate over these lists.  To record something new, compute it in the
trainer and add its `Field` here.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from byzpy_tw.rounds.round import Reason
from byzpy_tw.text import clean_value, clip

_MOST_SECONDS = 1e12  # of a round; negative too, for a clock may be set back
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGITS = 20  # of an integer; 2**63 has 19

PHASES = ("honest", "byzantine", "aggregate", "step")

# -- JSON as a run's files hold it --------------------------------------------


def decode_json(text: str | bytes) -> Any:
    """Return the value that `text` encodes.

    Raises `ValueError` for text that is no JSON, and for numbers that no run writes:
    infinite ones, and integers of hundreds of digits, which overflow every sum.
    """
    try:
        return json.loads(
            text, parse_int=_parse_int, parse_float=_parse_float, parse_constant=_parse_float
        )
    except RecursionError:
        raise ValueError("it is nested without end") from None


def _parse_int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{clip(text, 40)} is no finite number")
    return value


def is_number(value: Any) -> bool:
    """Return whether `value` is a number that is finite as a float; a boolean is none."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


# -- the state of a node in a round -------------------------------------------

STATES = ("selected", "excluded", "refused", "late", "lost", "probation", "replaced", "not-asked")
SELECTED, EXCLUDED, REFUSED, LATE, LOST, PROBATION, REPLACED, NOT_ASKED = range(len(STATES))
REFUSALS = STATES[REFUSED:REPLACED]


def refusal_state(reason: str) -> int:
    """Return the state of a node that was refused for `reason`, also one of another version."""
    known = (*REFUSALS, STATES[NOT_ASKED])
    return STATES.index(reason) if reason in known else REFUSED


# -- types of values ----------------------------------------------------------


@frozen
class Type:
    """A check of a value from JSON, and words for a good one, as in "that is not a number"."""

    accepts: Callable[[Any, int], bool]  # of a value, and the run's number of nodes
    description: str = ""


def _nullable(type: Type) -> Type:
    return Type(lambda value, n: value is None or type.accepts(value, n), type.description)


def _list_of(item: Type, description: str) -> Type:
    def accepts(value: Any, n: int) -> bool:
        return isinstance(value, list) and all(item.accepts(v, n) for v in value)

    return Type(accepts, description)


def _dict_of(item: Type, description: str) -> Type:
    def accepts(value: Any, n: int) -> bool:
        return isinstance(value, dict) and all(item.accepts(v, n) for v in value.values())

    return Type(accepts, description)


def _dict_with(description: str, **items: Type) -> Type:
    def accepts(value: Any, n: int) -> bool:
        return isinstance(value, dict) and all(
            item.accepts(value.get(name), n) for name, item in items.items()
        )

    return Type(accepts, description)


def _is_option(value: Any, n: int) -> bool:
    items = value if isinstance(value, list) else [value]
    return not any(isinstance(item, (list, dict)) for item in items)


ANY = Type(lambda value, n: True)
COUNT = Type(lambda value, n: type(value) is int and value >= 0, "a count")
BYTES = evolve(COUNT, description="a number of bytes")
NODE = Type(lambda value, n: type(value) is int and 0 <= value < n, "a node")
RULE_F = evolve(NODE, description="an f of a run of {n} nodes")
NODES = _list_of(NODE, "a list of some of the {n} nodes")
NUMBER = Type(lambda value, n: is_number(value), "a number")
FRACTION = Type(lambda value, n: is_number(value) and 0 <= value <= 1, "a share from 0 to 1")
SECONDS = Type(lambda v, n: is_number(v) and abs(v) <= _MOST_SECONDS, "a number of seconds")
DIGEST = Type(lambda v, n: isinstance(v, str) and bool(_DIGEST.fullmatch(v)), "a SHA-256")
TEXT = Type(lambda value, n: isinstance(value, str), "text")
REFUSED_NODES = _list_of(
    _dict_with("", reason=TEXT, node=NODE), "which of the {n} nodes were refused, and why"
)
REPLACEMENTS = _list_of(
    _dict_with("", node=NODE, by=NODE), "which of the {n} nodes were asked in the place of which"
)
# In a file, null stands for a number that was not finite.
NUMBER_OR_NULL, TEXT_OR_NULL = _nullable(NUMBER), _nullable(TEXT)


# -- entries ------------------------------------------------------------------


def _join(nodes: Iterable[int] | None) -> str:
    return " ".join(map(str, sorted(nodes or ())))


def _refusal_cells(refused: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Return the nodes of each state, then those whose gradient or attack failed."""
    by_state: dict[int, list[int]] = {}
    for one in refused:
        by_state.setdefault(refusal_state(one["reason"]), []).append(one["node"])
    failed = [one["node"] for one in refused if one["reason"] == Reason.FAILED.value]
    return [*(_join(by_state.get(s)) for s in range(REFUSED, REPLACED)), _join(failed)]


def _replacement_cells(pairs: Sequence[Mapping[str, Any]] | None) -> Sequence[str]:
    """Return the absent nodes, and those asked in their places, in one order."""
    return [" ".join(str(pair[key]) for pair in pairs or ()) for key in ("node", "by")]


@frozen
class Field:
    """An entry of a file."""

    name: str
    meaning: str  # Markdown, for the reference
    type: Type = ANY
    unit: str = ""
    when: str = ""  # which records have it, where not all do
    required: bool = False  # also in records of the first versions
    plotted: bool = False  # whether a page draws it as a curve
    metric: tuple[str, str] | None = None  # name and help text of a gauge at /metrics
    columns: tuple[str, ...] = ()  # of the CSV; `METRICS` stands for one for each metric
    cells: Callable[[Any], Sequence[Any]] = lambda value: [value]  # for these columns
    verified: bool = False  # whether `verify` computes it again


METRICS = "{metrics}"


def _fields(*fields: Field) -> Mapping[str, Field]:
    return {field.name: field for field in fields}


FILES: Mapping[str, str] = {
    "config.json": "everything that is needed to repeat the run; written at its start",
    "rounds.jsonl": "a line of JSON for each round, written as soon as it is evaluated; the "
    "only file that grows",
    "result.json": "how the run ended; written at its end, however that came",
    "report.html": "the run as a page to look at, in one file; written at its end, and again by "
    "`python -m byzpy_tw report`",
    "init.safetensors": "the initial values of the parameters, where a file gave them (`--init`)",
    "weights.csv": "the nodes' weights, where a file gave them (`--weights FILE`): that file",
    "checkpoint.{rounds}": "the run's state after that many rounds, in eight digits: "
    "parameters, momentum, what rules and attacks remember, probation.  Written whole, then "
    "renamed; begins with its own SHA-256.  Read with `weights_only=True`: it holds numbers "
    "and words, never code",
    "trainer.log": "what happened, a line each: the time in UTC, a sentence, then `event=NAME` "
    "and its fields as `key=value`; tracebacks of plugins that failed",
    "server-{number}.log": "the output of each server that `--local` started",
    ".lock": "locked by the process that writes here, whose number it holds",
}

CONFIG_FIELDS = _fields(
    Field("config", "every option by its name, with `_` for `-`"),
    Field("bits", "SHA-256 of the options that decide bits: runs that agree in it, "
          "in `versions` and in their membership end with the same parameters"),
    Field("run", "the run's name to servers; random, and the same when it is resumed"),
    Field("dimension", "`d`, the length of the parameters"),
    Field("task", "the name of the task"),
    Field("metrics", "the task's metrics, the most important one first: `name`, `unit`, `better` "
          "(`higher` or `lower`) and the `format` of a value; a run without this entry has "
          "`accuracy`.  With `--validation` those of the validation data follow, whose names begin "
          "with `validation_`, and `validation_loss`.  `attack_success_rate` is the last where the "
          "attack poisons data"),
    Field("chance", "the value of each metric for the best answer that ignores its input, on the "
          "test data, where the task tells it: the accuracy of the most frequent class"),
    Field("init", "SHA-256 of the parameters' initial values; only where a file gives them "
          "(`--init`).  Runs that are equal in `bits` are equal if they are in this, too"),
    Field("sampling", "the samples of the rounds, where rounds draw some of the nodes "
          "(`--participants`): `participants` that are asked, up to `over_sample` more in the "
          "place of absent ones, and the budget `f` of a round; but for delayed momentum the "
          "`confidence`, the probability `excess` that some round of the run draws more faulty "
          "nodes than that, of `--f` among all, and whether f is `sufficient` for the confidence",
          _dict_with("a sample", participants=COUNT, over_sample=COUNT, f=COUNT)),
    Field("weights", "the nodes' weights, where these are not equal (`--weights`): `sha256` of all "
          "shares, as little-endian float64, in the nodes' order; the `largest` and the `smallest` "
          "share; and all `shares` of at most 1000 nodes, else null.  In a round they are divided "
          "by the sum of those of its nodes"),
    Field("data_digest", "SHA-256 of the trainer's data"),
    Field("data_digests", "that of each server's data, since it first joined; they differ with "
          "`--partition local` only"),
    Field("trial", "digests of what the trial before round 0 found: `shards`, "
          "`classes` (and shape), `normalisation`, and `gradient` of two examples with its "
          "`loss` and `norms`; of a model that has such also `frozen` (parameters) and `buffers`"),
    Field("versions", "of byzpy_tw, Python, torch, NumPy, the platform and its "
          "instruction set; `probe` is the SHA-256 of a fixed gradient as computed here, "
          "`device` what the trainer aggregates on"),
    Field("plugins", "each distribution that offers plugins, with its version"),
    Field("placement", "which nodes each server was given at the start, or when it joined; a "
          "resumed run keeps those of a server that is away.  Over a thousand that are evenly "
          "spaced are their `first` and `last`, and the `step` between two.  Where rounds ask some "
          "nodes only, these are the nodes that a server is asked for while it is there"),
    Field("devices", "what each server's nodes are computed on, such as `cpu`"),
    Field("seconds_before", "that the processes before the last one took, as far as is known; 0 "
          "in a run that was not resumed", unit="seconds"),
    Field("processes", "the trainer's process that began the run, then each that resumed it: "
          "`started` (UTC), `host`, `user`, its version as `byzpy_tw`, and with `--keys` "
          "`certificate_subject` and `certificate_serial`; the first is empty where an earlier "
          "version began the run"),
)  # fmt: skip

_REASONS = ", ".join(reason.value for reason in Reason if reason is not Reason.NOT_ASKED)

# In the order of the CSV's columns.
ROUND_FIELDS = _fields(
    Field("round", "its number, from 0", columns=("round",)),
    Field("seconds", "that it took, evaluation apart", SECONDS, "seconds", required=True,
          plotted=True, columns=("seconds",)),
    Field("phases", "by phase: `honest` (until the honest vectors were there), `byzantine`, "
          "`aggregate`, `step`", _dict_of(NUMBER_OR_NULL, "seconds by phase"), "seconds",
          required=True, columns=tuple(f"seconds_{phase}" for phase in PHASES),
          cells=lambda phases: [phases.get(phase) for phase in PHASES]),
    Field("loss", "mean loss of the accepted honest nodes, each on its own batch, or its own "
          "mean over the batches of its local steps",
          NUMBER_OR_NULL, plotted=True, verified=True, columns=("loss",),
          metric=("loss", "Mean loss of the honest nodes.")),
    Field("test_loss", "on the test data", NUMBER_OR_NULL, when="in rounds that were evaluated",
          plotted=True, verified=True, columns=("test_loss",),
          metric=("test_loss", "Loss on the test data.")),
    Field("accuracy", "that of `metrics`, from 0 to 1; in this release only", NUMBER_OR_NULL,
          when="in the same rounds, of a task with this metric",
          verified=True),
    Field("metrics", "on the test data, and on the validation data, by name; config.json has their "
          "units",
          _dict_of(NUMBER_OR_NULL, "numbers by metric"), when="in the same rounds",
          verified=True, columns=(METRICS,)),
    Field("f", "the f that the rule was run with", RULE_F, required=True, columns=("f",),
          metric=("budget", "The rule's f in the last round.")),
    Field("aggregate_norm", "norm of the aggregate", NUMBER_OR_NULL, verified=True,
          columns=("aggregate_norm",)),
    Field("bytes_sent", "by the trainer in this round, as tensor frames; 0 in one process",
          BYTES, "bytes", columns=("bytes_sent",)),
    Field("bytes_received", "the same, received", BYTES, "bytes", columns=("bytes_received",)),
    Field("parameters_sha256", "of the parameters after the round's step", DIGEST, required=True,
          columns=("parameters_sha256",)),
    Field("selected", "nodes whose vectors went into the aggregate; null for a rule that does "
          "not choose between rows", _nullable(NODES), required=True, verified=True,
          columns=("selected",), cells=lambda nodes: [_join(nodes)]),
    Field("excluded", "nodes that the rule was given and did not select", NODES, required=True,
          verified=True, columns=("excluded",), cells=lambda nodes: [_join(nodes)]),
    Field("refused", f"nodes that the rule was not given: `node`, `reason` ({_REASONS}; "
          f"{Reason.NOT_ASKED.value} where no honest node was drawn, and in result.json) and "
          "`detail`; all others are the round's membership", REFUSED_NODES, required=True,
          columns=(*REFUSALS, "failed"), cells=_refusal_cells),
    Field("participants", "nodes that were asked, those in the place of others included; all "
          "others took no part", NODES,
          when="where these are not all nodes", verified=True, columns=("participants",),
          cells=lambda nodes: [_join(nodes)]),
    Field("replaced", "with `--over-sample`, each absent `node`, and the one asked in its place, "
          "`by`, in their order; the former is also in `refused`, and not charged to f",
          REPLACEMENTS, when="where there are any", verified=True,
          columns=("replaced", "replaced_by"), cells=_replacement_cells),
    Field("unseen", "of those in the place of others, the honest ones that answered after the "
          "attack had been shown what came before", NODES, when="where there are any"),
    Field("byzantine_weight", "the share, from 0 to 1, of the vectors' weight in the aggregate "
          "that Byzantine nodes had; weights count without their signs", FRACTION,
          when="where the rule makes the aggregate by giving each vector one weight, and there are "
          "Byzantine nodes", verified=True, columns=("byzantine_weight",)),
    Field("norms", "norm of each vector that came whole, by node",
          _dict_of(NUMBER_OR_NULL, "norms by node"), verified=True),
    Field("foreseen_f", "the rule's f that attacks were told, before Byzantine nodes were "
          "asked", _nullable(evolve(COUNT, description="an f"))),
    Field("bits", "the `bits` of the configuration that the round was made with", TEXT),
    Field("options", "the options that decide bits", _dict_of(Type(_is_option), "options"),
          when="in the first record with these `bits`"),
    Field("events", "what happened besides, in words: servers lost and back, nodes moved, "
          "probation", _list_of(TEXT, "a list of words"), when="where something did"),
    Field("placement", "which nodes live on each server, as in config.json; of the nodes that "
          "were asked, where not all were",
          when="where there are `events`"),
)  # fmt: skip

RESULT_FIELDS = _fields(
    Field("status", "finished, paused, interrupted, diverged or failed", TEXT, required=True),
    Field("error", "what ended it early, or null", TEXT_OR_NULL),
    Field("error_code", "the code of that error, or null", TEXT_OR_NULL),
    Field("rounds", "that are on record", verified=True),
    Field("final_accuracy", "that of `metrics`; null where there is none; in this release only",
          NUMBER_OR_NULL, verified=True),
    Field("final_loss", "of the last evaluation, on the test data; null where there was none",
          NUMBER_OR_NULL, verified=True),
    Field("worst_accuracy", "as `final_accuracy`", NUMBER_OR_NULL, verified=True),
    Field("best_accuracy", "likewise", NUMBER_OR_NULL, verified=True),
    Field("metrics", "for each metric `final`, of the last evaluation; `worst`, over the last "
          "fifth of the evaluations, for the best alone would flatter a run that collapsed; and "
          "`best`, over all of them; null where there was none",
          _dict_of(_dict_with("", final=NUMBER_OR_NULL, worst=NUMBER_OR_NULL,
                              best=NUMBER_OR_NULL), "values by metric"), verified=True),
    Field("byzantine_weight", "mean of the rounds' `byzantine_weight`; null where none has it",
          _nullable(FRACTION), verified=True),
    Field("exceeded", "the number of rounds whose rule was given vectors of more Byzantine nodes "
          "than its f; null where all nodes took part in each round", _nullable(COUNT),
          verified=True),
    Field("refused", "for each node that was refused: how often, by reason", verified=True),
    Field("asked", "for each node that was refused: in how many rounds it took part; null where "
          "all nodes did, in each round", verified=True),
    Field("attack_failures", "null where no attack call failed; else `failed` calls `of` so "
          "many, `probation` more that were not waited for because their nodes had failed "
          "before, and the `first` cause: such a run says nothing about its rules, or less than "
          "it seems to",
          _nullable(_dict_with("a count of failed calls", failed=COUNT, probation=COUNT,
                               of=COUNT, first=TEXT)), verified=True),
    Field("halted", "null, or the round that could not be aggregated: `round`, and `refused` as "
          "in a record; not-asked are Byzantine nodes where no honest vector came that they "
          "could be shown",
          _nullable(_dict_with("a round with its refusals", round=COUNT, refused=REFUSED_NODES))),
    Field("seconds_a_round", "mean of the rounds' `seconds`", unit="seconds"),
    Field("parameters_sha256", "of the final parameters", TEXT_OR_NULL, verified=True),
    Field("started", "when the run was begun, in UTC; null where that is not on record",
          TEXT_OR_NULL),
    Field("ended", "when this was written, in UTC", TEXT_OR_NULL),
    Field("seconds", "from start to end, the sum over all processes of a run that was resumed; "
          "of one that was killed, up to its last checkpoint",
          unit="seconds"),
    Field("bytes_sent", "by the trainer in all, as tensor frames", unit="bytes"),
    Field("bytes_received", "the same, received", unit="bytes"),
)  # fmt: skip

FIELDS: Mapping[str, Mapping[str, Field]] = {
    "config.json": CONFIG_FIELDS,
    "rounds.jsonl": ROUND_FIELDS,
    "result.json": RESULT_FIELDS,
}

PLOTTED = tuple(field.name for field in ROUND_FIELDS.values() if field.plotted)
GAUGES = {field.name: field.metric for field in ROUND_FIELDS.values() if field.metric}


# -- checks -------------------------------------------------------------------


def _find_error(entries: Mapping[str, Any], fields: Mapping[str, Field], n: int) -> str:
    """Return why `entries` are not as `fields` say, in words to follow "it"; empty if they are."""
    for name, field in fields.items():
        if field.required and name not in entries:
            return f"lacks {name}"
        if name in entries and not field.type.accepts(entries[name], n):
            good = field.type.description.format(n=n)
            return f"has {name} {clean_value(entries[name], 40)}: that is not {good}"
    return ""


def parse_record(line: str | bytes, number: int, n: int) -> dict[str, Any]:
    """Return the record of round `number`; `ValueError` says why, as words after "line 3"."""
    try:
        record = decode_json(line)
    except ValueError as e:
        raise ValueError(f"is not JSON: {e}") from e
    own = record.get("round") if isinstance(record, dict) else None
    if type(own) is not int or own != number:
        raise ValueError(f"is not the record of round {number}")
    error = _find_error(record, ROUND_FIELDS, n)
    for name in ("accuracy", "metrics"):
        if not error and name in record and "test_loss" not in record:
            error = f"lacks test_loss, of its {name}"
    error = error or _find_membership_error(record, n)
    if error:
        raise ValueError(error)
    return record


def _find_membership_error(record: Mapping[str, Any], n: int) -> str:
    """Return why a record's participants and refusals contradict each other; empty if not."""
    asked = record.get("participants")
    if asked is not None and (not asked or any(a >= b for a, b in zip(asked, asked[1:]))):
        return f"has participants {clean_value(asked, 40)}: they are some nodes, in order"
    refused = {one["node"] for one in record["refused"]}
    unasked = all(one["reason"] == Reason.NOT_ASKED.value for one in record["refused"])
    if len(refused) == (n if asked is None else len(asked)) and not unasked:
        return "says that all nodes were refused"
    named = refused.union(record["excluded"], record["selected"] or (), record.get("unseen", ()))
    named.update(pair[which] for pair in record.get("replaced", ()) for which in ("node", "by"))
    if asked is not None and not named <= set(asked):
        return f"names node {min(named.difference(asked))}, which was not asked"
    return ""


def find_result_error(result: Mapping[str, Any]) -> str:
    """Return why `result` cannot be a run's result.json; empty where it can."""
    if not isinstance(result.get("status"), str):
        return "does not say how the run ended (status)"
    return _find_error(result, RESULT_FIELDS, sys.maxsize)
