"""The entries of a run's files, each with all that there is to say about it.

The reader's checks, the CSV, the page's curves, the metrics endpoint, verification and
docs/reference/files.md iterate over these lists.  To record something new, compute it in the
trainer and add its `Field` here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from byzpy_tw.records.json_files import decode_json, is_number
from byzpy_tw.rounds.round import Reason
from byzpy_tw.text import clean_value

_MOST_SECONDS = 1e12  # of a round; negative too, for a clock may be set back
_DIGEST = re.compile(r"[0-9a-f]{64}")

PHASES = ("honest", "byzantine", "aggregate", "step")

# -- the state of a node in a round -------------------------------------------

STATES = ("selected", "excluded", "refused", "late", "lost", "probation")
SELECTED, EXCLUDED, REFUSED, LATE, LOST, PROBATION = range(len(STATES))
_STATE_OF_REASON = {"late": LATE, "lost": LOST, "probation": PROBATION}


def refusal_state(reason: str) -> int:
    """Return the state of a node that was refused for `reason`, also one of another version."""
    return _STATE_OF_REASON.get(reason, REFUSED)


# -- types of values ----------------------------------------------------------

Check = Callable[[Any, int], bool]  # of a value from JSON, and the run's number of nodes


@frozen
class Type:
    """A type of values; `description` is of a good one, to follow "that is not"."""

    accepts: Check
    description: str


def _is_number(value: Any, n: int) -> bool:
    return is_number(value)


def _is_count(value: Any, n: int) -> bool:
    return type(value) is int and value >= 0


def _is_node(value: Any, n: int) -> bool:
    return type(value) is int and 0 <= value < n


def _is_text(value: Any, n: int) -> bool:
    return isinstance(value, str)


def _are_numbers(value: Any, n: int) -> bool:
    """Return whether all values are numbers, or null for one that was not finite."""
    return isinstance(value, dict) and all(v is None or is_number(v) for v in value.values())


def _are_options(value: Any, n: int) -> bool:
    def is_flat(option: Any) -> bool:
        items = option if isinstance(option, list) else [option]
        return not any(isinstance(item, (list, dict)) for item in items)

    return isinstance(value, dict) and all(map(is_flat, value.values()))


def _nullable(check: Check) -> Check:
    return lambda value, n: value is None or check(value, n)


def _list_of(check: Check) -> Check:
    return lambda value, n: isinstance(value, list) and all(check(item, n) for item in value)


def _dict_with(**checks: Check) -> Check:
    return lambda value, n: (
        isinstance(value, dict) and all(check(value.get(name), n) for name, check in checks.items())
    )


_nodes = _list_of(_is_node)
_refusals = _list_of(_dict_with(reason=_is_text, node=_is_node))

ANY = Type(lambda value, n: True, "")
NUMBER = Type(_is_number, "a number")
NUMBER_OR_NULL = Type(_nullable(_is_number), "a number")
SECONDS = Type(lambda v, n: is_number(v) and abs(v) <= _MOST_SECONDS, "a number of seconds")
BYTES = Type(_is_count, "a number of bytes")
NODES = Type(_nodes, "a list of some of the {n} nodes")
DIGEST = Type(lambda v, n: isinstance(v, str) and bool(_DIGEST.fullmatch(v)), "a SHA-256")
TEXT = Type(_is_text, "text")
TEXT_OR_NULL = Type(_nullable(_is_text), "text")


# -- entries ------------------------------------------------------------------


def _one_cell(value: Any) -> Sequence[Any]:
    return [value]


def _phase_cells(phases: Mapping[str, Any]) -> Sequence[Any]:
    return [phases.get(phase) for phase in PHASES]


def join_nodes(nodes: Iterable[int] | None) -> str:
    """Return the numbers of `nodes` with spaces between; nothing for None."""
    return " ".join(map(str, sorted(nodes or ())))


def _refusal_cells(refused: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Return the nodes of each state, then those whose gradient or attack failed."""
    by_state: dict[int, list[int]] = {}
    for one in refused:
        by_state.setdefault(refusal_state(one["reason"]), []).append(one["node"])
    failed = [one["node"] for one in refused if one["reason"] == Reason.FAILED.value]
    return [*(join_nodes(by_state.get(s)) for s in range(REFUSED, len(STATES))), join_nodes(failed)]


@frozen
class Field:
    """An entry of a file.

    ``meaning`` is Markdown for the reference.  ``when`` says which records have the entry,
    where not all have it; records of the first versions lack entries that are not
    ``required``.
    """

    name: str
    meaning: str
    type: Type = ANY
    unit: str = ""
    when: str = ""
    required: bool = False
    plotted: bool = False  # whether a page draws it as a curve
    metric: tuple[str, str] | None = None  # name and help text of a gauge at /metrics
    columns: tuple[str, ...] = ()  # of the CSV
    cells: Callable[[Any], Sequence[Any]] = _one_cell  # for these columns
    verified: bool = False  # whether `verify` computes it again


def _fields(*fields: Field) -> Mapping[str, Field]:
    return {field.name: field for field in fields}


FILES: Mapping[str, str] = {
    "config.json": "everything that is needed to repeat the run; written at its start",
    "rounds.jsonl": "a line of JSON for each round, written as soon as it is evaluated; the "
    "only file that grows",
    "result.json": "how the run ended; written at its end, however that came",
    "report.html": "the run as a page to look at, in one file; written at its end, and again by "
    "`python -m byzpy_tw report`",
    "checkpoint.{rounds}": "the run's state after that many rounds, in eight digits: "
    "parameters, momentum, what rules and attacks remember, probation.  Written whole, then "
    "renamed; begins with its own SHA-256.  Read with `weights_only=True`: it holds numbers "
    "and words, never code",
    "trainer.log": "what happened, with times; tracebacks of plugins that failed",
    "server-{number}.log": "the output of each server that `--local` started",
    ".lock": "locked by the process that writes here, whose number it holds",
}

CONFIG_FIELDS = _fields(
    Field("config", "every option by its name, with `_` for `-`"),
    Field("bits", "SHA-256 of the options that decide bits: runs that agree in it, "
          "in `versions` and in their membership end with the same parameters"),
    Field("run", "the run's name to servers; random, and the same when it is resumed"),
    Field("dimension", "`d`, the length of the parameters"),
    Field("data_digest", "SHA-256 of the trainer's data"),
    Field("data_digests", "that of each server's data; they differ with "
          "`--partition local` only"),
    Field("trial", "digests of what the trial before round 0 found: `shards`, "
          "`classes` (and shape), `normalisation`, and `gradient` of two examples with its "
          "`loss` and `norms`"),
    Field("versions", "of byzpy_tw, Python, torch, NumPy, the platform and its "
          "instruction set; `probe` is the SHA-256 of a fixed gradient as computed here"),
    Field("plugins", "each distribution that offers plugins, with its version"),
    Field("placement", "which nodes each server was given at the start"),
)  # fmt: skip

_REASONS = ", ".join(reason.value for reason in Reason if reason is not Reason.UNASKED)

# In the order of the CSV's columns.
ROUND_FIELDS = _fields(
    Field("round", "its number, from 0", columns=("round",)),
    Field("seconds", type=SECONDS, unit="seconds", required=True, plotted=True,
          meaning="that it took, evaluation apart", columns=("seconds",),
          metric=("round_seconds", "Time of the last round.")),
    Field("phases", type=Type(_are_numbers, "seconds by phase"), unit="seconds",
          required=True, columns=tuple(f"seconds_{phase}" for phase in PHASES),
          cells=_phase_cells, meaning="by phase: `honest` (until the honest vectors were "
          "there), `byzantine`, `aggregate`, `step`"),
    Field("loss", type=NUMBER_OR_NULL, plotted=True, verified=True, columns=("loss",),
          metric=("loss", "Mean loss of the honest nodes."),
          meaning="mean loss of the accepted honest nodes, each on its own batch"),
    Field("test_loss", type=NUMBER_OR_NULL, plotted=True, verified=True,
          metric=("test_loss", "Loss on the test data."), columns=("test_loss",),
          meaning="on the test data", when="in rounds that were evaluated"),
    Field("accuracy", type=NUMBER, plotted=True, verified=True, columns=("accuracy",),
          metric=("accuracy", "Share of the test data, 0 to 1."),
          meaning="on the test data, from 0 to 1", when="in the same rounds"),
    Field("f", "the budget that the rule was run with", columns=("f",), required=True,
          type=Type(_is_node, "an f of a run of {n} nodes"),
          metric=("budget", "The rule's f in the last round.")),
    Field("aggregate_norm", type=NUMBER_OR_NULL, verified=True,
          columns=("aggregate_norm",), meaning="norm of the aggregate"),
    Field("bytes_sent", type=BYTES, unit="bytes", columns=("bytes_sent",),
          meaning="by the trainer in this round, as tensor frames; 0 in one process"),
    Field("bytes_received", type=BYTES, unit="bytes", columns=("bytes_received",),
          meaning="the same, received"),
    Field("parameters_sha256", type=DIGEST, required=True,
          columns=("parameters_sha256",), meaning="of the parameters after the round's step"),
    Field("selected", type=Type(_nullable(_nodes), NODES.description), required=True,
          verified=True, columns=("selected",), cells=lambda nodes: [join_nodes(nodes)],
          meaning="nodes whose vectors went into the aggregate; null for a rule that does not "
          "choose between rows"),
    Field("excluded", type=NODES, required=True, verified=True, columns=("excluded",),
          cells=lambda nodes: [join_nodes(nodes)],
          meaning="nodes that the rule was given and did not select"),
    Field("refused", required=True,
          type=Type(_refusals, "which of the {n} nodes were refused, and why"),
          columns=(*STATES[REFUSED:], "failed"), cells=_refusal_cells,
          meaning=f"nodes that the rule was not given: `node`, `reason` ({_REASONS}; "
          f"{Reason.UNASKED.value} in result.json alone) and `detail`; all others are the "
          "round's membership"),
    Field("norms", type=Type(_are_numbers, "norms by node"), verified=True,
          meaning="norm of each vector that came whole, by node"),
    Field("foreseen_f", type=Type(_nullable(_is_count), "an f"),
          meaning="the budget that attacks were told of, before Byzantine nodes were asked"),
    Field("bits", type=TEXT,
          meaning="the `bits` of the configuration that the round was made with"),
    Field("options", type=Type(_are_options, "options"),
          meaning="the options that decide bits", when="in the first record with these `bits`"),
    Field("events", type=Type(_list_of(_is_text), "a list of words"),
          when="where something did", meaning="what happened besides, in words: servers lost "
          "and back, nodes moved, probation"),
    Field("placement", when="where there are `events`",
          meaning="which nodes live on each server, as in config.json"),
)  # fmt: skip

RESULT_FIELDS = _fields(
    Field("status", type=TEXT, required=True,
          meaning="finished, paused, interrupted, diverged or failed"),
    Field("error", type=TEXT_OR_NULL, meaning="what ended it early, or null"),
    Field("error_code", type=TEXT_OR_NULL, meaning="the code of that error, or null"),
    Field("rounds", verified=True, meaning="that are on record"),
    Field("final_accuracy", type=NUMBER_OR_NULL, verified=True,
          meaning="of the last evaluation; null where there was none"),
    Field("final_loss", type=NUMBER_OR_NULL, verified=True,
          meaning="likewise, on the test data"),
    Field("worst_accuracy", type=NUMBER_OR_NULL, verified=True,
          meaning="over the last fifth of the evaluations: the best alone would flatter a run "
          "that collapsed"),
    Field("best_accuracy", type=NUMBER_OR_NULL, verified=True, meaning="over all of them"),
    Field("refused", verified=True,
          meaning="for each node that was refused: how often, by reason"),
    Field("attack_failures", verified=True,
          type=Type(_nullable(_dict_with(failed=_is_count, probation=_is_count, of=_is_count,
                                         first=_is_text)), "a count of failed calls"),
          meaning="null where no attack call failed; else `failed` calls `of` so many, "
          "`probation` more that were not waited for because their nodes had failed before, "
          "and the `first` cause: such a run says nothing about its rules, or less than it "
          "seems to"),
    Field("halted", type=Type(_nullable(_dict_with(round=_is_count, refused=_refusals)),
                                 "a round with its refusals"),
          meaning="null, or the round that could not be aggregated: `round`, and `refused` as in "
          "a record; not-asked are Byzantine nodes where no honest vector came that they could "
          "be shown"),
    Field("seconds_a_round", unit="seconds", meaning="mean of the rounds' `seconds`"),
    Field("parameters_sha256", type=TEXT_OR_NULL, verified=True,
          meaning="of the final parameters"),
    Field("seconds", unit="seconds",
          meaning="from start to end, over all processes of a run that was resumed"),
    Field("bytes_sent", unit="bytes", meaning="by the trainer in all, as tensor frames"),
    Field("bytes_received", unit="bytes", meaning="the same, received"),
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
    """Return the record of round `number` of a run of `n` nodes that `line` holds.

    Raises `ValueError` with the cause, in words to follow "line 3".
    """
    try:
        record = decode_json(line)
    except ValueError as e:
        raise ValueError(f"is not JSON: {e}") from e
    if not isinstance(record, dict) or type(record.get("round")) is not int:
        raise ValueError(f"is not the record of round {number}")
    if record["round"] != number:
        raise ValueError(f"is not the record of round {number}")
    error = _find_error(record, ROUND_FIELDS, n)
    if not error and "accuracy" in record and "test_loss" not in record:
        error = "lacks test_loss, of its accuracy"
    if not error and len({refused["node"] for refused in record["refused"]}) == n:
        error = "says that all nodes were refused"
    if error:
        raise ValueError(error)
    return record


def find_result_error(result: Mapping[str, Any]) -> str:
    """Return why `result` cannot be a run's result.json; empty where it can."""
    if not isinstance(result.get("status"), str):
        return "does not say how the run ended (status)"
    return _find_error(result, RESULT_FIELDS, sys.maxsize)
